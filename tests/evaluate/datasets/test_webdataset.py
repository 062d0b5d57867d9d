"""CLIP_benchmark's layout in miniature, and each way in which it can be wrong."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from miniature import write_tar
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate import engine
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.datasets import webdataset
from worldclip.evaluate.suites import value
from worlds import WordModel


@pytest.fixture
def folder(tmp_path):
    """Five images of three classes in two tars, two templates, German names beside the English ones."""
    (tmp_path / "classnames.txt").write_text("cat\ndog\nowl\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of/{c}\nart of/{c}\n")
    german = {"classes": ["x/cat", ["x/dog", "y/dog"], "x/owl"], "templates": ["ein/{}"]}
    (tmp_path / "languages.json").write_text(json.dumps({"de": german}))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "nshards.txt").write_text("2\n")
    write_tar(tmp_path / "test/0.tar", {"s0.jpg": b"cat", "s0.cls": b"0", "s1.cls": b"1", "s1.jpg": b"dog"})
    write_tar(
        tmp_path / "test/1.tar",
        {"s2.webp": b"owl", "s2.cls": b"2", "s3.png": b"dog", "s3.cls": b"1\n", "s4.jpg": b"cat", "s4.cls": b"2"},
    )
    return tmp_path


def one_tar(folder, members):
    (folder / "test/nshards.txt").write_text("1\n")
    (folder / "test/1.tar").unlink(missing_ok=True)
    write_tar(folder / "test/0.tar", members)


def evaluate(folder, tmp_path):
    records, _, _ = engine.evaluate(
        WordModel(), {"model": "m"}, [webdataset.load("mini", folder)], [], tmp_path / "results.jsonl"
    )
    return {record["lang"]: record for record in records}


def test_classification_in_every_language_that_has_names(folder, tmp_path):
    found = evaluate(folder, tmp_path)
    assert list(found) == ["en", "de"]
    assert found["en"]["metrics"]["acc1"] == 4 / 5  # s4 says owl and shows a cat
    assert found["en"]["metrics"]["mean_per_class_recall"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert (found["en"]["protocol"]["templates"], found["de"]["protocol"]["templates"]) == (2, 1)
    assert found["de"]["metrics"]["acc1"] == 4 / 5


def test_retrieval_takes_each_line_of_a_txt_as_a_caption(folder, tmp_path):
    (folder / "dataset_type.txt").write_text("retrieval\n")
    one_tar(folder, {"a.jpg": b"cat", "a.txt": b"cat\nelk\n", "b.jpg": b"dog", "b.txt": b"dog"})
    record = evaluate(folder, tmp_path)["en"]
    assert (record["n"], record["num_texts"]) == (2, 3)
    assert record["metrics"]["text_retrieval_recall@1"] == 1.0


def test_digest_depends_on_labels(folder):
    before = webdataset.load("mini", folder).digest
    (folder / "classnames.txt").write_text("cat\ndog\nbird\n")
    assert webdataset.load("mini", folder).digest != before


WRONG = {
    "classnames.txt": (None, "classnames.txt is missing; it must hold the class names"),
    "zeroshot_classification_templates.txt": ("a photo\n", "'a photo' has no place for the class"),
    "test/nshards.txt": ("3\n", r"says 3 tars; 2\.tar are missing"),
    "languages.json": ('{"de": {"classes": ["Katze"]}}', "de has 1 classes; the dataset has 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_files_are_named(folder, name):
    contents, message = WRONG[name]
    (folder / name).unlink() if contents is None else (folder / name).write_text(contents)
    with pytest.raises(UserError, match=message):
        webdataset.load("mini", folder)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("test/nshards.txt", "1", r"says 1 tars; .*test also holds 1\.tar"),
        ("test/nshards.txt", "0", "must be the number of tars, at least 1"),
        ("test/nshards.txt", "many", "says 'many'; it must be the number of tars"),
        ("test/nshards.txt", "", "is empty"),
        ("zeroshot_classification_templates.txt", " \n \n", "has no template"),
        ("languages.json", "[", "is not JSON"),
        ("languages.json", '{"de": {"classes": ["a", 3, "c"]}}', "de names a class 3; a class has a name"),
        ("languages.json", '{"de": {"classes": ["a", "b", "c"], "templates": "{}"}}', "they must be a list of texts"),
        ("languages.json", "[]", r"is \[\]; it must be a JSON object"),
    ],
)
def test_unusable_contents_are_named(folder, name, contents, message):
    (folder / name).write_text(contents)
    with pytest.raises(UserError, match=message):
        webdataset.load("mini", folder)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"s0.jpg": b"cat", "s0.cls": b"3"}, "s0.cls says '3'; it must be a class index, 0 to 2"),
        ({"s0.jpg": b"cat", "s0.cls": b"-1"}, "says '-1'"),
        ({"s0.jpg": b"cat"}, "s0 has no .cls"),
        ({"README.md": b"cat"}, "hold no image"),
        (
            {"s0.jpg": b"cat", "s0.cls": b"0", "s1.cls": b"1"},
            r"holds 1 labels or captions without an image: s1\.cls",
        ),
    ],
)
def test_invalid_samples_are_named(folder, members, message):
    one_tar(folder, members)
    with pytest.raises(UserError, match=message):
        webdataset.load("mini", folder)


def test_truncated_tar_is_an_error(folder):
    tar = folder / "test/0.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(BadShard, match=r"0\.tar: not a readable tar"):
        webdataset.load("mini", folder)


def array(values) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


def test_npy_holds_several_classes_per_image(folder, tmp_path):
    (folder / "dataset_type.txt").write_text("multilabel\n")
    one_tar(folder, {"a.jpg": b"cat", "a.npy": array([1, 0, 1]), "b.jpg": b"dog", "b.npy": array([0, 1, 0])})
    record = evaluate(folder, tmp_path)["en"]
    assert (record["task"], record["n"]) == ("multilabel_classification", 2)
    assert 0.5 < record["metrics"]["mean_average_precision"] <= 1.0
    write_tar(folder / "test/0.tar", {"a.jpg": b"cat", "a.npy": array([1, 0])})
    with pytest.raises(UserError, match=r"a\.npy holds \(2,\) of int64; it must be 3 of 0 and 1"):
        webdataset.load("mini", folder)
    write_tar(folder / "test/0.tar", {"a.jpg": b"cat"})
    with pytest.raises(UserError, match=r"a has no \.npy; it must hold 3 of 0 and 1"):
        webdataset.load("mini", folder)


def test_datacomp_groups_are_parts_and_the_worst_represents_fmow(folder, tmp_path):
    members = {}
    for i, (word, label, region) in enumerate(
        [(b"cat", 0, 0), (b"dog", 1, 0), (b"owl", 2, 1), (b"cat", 2, 1), (b"cat", 1, 5)]
    ):
        members |= {f"{i}.jpg": word, f"{i}.cls": str(label).encode(), f"{i}.npy": array([region, 3, label])}
    one_tar(folder, members)
    records, _, _ = engine.evaluate(
        WordModel(), {"model": "m"}, [webdataset.load("fmow", folder)], ["en"], tmp_path / "results.jsonl"
    )
    assert {name: part["metrics"]["acc1"] for name, part in records[0]["slices"].items()} == {
        "region 0": 1.0, "region 1": 0.5,
    }  # fmt: skip
    assert value(CATALOG["fmow"].metrics[0], records[0]) == 0.5
    members["0.npy"] = array([1])
    write_tar(folder / "test/0.tar", members)
    with pytest.raises(
        UserError, match=r"0\.npy holds \(1,\) of int64; it must be one number for each of region, year, y"
    ):
        webdataset.load("fmow", folder)


def test_imagenet_always_uses_openais_names_and_templates(folder):
    pytest.importorskip("open_clip")
    (folder / "languages.json").unlink()
    task = webdataset.load("imagenet1k", folder).tasks("en")[0]
    assert (len(task.class_names), len(task.templates), task.protocol["names"]) == (1000, 80, "imagenet")


def test_train_split_is_read_only_for_probes(folder):
    (folder / "train").mkdir()
    (folder / "train" / "nshards.txt").write_text("1\n")
    write_tar(folder / "train/0.tar", {"s0.jpg": b"owl", "s0.cls": b"2"})
    assert webdataset.load("mini", folder).is_train is None
    dataset = webdataset.load("mini", folder, with_train=True)
    assert dataset.is_train.tolist() == [False] * 5 + [True]
    assert dataset.labels["class"] == ["0", "1", "2", "1", "2", "2"]
    assert dataset.tasks("en")[0].image_idx.tolist() == [0, 1, 2, 3, 4]
    assert dataset.image_keys[5] == "train/0/s0"


def test_train_split_without_images_is_an_error(folder):
    (folder / "train").mkdir()
    (folder / "train" / "nshards.txt").write_text("1\n")
    write_tar(folder / "train/0.tar", {"README.md": b"moved"})
    with pytest.raises(UserError, match="train: its tars hold no image"):
        webdataset.load("mini", folder, with_train=True)


def test_features_are_cached_by_images_only(folder):
    before = webdataset.load("mini", folder)
    (folder / "classnames.txt").write_text("cat\ndog\nbird\n")
    after = webdataset.load("mini", folder)
    assert (before.images_digest, before.digest != after.digest) == (after.images_digest, True)


def test_unknown_kind_and_missing_captions_are_named(folder):
    (folder / "dataset_type.txt").write_text("segmentation\n")
    with pytest.raises(UserError, match="says 'segmentation'; it must be one of classification, retrieval, multilabel"):
        webdataset.load("mini", folder)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    one_tar(folder, {"a.jpg": b"cat", "a.txt": b"\n"})
    with pytest.raises(UserError, match="its tars hold no caption"):
        webdataset.load("mini", folder)
    write_tar(folder / "test/0.tar", {"a.jpg": b"cat"})
    with pytest.raises(UserError, match=r"a has no \.txt"):
        webdataset.load("mini", folder)
    write_tar(folder / "test/0.tar", {"a.jpg": b"cat", "a.txt": b"\xff"})
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8"):
        webdataset.load("mini", folder)
