"""CVQA as published, in miniature: Parquet files whose answers are kept apart."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miniature import write_files
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate.datasets import cvqa


def question(number, image, subset, label):
    options = ["paka", "mbwa", "bundi", "nyuki"]
    return {
        "image": {"bytes": image, "path": f"{number}.jpg"}, "ID": number, "Subset": subset, "Question": "nini?",
        "Options": options, "Translated Question": "what?", "Translated Options": ["cat", "dog", "owl", "bee"],
        "Label": label,
    }  # fmt: skip


QUESTIONS = [
    question("11_0", b"cat", "('Swahili', 'Kenya')", 0),
    question("11_1", b"cat", "('Swahili', 'Kenya')", -1),
    question("12_0", b"bee", "('Egyptian_Arabic', 'Egypt')", 3),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    table = pa.Table.from_pylist(QUESTIONS)
    pq.write_table(table.slice(0, 1), tmp_path / "data/test-00000-of-00002.parquet")
    pq.write_table(table.slice(1), tmp_path / "data/test-00001-of-00002.parquet", row_group_size=1)
    write_files(tmp_path, {"labels.json": json.dumps({"11_1": 2})})
    return tmp_path


def test_questions_share_images_and_answers_come_from_labels_json(folder):
    dataset = cvqa.load("cvqa", folder)
    assert dataset.image_keys == ["11", "12"]
    assert dataset.read_images(0, 2) == [b"cat", b"bee"]
    task = dataset.tasks("local")[0]
    assert task.options[1][2] == "nini? bundi"
    assert task.answer.tolist() == [0, 2, 3]
    assert task.image_idx.tolist() == [0, 0, 1]
    assert set(task.slices) == {"country Kenya", "country Egypt", "lang sw", "lang arz"}
    assert dataset.tasks("en")[0].options[2][3] == "what? bee"


def test_missing_answers_are_counted(folder):
    (folder / "labels.json").unlink()
    with pytest.raises(UserError, match=r"1 of 3 questions have no answer \(Label is -1\), the first is 11_1"):
        cvqa.load("cvqa", folder)


def test_missing_columns_and_corrupt_files_are_named(folder):
    pq.write_table(pa.table({"ID": ["1"]}), folder / "data/test-00000-of-00002.parquet")
    with pytest.raises(UserError, match="lacks the columns Question, Options"):
        cvqa.load("cvqa", folder)
    (folder / "data/test-00000-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadShard, match="not a readable Parquet file"):
        cvqa.load("cvqa", folder)
