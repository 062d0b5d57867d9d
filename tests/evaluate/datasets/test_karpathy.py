"""Karpathy's splits of Flickr30k and COCO in miniature."""

from __future__ import annotations

import json

import pytest

from miniature import records_of, write_files
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets import karpathy


def image(name, split, *captions):
    return {"filename": name, "split": split, "sentences": [{"raw": caption} for caption in captions]}


IMAGES = [
    image("1.jpg", "test", "cat", "fox"),
    image("2.jpg", "train", "bee"),
    image("3.jpg", "test", "dog"),
]


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path, {"images/val2014/1.jpg": "cat", "images/3.jpg": "dog"})
    write(tmp_path, IMAGES)
    return tmp_path


def write(folder, images):
    write_files(folder, {"dataset_flickr30k.json": json.dumps({"images": images})})


def test_only_the_test_split_is_used_with_all_captions(folder):
    record = records_of(karpathy.load("flickr30k", folder), folder)["en"]
    assert (record["n"], record["num_texts"]) == (2, 3)
    assert record["metrics"]["text_retrieval_recall@1"] == 1.0
    assert record["metrics"]["image_retrieval_recall@1"] == pytest.approx(2 / 3)
    first = records_of(karpathy.load("flickr30k", folder, "first_caption"), folder)["en"]
    assert (first["num_texts"], first["metrics"]["image_retrieval_recall@1"]) == (2, 1.0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([image("9.jpg", "test", "a")], "lists 1 images that are missing from .*images: 9"),
        ([image("1.jpg", "val", "a")], "no image whose split is 'test'"),
        ([{"filename": "1.jpg", "split": "test"}], "image 0 lacks sentences"),
        ([image("1.jpg", "test")], "image 0: a sentence lacks raw"),
        ([image("1.jpg", "test", " ")], "image 0: a sentence: raw is ' '; it must be a text"),
        ("many", 'has no list "images"'),
    ],
)
def test_invalid_records_are_named(folder, images, message):
    write(folder, images)
    with pytest.raises(UserError, match=message):
        karpathy.load("flickr30k", folder)


def test_missing_and_ambiguous_files_are_named(folder):
    write_files(folder, {"dataset_coco.json": "{}"})
    with pytest.raises(UserError, match=r"holds 2 files dataset_\*\.json"):
        karpathy.load("mine", folder)
    (folder / "dataset_flickr30k.json").unlink()
    with pytest.raises(UserError, match=r"dataset_flickr30k\.json is missing"):
        karpathy.load("flickr30k", folder)


def test_dataset_of_the_catalog_takes_its_own_file_of_the_archive(folder):
    write_files(folder, {"dataset_coco.json": "{}", "dataset_flickr8k.json": "{}"})
    assert karpathy.load("flickr30k", folder).image_keys == ["1", "3"]
