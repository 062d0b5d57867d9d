"""Crossmodal-3600's layout in miniature: all captions or the first, and each way in which it can be wrong."""

from __future__ import annotations

import json

import pytest

from worldclip.core.errors import UserError
from worldclip.evaluate import engine
from worldclip.evaluate.datasets import captions
from worlds import WordModel

LINES = [
    {"image/key": "k1", "image/locale": "en", "en": {"caption": ["fox", "cat"]}, "fil": {"caption": ["x/cat"]}},
    {"image/key": "k2", "image/locale": "en", "en": {"caption": ["dog", " "]}, "fil": {"caption": ["x/dog"]}},
    {"image/key": "k3", "image/locale": "en", "en": {"caption": ["owl"]}, "th": {"caption": []}},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name, word in (("k1.jpg", b"cat"), ("k2.png", b"dog"), ("k3.jpg", b"owl")):
        (tmp_path / "images" / name).write_bytes(word)
    write_lines(tmp_path, [json.dumps(line) for line in LINES])
    return tmp_path


def write_lines(folder, lines):
    (folder / "captions.jsonl").write_text("".join(f"{line}\n" for line in lines))


def evaluate(dataset, tmp_path):
    records, _, _ = engine.evaluate(WordModel(), {"model": "m"}, [dataset], [], tmp_path / "results.jsonl")
    return {record["lang"]: record for record in records}


def test_any_caption_counts_and_every_caption_is_a_query(folder, tmp_path):
    found = evaluate(captions.load("xm", folder), tmp_path)
    assert list(found) == ["en", "tl"]  # Filipino by our code; Thai has no caption and is absent
    english = found["en"]
    assert (english["n"], english["num_texts"]) == (3, 4)
    assert english["metrics"]["text_retrieval_recall@1"] == 1.0
    assert english["metrics"]["image_retrieval_recall@1"] == 3 / 4  # fox finds nothing
    assert english["protocol"]["captions"] == "all_captions"


def test_image_without_a_caption_is_a_candidate_and_no_query(folder, tmp_path):
    record = evaluate(captions.load("xm", folder), tmp_path)["tl"]
    assert (record["n"], record["num_texts"]) == (3, 2)
    assert record["chance"]["image_retrieval_recall@1"] == pytest.approx(1 / 3)
    assert record["metrics"]["text_retrieval_recall@1"] == 1.0


@pytest.mark.parametrize("lang", ["../../../evil", "/tmp/evil", "..", "a/b", "."])
def test_a_language_that_names_another_folder_is_refused(folder, tmp_path, lang):
    write_lines(folder, [json.dumps({**line, lang: {"caption": ["x/cat"]}}) for line in LINES])
    with pytest.raises(UserError, match="a language must be a plain name"):
        captions.load("xm", folder)


def test_first_caption_keeps_one_caption_and_is_recorded(folder, tmp_path):
    record = evaluate(captions.load("xm", folder, "first_caption"), tmp_path)["en"]
    assert record["num_texts"] == 3
    assert record["metrics"]["image_retrieval_recall@1"] == 2 / 3
    assert record["protocol"]["captions"] == "first_caption"
    assert captions.load("xm", folder).digest != captions.load("xm", folder, "first_caption").digest


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"image/key": "k9", "en": {"caption": ["a"]}}'], "lists 1 images that are missing from .*images: k9"),
        (['{"image/key": "k1"'], "captions.jsonl:1 is not JSON"),
        (['{"en": {"caption": ["a"]}}'], "captions.jsonl:1 lacks image/key"),
        ([json.dumps(LINES[0]), json.dumps(LINES[0])], "image/key 'k1' occurs twice"),
        (['{"image/key": "k1"}'], "has no caption"),
        (['{"image/key": "k1", "en": {"caption": [7]}}'], "image k1 has the en caption 7; it must be a text"),
        ([], "is empty"),
    ],
)
def test_invalid_lines_are_named(folder, lines, message):
    write_lines(folder, lines)
    with pytest.raises(UserError, match=message):
        captions.load("xm", folder)


def test_missing_files_are_named(folder):
    (folder / "captions.jsonl").unlink()
    with pytest.raises(UserError, match=r"captions\.jsonl is missing"):
        captions.load("xm", folder)
    write_lines(folder, [json.dumps(LINES[0])])
    for image in (folder / "images").iterdir():
        image.unlink()
    (folder / "images").rmdir()
    with pytest.raises(UserError, match="images is missing"):
        captions.load("xm", folder)
