"""The gallery: chosen by hash, half right and half wrong where there are enough."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pools import encode
from worldclip.evaluate import gallery as gallery_module
from worldclip.evaluate.engine import TextFeatures
from worldclip.evaluate.gallery import gallery
from worldclip.evaluate.image_features import encode_images
from worldclip.report.images import data_uri
from worlds import WordModel, word_dataset


def gallery_of(words, size, languages=("en", "de")):
    dataset = word_dataset("a", words)
    features = encode_images(WordModel(), dataset, 4).features_ND
    features[1::2] = -features[1::2]  # every second image: its own name is the worst
    return gallery(dataset, features, TextFeatures(WordModel(), 8), languages, size)


WORDS = [f"word{i}" for i in range(20)]


@pytest.mark.parametrize(("num_images", "size", "num_right"), [(20, 6, 3), (3, 3, 2)])
def test_half_are_right_and_right_ones_fill_up_where_wrong_ones_are_few(num_images, size, num_right):
    images = gallery_of(WORDS[:num_images], size)
    is_right = [image["names"]["en"]["best"][0]["is_right"] for image in images]
    assert is_right == [True] * num_right + [False] * (size - num_right)
    assert all(image["names"]["de"]["truth"] == f"de/word{image['key'][1:]}" for image in images)
    assert all(len(image["names"]["de"]["best"]) == 5 for image in images)


def test_choice_is_deterministic_and_not_in_order_of_keys():
    first, again = ([image["key"] for image in gallery_of(WORDS, 4)] for _ in range(2))
    assert first == again
    assert first != sorted(first)


def test_undecodable_images_and_missing_languages_are_left_out():
    images = gallery_of(["broken", "cat", "dog", "broken", "owl"], 5, languages=("en", "sw"))
    assert {image["key"] for image in images} == {"a1", "a2", "a4"}
    assert all(list(image["names"]) == ["en"] for image in images)
    assert np.all([image["image"].startswith("data:image/") for image in images])


def test_size_0_gives_no_gallery():
    assert gallery_of(["cat"], 0) == []


def test_large_images_are_shrunk_and_datasets_with_many_texts_have_no_gallery(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (300, 200, 3), np.uint8)
    kind, _, content = data_uri(encode(Image.fromarray(noise))).partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (128, 192)
    assert data_uri(b"\x89PNG small") == "data:image/png;base64," + base64.b64encode(b"\x89PNG small").decode()
    monkeypatch.setattr(gallery_module, "MAX_TEXTS", 22)
    assert gallery_of(["cat", "dog"], 2), "22 names per language"
    assert gallery_of(["cat", "dog", "owl"], 2) == []
