"""A folder that is laid out in another way is one error that names dataset, folder, layout and cause.

Here are the mistakes that would give wrong numbers if nobody looked, and one folder of each other kind of cause.
Files that are missing, empty, no text or of another type, and missing images, in every layout: test_upstream.py.
"""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from upstream import array, config_of, cvqa_row, jsonl, parquet, write_miniature
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate import datasets

KEY = "0" * 16
FOUND = {"image/key": KEY, "en": {"caption": ["a cat"]}}
UNSAFE = ("../../../evil", "/tmp/evil", "..", "a/b", ".")
ENGLISH = "test_1kcaptions_en.txt"
LIST = "test_image_names.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
STREET = "images_v2_imagenet_test.csv"
STREET_HEAD = "id,country.name,region.id,income,imageRelPath,imagenet_sysnet_id\n"
PLACE = f"assets/{0:024x}/{0:024x}.jpg"
LABELS = "babel_imagenet-298.json"
ROW = cvqa_row("6001_0", "cat", "('Swahili', 'Kenya')")


def of_tar(**members: bytes) -> dict:
    return {"test/0.tar": {name.replace("_", "."): data for name, data in members.items()}}


def of_pool(**members: bytes) -> dict:
    return {"0.tar": {name.replace("_", "."): data for name, data in members.items()}, "more/1.tar": None}


def street(income: str, path: str, classes: str) -> dict:
    return {STREET: f"{STREET_HEAD}a,Kenya,af,{income},{path},{classes}\n"}


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, label=1)
    return file.getvalue()


