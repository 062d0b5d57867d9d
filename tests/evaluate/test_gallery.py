"""The gallery: chosen by hash, half right and half wrong where there are as many."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from worldclip.evaluate import gallery as gallery_module
from worldclip.evaluate.engine import TextFeatures
from worldclip.evaluate.gallery import gallery
from worldclip.evaluate.image_features import encode_images
from worlds import WordModel, word_dataset


def shown(words, size, languages=("en", "de")):
    dataset = word_dataset("a", words)
    features = encode_images(WordModel(), dataset, 4).features_ND
    features[1::2] = -features[1::2]  # every second image: its own name is the worst
    return gallery(dataset, features, TextFeatures(WordModel(), 8), languages, size)


def test_half_are_right_and_half_are_wrong():
    images = shown([f"word{i}" for i in range(20)], 6)
    is_right = [image["names"]["en"]["best"][0]["is_right"] for image in images]
    assert is_right == [True, True, True, False, False, False]
    assert all(image["names"]["de"]["truth"] == f"de/word{image['key'][1:]}" for image in images)
    assert all(len(image["names"]["de"]["best"]) == 5 for image in images)


def test_where_wrong_ones_are_few_right_ones_fill_the_room():
    images = shown([f"word{i}" for i in range(3)], 3)
    assert [image["names"]["en"]["best"][0]["is_right"] for image in images] == [True, True, False]


def test_the_choice_does_not_depend_on_the_order_of_the_images():
    words = [f"word{i}" for i in range(12)]
    first = [image["key"] for image in shown(words, 4)]
    again = [image["key"] for image in shown(words, 4)]
    assert first == again
    assert first != sorted(first)


def test_images_that_will_not_decode_and_languages_that_are_not_there_are_left_out():
    images = shown(["broken", "cat", "dog", "broken", "owl"], 5, languages=("en", "sw"))
    assert {image["key"] for image in images} == {"a1", "a2", "a4"}
    assert all(list(image["names"]) == ["en"] for image in images)
    assert np.all([image["image"].startswith("data:image/") for image in images])


def test_size_nought_shows_nothing():
    assert shown(["cat"], 0) == []


def test_large_images_are_shown_small_and_large_sets_of_texts_not_at_all(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (300, 200, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    small = gallery_module._small(file.getvalue())
    assert Image.open(io.BytesIO(small)).size == (128, 192)
    assert gallery_module._small(b"small") == b"small"
    monkeypatch.setattr(gallery_module, "MAX_TEXTS", 22)
    assert shown(["cat", "dog"], 2)  # 22 names a language
    assert shown(["cat", "dog", "owl"], 2) == []
