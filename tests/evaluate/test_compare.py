"""Two evaluations side by side, with made-up models of which one knows less."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import WordModel, vector, word_dataset

from worldclip.errors import UserError
from worldclip.evaluate import engine
from worldclip.evaluate.compare import compare, markdown, paired_interval

WORDS = [f"word{i}" for i in range(60)]


class Forgetful(WordModel):
    """Sees another word in every third image."""

    def encode_image(self, images):
        return np.stack([vector(f"{word}?" if word[-1] in b"036" else word.decode()) for word in images])


def evaluate(model, folder, words=WORDS):
    engine.evaluate(model, {"model": folder.name}, [word_dataset("a", words)], [], folder / "results.jsonl")
    return folder


def test_a_clear_difference_is_significant_and_none_is_not(tmp_path):
    whole, forgetful = evaluate(WordModel(), tmp_path / "whole"), evaluate(Forgetful(), tmp_path / "forgetful")
    rows = {(row["task"], row["metric"]): row for row in compare(forgetful, whole)}
    top1 = rows["zeroshot_classification", "acc1"]
    assert top1["languages"] == ["en", "de"]
    assert top1["second"] == 1.0
    assert top1["difference"] == pytest.approx(1.0 - top1["first"])
    assert top1["interval_95"][0] < top1["difference"] < top1["interval_95"][1]
    assert top1["is_significant"]
    assert "interval_95" in rows["image_text_retrieval", "text_retrieval_recall@5"]
    same = compare(whole, evaluate(WordModel(), tmp_path / "again"))
    assert all(row["difference"] == 0 for row in same)
    assert not any(row.get("is_significant") for row in same)


def test_the_table_marks_what_is_significant(tmp_path):
    whole, forgetful = evaluate(WordModel(), tmp_path / "whole"), evaluate(Forgetful(), tmp_path / "forgetful")
    table = markdown(compare(forgetful, whole))
    assert "| a | acc1 | 2 |" in table
    assert " * |" in table
    assert table.endswith("Means over: en de.\n")


def test_what_was_measured_on_other_data_is_not_compared(tmp_path):
    first, other = evaluate(WordModel(), tmp_path / "first"), evaluate(WordModel(), tmp_path / "other", WORDS[:9])
    with pytest.raises(UserError, match="no record in common"):
        compare(first, other)
    with pytest.raises(UserError, match=r"results\.jsonl is missing; evaluate first"):
        compare(first, tmp_path / "nothing")


def test_gains_of_the_same_images_are_drawn_together():
    gain = np.array([1, 0, 0, -1, 1, 0, 1, 0] * 10)
    alone = paired_interval([gain])
    np.testing.assert_allclose(paired_interval([gain] * 5), alone)  # five languages that agree tell no more than one
    apart = paired_interval([gain] * 4 + [gain[:-1]])
    assert apart[1] - apart[0] < alone[1] - alone[0]