WRONG = {
    "xm3600": [
        ({"captions.jsonl": '{"image/key": "k1"'}, r"captions\.jsonl:1 is not JSON"),
        ({"captions.jsonl": "[" * 99_999}, r"captions\.jsonl:1 is not JSON"),
        ({"captions.jsonl": jsonl(FOUND, FOUND)}, f"'{KEY}' occurs twice"),
        ({"captions.jsonl": jsonl({"image/key": KEY})}, "there is no caption"),
        *(
            ({"captions.jsonl": jsonl({**FOUND, lang: FOUND["en"]})}, "a language must be a plain name")
            for lang in UNSAFE
        ),
    ],
    "xtd10": [
        ({ENGLISH: "cat\n"}, "has 1 lines; it must have a caption for each of the 2 images"),
        ({ENGLISH: "cat\n\n"}, "must have a caption for each"),
        ({f"more/{ENGLISH}": "a\nb\n"}, "are both captions in en; remove one"),
        ({LIST: 2 * "COCO_val2014_000000391895.jpg\n"}, "'COCO_val2014_000000391895' occurs twice"),
        ({"filenames.txt": "COCO_1.jpg\n"}, "not in the layout lines"),
    ],
    "pool": [
        (of_pool(a_jpg=b"cat", b_txt=b"cat"), r"holds 1 labels or captions without an image: b\.txt"),
        (of_pool(a_jpg=b"cat"), "there is no caption"),
        (of_pool(a_jpg=b"cat", a_json=b'{"texts": ["a", "b"], "lang_truth": ["en"]}'), "not in the layout pool"),
        (of_pool(a_jpg=b"cat", a_json=b'{"caption": 5}'), "not in the layout pool"),
        ({"0.tar": None, "more/1.tar": None}, "there is no caption"),
    ],
    "cars": [
        ({TEMPLATES: "a photo\n"}, "each template must have"),
        ({TEMPLATES: " \n \n"}, "each template must have"),
        ({"test/nshards.txt": "2\n"}, "says 2 tars"),
        ({"test/nshards.txt": "1000000000000"}, "says 1000000000000 tars"),
        ({"test/1.tar": {}}, r"says 1 tars, .*test has 2"),
        ({"test/nshards.txt": "many"}, "not in the layout webdataset"),
        ({"languages.json": json.dumps({"de": {"classes": ["Katze"]}})}, "de must name each of the 6 classes"),
        ({"languages.json": json.dumps({"de": {"classes": ["a", [], *"cdef"]}})}, "de must name each of the 6 classes"),
        (of_tar(a_jpg=b"cat", a_cls=b"6"), "class 6 is not 0 to 5"),
        (of_tar(a_jpg=b"cat", a_cls=b"-1"), "class -1 is not 0 to 5"),
        (of_tar(README_md=b"cat"), "its tars hold no image"),
        ({"dataset_type.txt": "segmentation\n"}, "'segmentation'; it must be one of"),
        ({"dataset_type.txt": "retrieval\n", **of_tar(a_jpg=b"cat", a_txt=b"\n")}, "there is no caption"),
    ],
    "voc2007_multilabel": [
        (of_tar(a_jpg=b"cat", a_npy=array([1, 0])), "not in the layout webdataset"),
        (of_tar(a_jpg=b"cat", a_npy=array([2] * 6)), "must hold 0 or 1 for each class"),
        (of_tar(a_jpg=b"cat", a_npy=archive()), "not in the layout webdataset"),
    ],
    "folders": [
        ({"classnames.txt": "cat\n"}, "has 1 names; there are 2 folders"),
        ({"empty/note.md": ""}, "empty holds no image"),
        ({"dog": None}, "has 1 folders; it must have one per class"),
    ],
    "babel_imagenet": [
        ({LABELS: json.dumps({"EN": [[1000], ["cat"]]})}, "EN: class 1000 is not 0 to 999"),
        ({LABELS: json.dumps({"EN": [[-1], ["cat"]]})}, "EN: class -1 is not 0 to 999"),
        ({LABELS: json.dumps({"EN": [[0, 1], ["cat"]]})}, "EN must have one label for each class"),
        ({LABELS: json.dumps({"EN": [[0, 0], ["cat", "dog"]]})}, "EN must have one label for each class"),
        ({LABELS: json.dumps({"EN": [[7], ["nyuki"]]})}, "no language has both a label of an image's class"),
        ({"images/0.tar": {"a.jpg": b"cat", "a.cls": b"1000"}}, "class 1000 is not 0 to 999"),
        ({"nllb_dist13b_prompts.json": '{"EN": ["a photo"]}'}, "each template must have"),
    ],
    "dollar_street": [
        (street("40", PLACE, "[1000]"), "class 1000 is not 0 to 999"),
        (street("40", PLACE, "[]"), "not in the layout dollar_street"),
        (street("nan", PLACE, "[1]"), "each income must be a number"),
        (street("40", "../gone.jpg", "[1]"), r"lists '\.\./gone\.jpg': not a path below"),
    ],
    "cvqa": [
        ({"labels.json": '{"6001_1": 2}'}, r"2 of 3 questions have no answer \(Label is -1\), the first is 6001_0"),
        ({"labels.json": '{"6001_0": 4, "6001_1": 1, "7001_0": 0}'}, "class 4 is not 0 to 3"),
        ({"data/test-00000-of-00001.parquet": parquet(ROW | {"Question": None, "Label": 0})}, "must have a text and 4"),
        ({"data/test-00000-of-00001.parquet": parquet(ROW | {"Options": ["a"], "Label": 0})}, "must have a text and 4"),
        ({"data/test-00000-of-00001.parquet": b"PAR1"}, "not in the layout cvqa"),
    ],
    "winogavil": [
        (
            {"winogavil_dataset.csv": "cue,candidates,associations\ncat,['cat'],['dog']\n"},
            r"associations \['dog'\] are not some of the candidates",
        ),
        ({"winogavil_dataset.csv": "cue,candidates,associations\ncat\n"}, "not in the layout winogavil"),
    ],
}
CASES = [
    pytest.param(name, files, message, id=f"{name}-{number}")
    for name, of_layout in WRONG.items()
    for number, (files, message) in enumerate(of_layout)
]


@pytest.mark.parametrize(("name", "files", "message"), CASES)
def test_wrong_folders_are_named(name, files, message, tmp_path):
    write_miniature(name, tmp_path, files)
    with pytest.raises((UserError, BadShard), match=message) as caught:
        datasets.load(name, config_of([name], tmp_path, prompts="nllb", also=("linear_probe",)), tmp_path)
    assert str(tmp_path / name) in str(caught.value) or "plain name" in message


def test_the_error_shows_the_layout(tmp_path):
    write_miniature("geode", tmp_path, {"index.csv": "file_path\nx.jpg\n"})
    with pytest.raises(UserError, match=r"is not in the layout geode \(KeyError: 'region'\)") as caught:
        datasets.load("geode", config_of(["geode"], tmp_path), tmp_path)
    assert "index.csv   one image per row: file_path, object, region, ip_country" in str(caught.value)
