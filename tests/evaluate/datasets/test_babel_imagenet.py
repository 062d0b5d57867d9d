"""Babel-ImageNet in miniature and, where the folder of real data is, on its 300 images and 298 languages."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from miniature import write_tar
from worldclip.core.errors import UserError
from worldclip.evaluate import datasets, engine
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import babel_imagenet
from worlds import WordModel

LABELS = {
    "EN": [[0, 1, 5], ["cat", "dog", "owl"]],
    "ZH_YUE": [[0, 5], ["x/cat", "x/owl"]],
    "DE": [[0, 1], ["y/dog", "y/dog"]],
    "SW": [[7], ["bee"]],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "babel_imagenet.json").write_text(json.dumps(LABELS))
    (tmp_path / "nllb_dist13b_prompts.json").write_text(json.dumps({"EN": ["a/{}", "my/{}"]}))
    members = {"n1.jpg": b"cat", "n1.cls": b"0", "n2.jpg": b"owl", "n2.json": b'{"class_index": 5}'}
    write_tar(tmp_path / "images/0.tar", members | {"n3.jpg": b"dog", "n3.cls": b"1"})
    return tmp_path


def evaluate(dataset, tmp_path):
    records, _, _ = engine.evaluate(WordModel(), {"model": "m"}, [dataset], [], tmp_path / "results.jsonl")
    return {record["lang"]: record for record in records}


def test_image_takes_part_where_its_class_has_a_label(folder, tmp_path):
    found = evaluate(babel_imagenet.load("babel", folder), tmp_path)
    assert list(found) == ["en", "zh_yue", "de"]  # no image of a class that sw names
    assert [(r["n"], r["num_classes"], r["metrics"]["acc1"]) for r in found.values()] == [
        (3, 3, 1.0),
        (2, 2, 1.0),
        (2, 1, 1.0),  # equal labels are one class
    ]
    assert found["en"]["protocol"]["prompts"] == "none"


def test_equal_labels_stay_apart_under_the_papers_ties_and_the_first_is_taken(folder, tmp_path):
    config = EvaluateConfig(datasets=("babel",), folders={"babel": f"babel_imagenet:{folder}"}, protocol="paper")
    found = evaluate(datasets.load("babel", config, tmp_path), tmp_path)
    assert {lang: (r["num_classes"], r["metrics"]["acc1"]) for lang, r in found.items()} == {
        "en": (3, 1.0),
        "zh_yue": (2, 1.0),
        "de": (2, 0.5),  # a cat is called a dog: class 0 is the first of both
    }
    assert (found["de"]["protocol"]["ties"], found["de"]["protocol"]["equal_labels"]) == ("first", "apart")
    ours = dataclasses.replace(config, protocol="auto")
    found = evaluate(datasets.load("babel", ours, tmp_path), tmp_path)
    assert (found["de"]["protocol"]["ties"], found["de"]["metrics"]["acc1"]) == ("against", 1.0)


def test_only_languages_with_prompts_take_part(folder, tmp_path):
    found = evaluate(babel_imagenet.load("babel", folder, "nllb"), tmp_path)
    assert list(found) == ["en"]
    assert (found["en"]["protocol"]["prompts"], found["en"]["protocol"]["templates"]) == ("nllb", 2)


def test_english_prompts_are_openais_80(folder):
    pytest.importorskip("open_clip")
    task = babel_imagenet.load("babel", folder, "english").tasks("zh_yue")[0]
    assert len(task.templates) == 80
    assert "a bad photo of a {}." in task.templates


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"EN": [[1000], ["cat"]]}, "EN names class 1000"),
        ({"EN": [[0, 1], ["cat"]]}, "EN must be two lists of one length"),
        ({"EN": "cat"}, "EN must be two lists of one length"),
        ({"EN": [["0"], ["cat"]]}, "EN names class '0'"),
        ({"EN": [[0, 0], ["cat", "dog"]]}, "EN names a class twice"),
        ({"EN": [[0], [" "]]}, "EN has the label ' '; it must be a text"),
        ({"SW": [[7], ["nyuki"]]}, "no language has both a label of an image's class and prompts 'none'"),
    ],
)
def test_invalid_labels_are_named(folder, labels, message):
    (folder / "babel_imagenet.json").write_text(json.dumps(labels))
    with pytest.raises(UserError, match=message):
        babel_imagenet.load("babel", folder)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"cat", "a.cls": b"1000"}, "has class '1000'"),
        ({"a.jpg": b"cat", "a.json": b"{}"}, r"a\.json lacks class_index"),
        ({"a.jpg": b"cat", "a.json": b"{"}, r"a\.json is not JSON"),
        ({"a.jpg": b"cat"}, r"has neither \.cls nor \.json"),
    ],
)
def test_invalid_images_are_named(folder, members, message):
    write_tar(folder / "images/0.tar", members)
    with pytest.raises(UserError, match=message):
        babel_imagenet.load("babel", folder)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"EN": "a {}"}, "EN is 'a {}'; it must be a list of templates"),
        ({"EN": ["a photo"]}, "'a photo' has no place for the class"),
        ({"XX": ["a {}"]}, "no language has both a label of an image's class and prompts 'nllb'"),
    ],
)
def test_invalid_prompts_are_named(folder, prompts, message):
    (folder / "nllb_dist13b_prompts.json").write_text(json.dumps(prompts))
    with pytest.raises(UserError, match=message):
        babel_imagenet.load("babel", folder, "nllb")


def test_missing_parts_are_named(folder):
    (folder / "images/0.tar").unlink()
    with pytest.raises(UserError, match="holds no tars"):
        babel_imagenet.load("babel", folder)
    (folder / "babel_imagenet.json").unlink()
    with pytest.raises(UserError, match="holds no babel_imagenet"):
        babel_imagenet.load("babel", folder)


def test_published_files_give_298_languages_over_300_images(shared):
    tars = sorted((shared / "data/imagenet_samples").glob("*.tar"))
    dataset = babel_imagenet.load("babel", shared / "data/babel_imagenet", tars=tars)
    assert len(dataset.image_keys) == 300
    assert 280 < len(dataset.languages) <= 298
    task = dataset.tasks("de")[0]
    english = dataset.tasks("en")[0]
    assert len(english.image_idx) == 300
    assert 0 < len(task.image_idx) < 300
    assert np.all(task.target < len(task.class_names))
    assert dataset.read_images(0, 2)[0][:2] == b"\xff\xd8"
