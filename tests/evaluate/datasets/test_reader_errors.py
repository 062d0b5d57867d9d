"""Each way in which the files of a layout can be wrong is an error that names the file, what it says and must say.

Files that are missing, empty, no text or of another type, and missing images, in every layout: test_upstream.py.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from upstream import QUESTION, array, choice, config_of, cvqa_row, jsonl, karpathy_image, parquet, write_miniature
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate import datasets

CAPTIONS = "captions.jsonl"
KEY = "0" * 16
FOUND = {"image/key": KEY, "en": {"caption": ["a cat"]}}
UNSAFE = ("../../../evil", "/tmp/evil", "..", "a/b", ".")
XM3600 = [
    ({CAPTIONS: '{"image/key": "k1"'}, r"captions\.jsonl:1 is not JSON"),
    ({CAPTIONS: "[" * 99_999}, r"captions\.jsonl:1 is not JSON"),
    ({CAPTIONS: '{"en": {"caption": ["a"]}}'}, r"captions\.jsonl:1 lacks image/key"),
    ({CAPTIONS: jsonl(FOUND, FOUND)}, f"image/key '{KEY}' occurs twice"),
    ({CAPTIONS: jsonl({"image/key": KEY})}, "has no caption"),
    ({CAPTIONS: jsonl({**FOUND, "en": {"caption": [7]}})}, f"image {KEY} has the en caption 7; it must be a text"),
    ({CAPTIONS: ""}, r"captions\.jsonl is empty"),
    ({CAPTIONS: None}, r"captions\.jsonl is missing"),
    ({"images": None}, "images is missing"),
    *(({CAPTIONS: jsonl({**FOUND, lang: FOUND["en"]})}, "a language must be a plain name") for lang in UNSAFE),
]


def of_karpathy(images: Any) -> dict[str, str]:
    return {"dataset_flickr30k.json": json.dumps({"images": images})}


FLICKR30K = [
    (of_karpathy([karpathy_image("391895.jpg", "val", "a")]), "no image whose split is 'test'"),
    (of_karpathy([{"filename": "391895.jpg", "split": "test"}]), "image 0 lacks sentences"),
    (of_karpathy([karpathy_image("391895.jpg", "test")]), "image 0: a sentence lacks raw"),
    (of_karpathy([karpathy_image("391895.jpg", "test", " ")]), "image 0: a sentence: raw is ' '; it must be a text"),
    (of_karpathy("many"), 'has no list "images"'),
    (of_karpathy([karpathy_image("391895.jpg", "test") | {"sentences": 5}]), "image 0: a sentence is 5; it must be"),
]
ENGLISH = "test_1kcaptions_en.txt"
LIST = "test_image_names.txt"
XTD10 = [
    ({ENGLISH: "cat\n"}, r"has 1 lines, and .*test_image_names\.txt has 2"),
    ({ENGLISH: "cat\n\n"}, r"test_1kcaptions_en\.txt:2 is empty"),
    ({f"more/{ENGLISH}": "a\nb\n"}, "are both captions in en; remove one"),
    ({LIST: 2 * "COCO_val2014_000000391895.jpg\n"}, "image .COCO_val2014_000000391895. occurs twice"),
    ({"filenames.txt": "COCO_1.jpg\n"}, "holds 2 of test_image_names.txt"),
    ({LIST: None}, r"holds 0 of test_image_names\.txt"),
    ({f"test_1kcaptions_{lang}.txt": None for lang in ("en", "de", "jp", "fr")}, "holds no captions; name them"),
]
WIT = "annotations/test_en.jsonl"
CAPTION = "caption_reference_description"
WIT_IGLUE = [
    ({WIT: jsonl({"id": "1"})}, "names no image; it must have one of img_path, image_id, wit_ix"),
    ({WIT: jsonl({"wit_ix": 7, CAPTION: "a"})}, "wit_ix must be the name of an image"),
    ({WIT: jsonl({"wit_ix": "wit-test_0", CAPTION: None})}, "its caption or captions"),
    ({WIT: jsonl({"wit_ix": "../../secret", CAPTION: "a"})}, "images that are missing"),
    ({"annotations/en/test.jsonl": "{}"}, "are both captions in en; remove one"),
    ({"annotations": None}, r"holds neither <lang>/test\.jsonl nor test_<lang>\.jsonl"),
]


def of_pool(**members: bytes) -> dict[str, Any]:
    return {"0.tar": {name.replace("_", "."): data for name, data in members.items()}, "more/1.tar": None}


TWO_TEXTS = json.dumps({"texts": ["a", "b"], "lang_truth": ["en"]}).encode()
POOL = [
    (of_pool(README_md=b"cat"), "hold no image"),
    (of_pool(a_jpg=b"cat", b_txt=b"cat"), r"holds 1 labels or captions without an image: b\.txt"),
    (of_pool(a_jpg=b"cat"), "its tars hold no caption"),
    (of_pool(a_jpg=b"cat", a_json=b"["), r"a\.json is not JSON"),
    (of_pool(a_jpg=b"cat", a_json=TWO_TEXTS), "has 2 texts and 1 of lang_truth"),
    (of_pool(a_jpg=b"cat", a_json=b'{"caption": 5}'), r"0\.tar: a\.json: its caption is 5; it must be a text"),
    (of_pool(a_jpg=b"cat", a_json=b'{"texts": ["a", {}]}'), r"its caption is \['a', \{\}\]"),
    (of_pool(a_jpg=b"cat", a_json=b'{"text": "a", "lang_truth": 5}'), r"a\.json: lang_truth is 5"),
    (of_pool(a_jpg=b"cat", a_json=b'{"text": null}'), "its tars hold no caption"),
    (of_pool(a_jpg=b"cat", a_txt=b"\xff"), r"a\.txt is not UTF-8"),
    ({"0.tar": None, "more/1.tar": None}, "holds no tars"),
]
TEMPLATES = "zeroshot_classification_templates.txt"


def names(lang: Any) -> dict[str, str]:
    return {"languages.json": json.dumps({"de": lang})}


def of_tar(**members: bytes) -> dict[str, Any]:
    return {"test/0.tar": {name.replace("_", "."): data for name, data in members.items()}}


CARS = [
    ({"classnames.txt": None}, r"classnames\.txt is missing; it must hold the class names"),
    ({TEMPLATES: "a photo\n"}, "'a photo' has no place for the class"),
    ({TEMPLATES: " \n \n"}, "has no template"),
    ({"test/nshards.txt": "2\n"}, r"says 2 tars; 1\.tar are missing"),
    ({"test/1.tar": {}}, r"says 1 tars; .*test also holds 1\.tar"),
    ({"test/nshards.txt": "0"}, "must be the number of tars, at least 1"),
    ({"test/nshards.txt": "many"}, "says 'many'; it must be the number of tars"),
    ({"test/nshards.txt": "²"}, "says '²'; it must be the number of tars"),
    ({"languages.json": "["}, "is not JSON"),
    ({"languages.json": "[]"}, r"is \[\]; it must be a JSON object"),
    (names({}), 'de has no "classes"'),
    (names({"classes": ["Katze"]}), "de has 1 classes; the dataset has 6"),
    (names({"classes": ["a", 3, "c", "d", "e", "f"]}), "de names a class 3; a class has a name"),
    (names({"classes": ["a", [], "c", "d", "e", "f"]}), "de has no name for class 1"),
    (names({"classes": [*"abcdef"], "templates": "{}"}), "they must be a list of texts"),
    (names({"classes": [*"abcdef"], "templates": []}), "has no template"),
    (of_tar(a_jpg=b"cat", a_cls=b"6"), r"a\.cls says '6'; it must be a class index, 0 to 5"),
    (of_tar(a_jpg=b"cat", a_cls=b"-1"), "says '-1'"),
    (of_tar(a_jpg=b"cat"), r"a has no \.cls"),
    (of_tar(README_md=b"cat"), "test: its tars hold no image"),
    (of_tar(a_jpg=b"cat", a_cls=b"0", b_cls=b"1"), r"holds 1 labels or captions without an image: b\.cls"),
    ({"train/nshards.txt": "1\n", "train/0.tar": {"README.md": b"moved"}}, "train: its tars hold no image"),
    ({"dataset_type.txt": "segmentation\n"}, "'segmentation'; it must be one of classification, retrieval, multilabel"),
    ({"dataset_type.txt": "retrieval\n", **of_tar(a_jpg=b"cat", a_txt=b"\n")}, "its tars hold no caption"),
    ({"dataset_type.txt": "retrieval\n", **of_tar(a_jpg=b"cat")}, r"a has no \.txt"),
]


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, label=1)
    return file.getvalue()


VOC = [
    (of_tar(a_jpg=b"cat", a_npy=array([1, 0])), r"a\.npy holds \(2,\) of int64; it must be 6 of 0 and 1"),
    (of_tar(a_jpg=b"cat"), r"a has no \.npy; it must hold 6 of 0 and 1"),
    (of_tar(a_jpg=b"cat", a_npy=archive()), r"a\.npy is not an array"),
]
ONE_OF_THREE = of_tar(a_jpg=b"cat", a_cls=b"0", a_npy=array([1]))
FMOW = [(ONE_OF_THREE, r"a\.npy holds \(1,\) of int64; it must be one number for each of region, year, y")]
FOLDERS = [
    ({"classnames.txt": "cat\n"}, "has 1 names; there are 2 folders"),
    ({"empty/note.md": ""}, "empty holds no image"),
    ({"dog": None}, "has 1 folders; it must have one per class"),
]
LABELS = "babel_imagenet-298.json"
PROMPTS = "nllb_dist13b_prompts.json"
IN_ENGLISH = [
    ([[1000], ["cat"]], "EN names class 1000"),
    ([[0, 1], ["cat"]], "EN must be two lists of one length"),
    ("cat", "EN must be two lists of one length"),
    ([["0"], ["cat"]], "EN names class '0'"),
    ([[0, 0], ["cat", "dog"]], "EN names a class twice"),
    ([[0], [" "]], "EN has the label ' '; it must be a text"),
    ([[7], ["nyuki"]], "no language has both a label of an image's class and prompts 'nllb'"),
]
BABEL = [
    *(({LABELS: json.dumps({"EN": labels})}, message) for labels, message in IN_ENGLISH),
    ({"images/0.tar": {"a.jpg": b"cat", "a.cls": b"1000"}}, "says .1000.; it must be a class index, 0 to 999"),
    ({"images/0.tar": {"a.jpg": b"cat", "a.json": b"{}"}}, r"a\.json lacks class_index"),
    ({"images/0.tar": {"a.jpg": b"cat", "a.json": b'{"class_index": "\\u00b2"}'}}, "says '²'; it must be a class"),
    ({"images/0.tar": {"a.jpg": b"cat"}}, r"has neither \.cls nor \.json"),
    ({PROMPTS: '{"EN": "a {}"}'}, "EN is 'a {}'; it must be a list of templates"),
    ({PROMPTS: '{"EN": ["a photo"]}'}, "'a photo' has no place for the class"),
    ({PROMPTS: '{"XX": ["a {}"]}'}, "no language has both a label of an image's class and prompts 'nllb'"),
    ({"images/0.tar": None}, "holds no tars"),
    ({LABELS: None}, "holds no babel_imagenet"),
]
STREET = "images_v2_imagenet_test.csv"
STREET_HEAD = "id,country.name,region.id,income,imageRelPath,imagenet_sysnet_id\n"
PLACE = f"assets/{0:024x}/{0:024x}.jpg"
STREET_ROWS = [
    (f"40,{PLACE},[1000]", "at least one, from 0 to 999"),
    (f"40,{PLACE},[]", "at least one"),
    (f"40,{PLACE},zebra", "it must be a list of class indices"),
    (f"40,{PLACE},5", "imagenet_sysnet_id is '5'"),
    *((f"{income},{PLACE},[1]", f"income is '{income}'; it must be a number") for income in ("rich", "nan", "inf")),
    ("40,../gone.jpg,[1]", r"lists '\.\./gone\.jpg': not a path below"),
]
DOLLAR_STREET = [
    ({STREET: STREET_HEAD}, "has no rows"),
    ({STREET: "id\n1\n"}, r"lacks the columns imageRelPath, imagenet_sysnet_id, region\.id, country\.name, income"),
    *(({STREET: f"{STREET_HEAD}a,Kenya,af,{row}\n"}, message) for row, message in STREET_ROWS),
]
SOLUTION = "recognition_solution_v2.1.csv"
GLDV2 = [
    ({SOLUTION: "id,landmarks\n0a1b,\n"}, "no image with a landmark"),
    ({SOLUTION: "id,landmarks\n0a,7\n"}, "lists 1 images that are missing from .*: 0/a/0a.jpg"),
    ({SOLUTION: "id,landmarks\n0a1b2c3d4e5f6071,99\n"}, "no name for 1 landmarks: 99"),
]


def of_files(question: Any) -> dict[str, str | None]:
    text = question if isinstance(question, str) else jsonl(question)
    return {"data": None, "images/a.jpg": "cat", "questions.jsonl": text}


PUBLISHED = "data/test-00000-of-00001.parquet"
ROW = cvqa_row("6001_0", "cat", "('Swahili', 'Kenya')")
CVQA = [
    (of_files({**QUESTION, "options": "abcd"}), "options is 'abcd'; it must be a list of texts"),
    (of_files({**QUESTION, "question": None}), "question is None; it must be a text"),
    (of_files({**QUESTION, "options": ["a", "b"]}), r"questions\.jsonl:1 has 2 options; it must have 4"),
    (of_files({**QUESTION, "answer": 4}), "has answer 4"),
    (of_files({**QUESTION, "answer": True}), "has answer True"),
    (of_files({**QUESTION, "answer": 1.0}), r"has answer 1\.0"),
    (of_files({**QUESTION, "image": "z.jpg"}), "lists 1 images that are missing from .*images: z"),
    (of_files({name: QUESTION[name] for name in QUESTION if name != "country"}), "lacks country"),
    ({"data": None}, r"holds neither data/test-\*\.parquet nor questions\.jsonl"),
    ({"labels.json": '{"6001_1": 2}'}, r"2 of 3 questions have no answer \(Label is -1\), the first is 6001_0"),
    ({PUBLISHED: parquet({"ID": "1"})}, "lacks the columns Question, Options"),
    ({PUBLISHED: parquet(ROW | {"ID": None})}, "row 0: id is None; it must be a text"),
    ({PUBLISHED: parquet(ROW | {"Question": None})}, "row 0: question is None; it must be a text"),
    ({PUBLISHED: b"PAR1"}, "not a readable Parquet file"),
]
ENGLISH_DATA = "data/eng_Latn"
RIGHT = parquet({"query-id": "query-0", "corpus-id": "image-none"})
RANKED = parquet({"query-id": "query-0", "corpus-ids": ["image-cat_0"]})
MVL_SIB = [
    ({f"{ENGLISH_DATA}/qrels.parquet": RIGHT}, "'query-0'.*do not fit together"),
    ({f"{ENGLISH_DATA}/top_ranked.parquet": RANKED}, "equally many images"),
    ({f"{ENGLISH_DATA}/queries.parquet": parquet({"id": "query-0"})}, "lacks the columns text"),
]
SUGAR_CREPE = [
    ({"add_att.json": "{}"}, r"add_att\.json holds no question"),
    ({"add_att.json": '{"0": 7}'}, "0 is 7; it must be a JSON object with filename, caption, negative_caption"),
    ({"add_att.json": '{"0": {"filename": "1.jpg", "caption": "a"}}'}, "0 lacks negative_caption"),
    ({"add_att.json": json.dumps({"0": choice("1.jpg", "a", 5)})}, "negative_caption is 5; it must be a text"),
    ({"swap_att.json": None}, r"lacks swap_att\.json; the average is over the questions of all kinds"),
]
EXAMPLES = "examples.jsonl"
EXAMPLE = {"image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "cat", "caption_1": "dog"}
WINOGROUND = [
    ({EXAMPLES: "7"}, "1 is 7; it must be a JSON object with image_0, image_1"),
    ({EXAMPLES: '{"image_0": "a"}'}, "1 lacks image_1, caption_0, caption_1"),
    ({EXAMPLES: jsonl({**EXAMPLE, "caption_0": 3})}, "1: caption_0 is 3; it must be a text"),
]
CUES = "winogavil_dataset.csv"
CUE_HEAD = "cue,candidates,associations\n"
WINOGAVIL = [
    ({CUES: f"{CUE_HEAD}cat,cat dog,['cat']\n"}, "candidates is 'cat dog'; it must be a list of image names"),
    ({CUES: f"{CUE_HEAD}cat,5,['cat']\n"}, "candidates is '5'; it must be a list of image names"),
    ({CUES: f"{CUE_HEAD}cat,['cat'],['dog']\n"}, r"associations \['dog'\] are not some of the candidates"),
    ({CUES: f"{CUE_HEAD}cat,{{[1]: 2}},['cat']\n"}, "must be a list of image names"),
    ({CUES: f'{CUE_HEAD}"{"cat" * 99_999}'}, "2 has fewer fields than the header"),
    ({CUES: f"{CUE_HEAD}cat\n"}, "2 has fewer fields than the header"),
]
WRONG = {
    "xm3600": XM3600, "flickr30k": FLICKR30K, "xtd10": XTD10, "wit_iglue": WIT_IGLUE, "pool": POOL, "cars": CARS,
    "voc2007_multilabel": VOC, "fmow": FMOW, "folders": FOLDERS, "babel_imagenet": BABEL,
    "dollar_street": DOLLAR_STREET, "gldv2": GLDV2, "cvqa": CVQA, "mvl_sib": MVL_SIB,
    "sugar_crepe": SUGAR_CREPE, "winoground": WINOGROUND, "winogavil": WINOGAVIL,
}  # fmt: skip


CASES = [
    pytest.param(name, files, message, id=f"{name}-{number}")
    for name, of_layout in WRONG.items()
    for number, (files, message) in enumerate(of_layout)
]


@pytest.mark.parametrize(("name", "files", "message"), CASES)
def test_wrong_files_are_named(name, files, message, tmp_path):
    write_miniature(name, tmp_path, files)
    config = config_of([name], tmp_path, prompts="nllb", also=("linear_probe",))
    with pytest.raises((UserError, BadShard), match=message):
        datasets.load(name, config, tmp_path)
