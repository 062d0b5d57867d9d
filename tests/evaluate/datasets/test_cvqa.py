"""CVQA in miniature: English and local, parts by country and language, and each way in which it can be wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from worldclip.core.errors import UserError
from worldclip.evaluate import engine
from worldclip.evaluate.datasets import cvqa
from worlds import DIM, vector

QUESTION = {
    "id": "1", "image": "a.jpg", "lang": "sw", "country": "Kenya",
    "question": "nini?", "options": ["paka", "mbwa", "bundi", "nyuki"],
    "question_en": "what?", "options_en": ["cat", "dog", "owl", "bee"], "answer": 0,
}  # fmt: skip
OTHER = QUESTION | {"id": "2", "image": "b.jpg", "lang": "fil", "country": "Philippines", "answer": 3}


class Reader:
    """Sees the English name in the image, and knows no other language."""

    def encode_image(self, images):
        return np.stack([vector(f"what? {image.decode()}") for image in images])

    def encode_text(self, texts):
        return np.stack([vector(text) if text.startswith("what?") else np.ones(DIM) / DIM**0.5 for text in texts])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"cat")
    (tmp_path / "images" / "b.jpg").write_bytes(b"dog")
    write_questions(tmp_path, [QUESTION, OTHER])
    return tmp_path


def write_questions(folder, questions):
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(question)}\n" for question in questions))


def test_question_and_option_form_one_text_and_parts_are_reported(folder, tmp_path):
    records, _, _ = engine.evaluate(Reader(), {"model": "m"}, [cvqa.load("cvqa", folder)], [], tmp_path / "r.jsonl")
    english, local = records
    assert (english["lang"], english["n"], english["metrics"]) == ("en", 2, {"accuracy": 0.5})
    assert english["slices"]["country Kenya"]["metrics"]["accuracy"] == 1.0
    assert english["slices"]["lang tl"]["metrics"]["accuracy"] == 0.0
    assert (local["lang"], local["metrics"]) == ("local", {"accuracy": 0.0})  # all options alike: against the model
    assert english["chance"] == {"accuracy": 0.25}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": "abcd"}, "options is 'abcd'; it must be a list of texts"),
        ({"question": None}, "question is None; it must be a text"),
        ({"options": ["a", "b"]}, r"questions\.jsonl:1 has 2 options; it must have 4"),
        ({"answer": 4}, "has answer 4"),
        ({"image": "z.jpg"}, "lists 1 images that are missing from .*images: z"),
    ],
)
def test_invalid_questions_are_named(folder, change, message):
    write_questions(folder, [QUESTION | change])
    with pytest.raises(UserError, match=message):
        cvqa.load("cvqa", folder)


def test_missing_field_and_invalid_json_are_named(folder):
    write_questions(folder, [{name: value for name, value in QUESTION.items() if name != "country"}])
    with pytest.raises(UserError, match="lacks country"):
        cvqa.load("cvqa", folder)
    (folder / "questions.jsonl").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        cvqa.load("cvqa", folder)
    (folder / "questions.jsonl").unlink()
    with pytest.raises(UserError, match=r"holds neither data/test-\*\.parquet nor questions\.jsonl"):
        cvqa.load("cvqa", folder)
