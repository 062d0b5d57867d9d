"""Layouts of choices in miniature: CVQA, MVL-SIB, SugarCrepe, Winoground and WinoGAViL."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miniature import read, records_of
from upstream import Polyglot, jsonl, parquet, write_miniature
from worldclip.evaluate.datasets import sugar_crepe
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


def test_question_and_option_form_one_text_and_parts_are_reported(tmp_path):
    files = {"questions.jsonl": jsonl(QUESTION, OTHER), "images/a.jpg": "cat", "images/b.jpg": "dog"}
    found = records_of(read("cvqa", tmp_path, files), tmp_path, Reader())
    assert list(found) == ["en", "local"]
    english = found["en"]
    assert (english["n"], english["metrics"], english["chance"]) == (2, {"accuracy": 0.5}, {"accuracy": 0.25})
    assert english["slices"]["country Kenya"]["metrics"]["accuracy"] == 1.0
    assert english["slices"]["lang tl"]["metrics"]["accuracy"] == 0.0
    assert found["local"]["metrics"] == {"accuracy": 0.0}  # all options alike: against the model


def published(number, picture, subset, label):
    return {
        "image": {"bytes": picture, "path": f"{number}.jpg"}, "ID": number, "Subset": subset, "Question": "nini?",
        "Options": QUESTION["options"], "Translated Question": "what?", "Translated Options": QUESTION["options_en"],
        "Label": label,
    }  # fmt: skip


def test_published_questions_share_images_and_answers_come_from_labels_json(tmp_path):
    rows = [
        published("11_0", b"cat", "('Swahili', 'Kenya')", 0),
        published("11_1", b"cat", "('Swahili', 'Kenya')", -1),
        published("12_0", b"bee", "('Egyptian_Arabic', 'Egypt')", 3),
    ]
    second = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows[1:]), second, row_group_size=1)
    files = {"data/test-00000-of-00002.parquet": parquet(rows[0])}
    files |= {"data/test-00001-of-00002.parquet": second.getvalue(), "labels.json": json.dumps({"11_1": 2})}
    dataset = read("cvqa", tmp_path, files)
    assert dataset.image_keys == ["11", "12"]
    assert dataset.read_images(0, 2) == [b"cat", b"bee"]
    task = dataset.tasks("local")[0]
    assert task.options[1][2] == "nini? bundi"
    assert task.answer.tolist() == [0, 2, 3]
    assert task.image_idx.tolist() == [0, 0, 1]
    assert set(task.slices) == {"country Kenya", "country Egypt", "lang sw", "lang arz"}
    assert dataset.tasks("en")[0].options[2][3] == "what? bee"


def test_a_sentence_chooses_among_its_images(tmp_path):
    dataset = read("mvl_sib", write_miniature("mvl_sib", tmp_path))
    assert dataset.read_images(1, 3) == [b"dog", b"owl"]
    records = records_of(dataset, tmp_path, Polyglot())
    assert {lang: record["metrics"]["accuracy"] for lang, record in records.items()} == {"en": 1.0, "sw": 1.0}
    english = records["en"]
    assert (english["task"], english["chance"], english["n"]) == ("image_choice", {"accuracy": 0.25}, 2)


def choice(filename, caption, negative):
    return {"filename": filename, "caption": caption, "negative_caption": negative}


def test_sugar_crepe_chooses_a_caption_and_reports_each_kind(tmp_path):
    questions = {kind: {"0": choice("1.jpg", "cat", "dog")} for kind in sugar_crepe.KINDS}
    questions["add_att"]["7"] = choice("2.jpg", "dog", "owl")
    questions["swap_obj"] = {"0": choice("1.jpg", "dog", "cat")}
    files = {f"{kind}.json": json.dumps(of_kind) for kind, of_kind in questions.items()}
    files |= {"images/1.jpg": "cat", "images/2.jpg": "dog"}
    record = records_of(read("sugar_crepe", tmp_path, files), tmp_path)["en"]
    assert (record["n"], record["metrics"]) == (8, {"accuracy": pytest.approx(7 / 8)})
    assert record["slices"]["add_att"] == {"n": 2, "metrics": {"accuracy": 1.0}}
    assert record["slices"]["swap_obj"]["metrics"]["accuracy"] == 0.0
    assert record["chance"] == {"accuracy": 0.5}


def test_winoground_matches_in_both_directions(tmp_path):
    images = {"image_0": "ex_0_img_0", "image_1": "ex_0_img_1"}
    right = {**images, "caption_0": "cat", "caption_1": "dog", "collapsed_tag": "Object"}
    wrong = {**images, "caption_0": "dog", "caption_1": "cat", "collapsed_tag": "Relation"}
    files = {"examples.jsonl": jsonl(right, wrong), "images/ex_0_img_0.png": "cat", "images/ex_0_img_1.png": "dog"}
    record = records_of(read("winoground", tmp_path, files), tmp_path)["en"]
    assert (record["n"], record["metrics"]) == (2, {"text_acc": 0.5, "image_acc": 0.5, "acc": 0.5})
    assert record["slices"]["Object"]["metrics"]["acc"] == 1.0


def test_winogavil_chooses_as_many_images_as_are_right(tmp_path):
    rows = "Cat,\"['cat', 'dog', 'bee']\",\"['cat']\"\ndog,\"['cat', 'dog']\",\"['cat']\"\n"
    files = {f"images/{name}.jpg": f"A {name}" for name in ("cat", "dog", "bee")}
    files["winogavil_dataset.csv"] = f"cue,candidates,associations\n{rows}"
    record = records_of(read("winogavil", tmp_path, files), tmp_path)["en"]
    assert record["metrics"] == {"jaccard": 0.5}  # `A cat` finds its image, `A dog` another than the association
    assert record["slices"] == {"candidates 5-6": {"n": 2, "metrics": {"jaccard": 0.5}}}
