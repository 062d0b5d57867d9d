"""Every dataset of the catalog, in its source's layout and as it is fetched, gives its metrics; errors name folders."""

import csv
import gzip
import json
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

from miniature import write_files
from programs import python
from served import Server, server
from tars import tar_of, zip_of
from upstream import Polyglot, array, config_of, cvqa_row, files_of, is_image, jsonl, parquet, write_miniature
from worldclip.cli import main
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate import datasets, engine, suites
from worldclip.evaluate.catalog import CATALOG
from worldclip.tools.fetch_dataset import fetch_dataset, names_to_fetch

__all__ = ["server"]  # a fixture
NOT_IN_CATALOG = ("folders", "pool", "names")


def uses_imagenet(name):
    return name in CATALOG and CATALOG[name].classes == "imagenet"


def evaluate(names, data, tmp_path, **values):
    config = config_of(names, data, **values)
    assert config.problems() == []
    loaded = [datasets.load(name, config, tmp_path) for name in names]
    records, _, _ = engine.evaluate(
        Polyglot(), {"model": "m", "model_digest": "m"}, loaded, [], tmp_path / "results.jsonl"
    )
    return records


@pytest.mark.parametrize("name", CATALOG)
def test_dataset_in_its_source_layout_gives_its_catalog_metrics(name, tmp_path):
    info = CATALOG[name]
    if uses_imagenet(name):
        pytest.importorskip("open_clip")
    write_miniature(name, tmp_path)
    records = evaluate([name], tmp_path, tmp_path)
    rows = [suites.dataset_row(name, metric, records) for metric in info.metrics]
    assert [row.value for row in rows] == [pytest.approx(1.0)] * len(info.metrics), records
    languages = {record["lang"] for record in records}
    assert ("en" in languages, len(languages) > 1) == (True, info.languages != "1")
    assert all(np.isfinite(list(record["metrics"].values())).all() for record in records)


ONE_OF_EACH = (
    "cars", "voc2007_multilabel", "fmow", "mscoco", "winogavil", "babel_imagenet", "xm3600", "cvqa", "multi30k",
    "dollar_street", "geode", "gldv2", *NOT_IN_CATALOG,
)  # fmt: skip


def test_cvqa_is_a_micro_average_and_reported_by_country_and_language(tmp_path):
    labels = write_miniature("cvqa", tmp_path) / "labels.json"
    labels.write_text(json.dumps({"6001_0": 2, "6001_1": 1, "7001_0": 3}))  # the first answer is no longer the cat
    english, local = evaluate(["cvqa"], tmp_path, tmp_path)
    assert english["metrics"]["accuracy"] == local["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert {name: (part["n"], part["metrics"]["accuracy"]) for name, part in local["slices"].items()} == {
        "country Kenya": (2, 0.5), "country Japan": (1, 1.0), "lang sw": (2, 0.5), "lang ja": (1, 1.0),
    }  # fmt: skip


def test_catalog_says_where_each_dataset_comes_from(capsys):
    assert all(info.source and info.address and info.licence for info in CATALOG.values())
    assert all(info.by_hand for name, info in CATALOG.items() if name not in names_to_fetch())
    for name, info in CATALOG.items():
        assert main(["fetch", "dataset", name, "--show"]) == 0
        shown = capsys.readouterr().out
        for fact in (info.title, info.licence, info.address, *info.metrics, *info.fields, info.by_hand):
            assert fact in shown
        assert "FOLDER" in shown


PRINT_DIGESTS = """
import json, sys
from pathlib import Path
from worldclip.evaluate import datasets
from worldclip.evaluate.config import EvaluateConfig
data, names, folders = json.loads(sys.argv[1])
config = EvaluateConfig(datasets=tuple(names), data=data, folders=folders)
for name in names:
    dataset = datasets.load(name, config, Path(data))
    print(name, dataset.digest, dataset.images_digest)
"""


# Without one, there is a language or a tar fewer.
OPTIONAL = (*(f"test_2016_flickr.{lang}" for lang in ("en", "de", "fr")), "dataset_type.txt", "0.tar", "more/1.tar")
NO_RECORDS = (".txt", ".en", ".de", ".fr")  # a line says anything


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_missing_or_corrupt_file_is_an_error_that_names_it(name, tmp_path):
    if uses_imagenet(name):
        pytest.importorskip("open_clip")
    config = config_of([name], tmp_path, prompts="nllb")
    for path in files_of(name):
        contents = [] if is_image(path) else [b"", b"\xff\xfe\x00\x81"]
        if not is_image(path) and not path.endswith(NO_RECORDS):
            contents.append(b'{"images": [7], "0": 7, "EN": [[0], [3]], "image/key": 5}\n')
        if path not in OPTIONAL and not (is_image(path) and name == "folders"):  # its images are what there is
            contents.append(None)
        for content in contents:
            write_miniature(name, tmp_path, {path: content})
            with pytest.raises((UserError, BadShard)) as caught:
                datasets.load(name, config, tmp_path)
            assert str(tmp_path / name) in str(caught.value), (path, content)


def test_digests_of_all_layouts_are_the_same_in_every_process(tmp_path):
    """Python walks a set in an order that each process draws anew."""
    names = [name for name in ONE_OF_EACH if not uses_imagenet(name)]  # dollar_street needs open_clip
    for name in names:
        write_miniature(name, tmp_path)
    arguments = json.dumps([str(tmp_path), names, config_of(names, tmp_path).folders])
    printed = [python("-c", PRINT_DIGESTS, arguments, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    assert len(printed[0].splitlines()) == len(names)
    assert printed[0] == printed[1]


# --- fetched from the addresses of the authors
with open(Path(suites.__file__).with_name("sources.csv"), encoding="utf-8", newline="") as table:
    SOURCES = list(csv.DictReader(table))


ANY_CAPTIONS = b"one\ntwo\n"


def packed(name: str, files: dict[str, bytes]) -> bytes:
    """An archive by the ending of its name."""
    if name.endswith(".zip"):
        return zip_of(files)
    if name.endswith(".gz"):
        return gzip.compress(files.get(name.removesuffix(".gz"), ANY_CAPTIONS))
    return tar_of(files, "w:gz" if name.endswith(".tgz") else "w")


def serve(server: Server, name: str) -> None:
    """The miniature's files at the addresses of sources.csv; captions in further languages are all alike."""
    files = {path: text.encode() for path, text in files_of(name).items() if isinstance(text, str)}
    rows = [row for row in SOURCES if row["dataset"] == name]
    plain = {row["path"] for row in rows if not row["unpack"]}
    other_language = next((files[path] for path in files if path.endswith(".jsonl")), ANY_CAPTIONS)
    for row in rows:
        if row["unpack"] == "":
            contents = files.get(row["path"], other_language)
        elif row["unpack"] == ".":
            others = [path for path in files if path not in plain and not is_image(path)]
            contents = packed(row["path"], {path: files[path] for path in others})
        else:
            below = [path for path in files if path.startswith(f"{row['unpack']}/")]
            contents = packed(row["path"], {path.partition("/")[2]: files[path] for path in below})
        url = urllib.parse.urlsplit(row["url"])
        server.files[f"/{url.netloc}{url.path}"] = contents


def test_command_names_what_must_be_fetched_by_hand(server, tmp_path, capsys):
    serve(server, "multi30k")
    assert main(["fetch", "dataset", "multi30k", "--out", str(tmp_path), "--mirror", server.url]) == 0
    output = capsys.readouterr()
    assert "multi30k: 5 files" in output.out
    assert "to fetch by hand: images/: Flickr30k's, sent on request" in output.err


@pytest.mark.parametrize(
    "name", [name for name in dict.fromkeys(row["dataset"] for row in SOURCES) if name != "babel_imagenet"]
)
def test_fetched_files_load(name, server, tmp_path):
    serve(server, name)
    counts = fetch_dataset(name, tmp_path, mirror=server.url, pause=lambda seconds: None)
    assert counts["files"] == len([row for row in SOURCES if row["dataset"] == name])
    if CATALOG[name].by_hand.startswith("images/"):
        write_files(tmp_path / name, {path: word for path, word in files_of(name).items() if is_image(path)})
    dataset = datasets.load(name, config_of([name], tmp_path), tmp_path)
    write_miniature(name, tmp_path / "whole")
    whole = datasets.load(name, config_of([name], tmp_path / "whole"), tmp_path)
    assert dataset.image_keys == whole.image_keys
    assert dataset.read_images(0, 2) == whole.read_images(0, 2)
    assert set(dataset.languages) >= set(whole.languages)
    if CATALOG[name].layout == "lines":  # a file of sources.csv for each language, and none mean the same
        assert len(dataset.languages) == int(CATALOG[name].languages)


def tar(**members):
    return {"test/0.tar": {name.replace("_", "."): data for name, data in members.items()}}


def labels(**of_language):
    return {"babel_imagenet-298.json": json.dumps(of_language)}


def street(income, path, classes):
    head = "id,country.name,region.id,income,imageRelPath,imagenet_sysnet_id"
    return {"images_v2_imagenet_test.csv": f"{head}\na,Kenya,af,{income},{path},{classes}\n"}


def questions(**values):
    row = cvqa_row("6001_0", "cat", "('Swahili', 'Kenya')") | {"Label": 0, **values}
    return {"data/test-00000-of-00001.parquet": parquet(row)}


CAPTIONED = {"image/key": "0" * 16, "en": {"caption": ["a cat"]}}
PLACE = f"assets/{0:024x}/{0:024x}.jpg"
# What would give wrong numbers without an error: dataset, files in place of the miniature's, words of the error.
WRONG = [
    ("xm3600", {"captions.jsonl": jsonl(CAPTIONED, CAPTIONED)}, "occurs twice"),
    ("xm3600", {"captions.jsonl": jsonl({**CAPTIONED, "../evil": CAPTIONED["en"]})}, "a language must be a plain name"),
    ("xm3600", {"captions.jsonl": jsonl({**CAPTIONED, "a/b": CAPTIONED["en"]})}, "a language must be a plain name"),
    ("xtd10", {"test_1kcaptions_en.txt": "cat\n"}, "has 1 lines; it must have a caption for each of the 2 images"),
    ("xtd10", {"more/test_1kcaptions_en.txt": "a\nb\n"}, "are both captions in en"),
    ("xtd10", {"test_image_names.txt": 2 * "COCO_val2014_000000391895.jpg\n"}, "occurs twice"),
    ("pool", {"0.tar": {"a.jpg": b"cat", "b.txt": b"cat"}}, r"1 labels or captions without an image: b\.txt"),
    ("pool", {"0.tar": {"a.jpg": b"cat"}, "more/1.tar": None}, "there is no caption"),
    ("cars", {"zeroshot_classification_templates.txt": "a photo\n"}, "each template must have"),
    ("cars", {"test/nshards.txt": "2\n"}, "says 2 tars"),
    ("cars", {"test/1.tar": {}}, r"says 1 tars, .*test has 2"),
    ("cars", {"languages.json": '{"de": {"classes": ["Katze"]}}'}, "de must name each of the 6 classes"),
    ("cars", {"languages.json": '{"de": {"classes": ["a", [], "c", "d", "e", "f"]}}'}, "de must name each"),
    ("cars", tar(a_jpg=b"cat", a_cls=b"6"), "class 6 is not 0 to 5"),
    ("cars", tar(a_jpg=b"cat", a_cls=b"-1"), "class -1 is not 0 to 5"),
    ("cars", {"dataset_type.txt": "segmentation\n"}, "'segmentation'; it must be one of"),
    ("voc2007_multilabel", tar(a_jpg=b"cat", a_npy=array([1, 0])), "not in the layout webdataset"),
    ("voc2007_multilabel", tar(a_jpg=b"cat", a_npy=array([2] * 6)), "must hold 0 or 1 for each class"),
    ("folders", {"classnames.txt": "cat\n"}, "has 1 names; there are 2 folders"),
    ("folders", {"empty/note.md": ""}, "empty holds no image"),
    ("folders", {"dog": None}, "has 1 folders; it must have one per class"),
    ("babel_imagenet", labels(EN=[[1000], ["cat"]]), "EN: class 1000 is not 0 to 999"),
    ("babel_imagenet", labels(EN=[[0, 0], ["cat", "dog"]]), "EN must have one label for each class"),
    ("babel_imagenet", labels(EN=[[7], ["nyuki"]]), "no language has both a label of an image's class"),
    ("babel_imagenet", {"nllb_dist13b_prompts.json": '{"EN": ["a photo"]}'}, "each template must have"),
    ("dollar_street", street("40", PLACE, "[1000]"), "class 1000 is not 0 to 999"),
    (
        "geode",
        {"index.csv": "file_path,object,region,ip_country\n0.jpg,cup\n"},
        "row 1 has 2 fields; the header names 4",
    ),
    ("dollar_street", street("nan", PLACE, "[1]"), "each income must be a number"),
    ("dollar_street", street("40", "../gone.jpg", "[1]"), r"lists '\.\./gone\.jpg': not a path below"),
    ("cvqa", {"labels.json": '{"6001_1": 2}'}, "2 of 3 questions have no answer .*, the first is 6001_0"),
    ("cvqa", {"labels.json": '{"6001_0": 4, "6001_1": 1, "7001_0": 0}'}, "class 4 is not 0 to 3"),
    ("cvqa", questions(Question=None), "must have a text and 4"),
    ("cvqa", questions(Options=["a"]), "must have a text and 4"),
    (
        "winogavil",
        {"winogavil_dataset.csv": "cue,candidates,associations\ncat,['cat'],['dog']\n"},
        r"associations \['dog'\] are not some of the candidates",
    ),
]


@pytest.mark.parametrize(("name", "files", "message"), WRONG)
def test_what_would_give_wrong_numbers_is_named(name, files, message, tmp_path):
    if uses_imagenet(name):
        pytest.importorskip("open_clip")
    write_miniature(name, tmp_path, files)
    with pytest.raises((UserError, BadShard), match=message) as caught:
        datasets.load(name, config_of([name], tmp_path, prompts="nllb", also=("linear_probe",)), tmp_path)
    assert str(tmp_path / name) in str(caught.value) or "plain name" in message
