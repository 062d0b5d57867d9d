"""Two evaluations side by side, with made-up models of which one knows less."""

from __future__ import annotations

import numpy as np
import pytest

from toy import markdown_rows
from worldclip.core.errors import UserError
from worldclip.evaluate import engine
from worldclip.evaluate.compare import compare, paired_interval
from worldclip.evaluate.tables import comparison_text
from worlds import WordModel, vector, word_dataset

WORDS = [f"word{i}" for i in range(60)]


class Forgetful(WordModel):
    """Sees another word in every third image."""

    def encode_image(self, images):
        return np.stack([vector(f"{word}?" if word[-1] in b"036" else word.decode()) for word in images])


def evaluate(model, folder, words=WORDS):
    engine.evaluate(model, {"model": folder.name}, [word_dataset("a", words)], [], folder / "results.jsonl")
    return folder


def test_clear_difference_is_significant_and_equal_results_are_not(tmp_path):
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


def test_table_marks_significant_differences(tmp_path):
    whole, forgetful = evaluate(WordModel(), tmp_path / "whole"), evaluate(Forgetful(), tmp_path / "forgetful")
    table = comparison_text(compare(forgetful, whole))
    assert ("a", "zeroshot_classification", "acc1", "2") in {row[:4] for row in markdown_rows(table)}
    assert " * |" in table
    assert table.endswith("Means over: en de.\n")


def test_results_on_different_data_are_not_compared(tmp_path):
    first, other = evaluate(WordModel(), tmp_path / "first"), evaluate(WordModel(), tmp_path / "other", WORDS[:9])
    with pytest.raises(UserError, match="no record in common"):
        compare(first, other)
    with pytest.raises(UserError, match=r"results\.jsonl is missing; evaluate first: worldclip evaluate .*nothing$"):
        compare(first, tmp_path / "nothing")


def test_english_and_local_questions_are_compared_separately(tmp_path):
    words = word_dataset("a", WORDS, languages=("en", "local"))
    for name, model in (("whole", WordModel()), ("forgetful", Forgetful())):
        engine.evaluate(model, {"model": name}, [words], [], tmp_path / name / "results.jsonl")
    rows = [row for row in compare(tmp_path / "forgetful", tmp_path / "whole") if row["metric"] == "acc1"]
    assert [row["languages"] for row in rows] == [["en"], ["local"]]
    assert all(row["is_significant"] for row in rows)
    text = comparison_text(rows)
    assert [row[:4] for row in markdown_rows(text)[2:]] == [
        ("a", "zeroshot_classification", "acc1", lang) for lang in ("en", "local")
    ]
    assert "Means over" not in text


GAIN = np.array([1, 0, 0, -1, 1, 0, 1, 0] * 10)


def width(gains):
    low, high = paired_interval(gains)
    return high - low


def test_gains_of_the_same_images_are_drawn_together():
    images = np.arange(80)
    alone = paired_interval([(GAIN, images)])
    np.testing.assert_allclose(paired_interval([(GAIN, images)] * 5), alone)  # five that agree tell no more than one
    apart = [(GAIN, images + 80 * lang) for lang in range(5)]
    assert width(apart) < 0.6 * (alone[1] - alone[0])


def test_captions_of_an_image_are_drawn_together():
    five = np.repeat(GAIN, 5)
    together = paired_interval([(five, np.repeat(np.arange(80), 5))])
    np.testing.assert_allclose(together, paired_interval([(GAIN, np.arange(80))]), atol=0.02)
    assert width([(five, np.arange(400))]) < 0.6 * (together[1] - together[0])


def test_paired_interval_agrees_with_plain_resampling():
    random = np.random.default_rng(1)
    gains = [random.integers(-1, 2, n) for n in (30, 9)]
    images = [random.integers(0, 12, n) for n in (30, 9)]  # the second language lacks some images
    means = []
    for _ in range(2_000):
        drawn = random.integers(0, 12, 12)
        asked = [
            np.concatenate([gain[of_query == image] for image in drawn])
            for gain, of_query in zip(gains, images, strict=True)
        ]
        means.append(np.mean([queries.mean() for queries in asked if len(queries)]))
    found = paired_interval(list(zip(gains, images, strict=True)))
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=0.03)


def test_distances_are_not_shown_in_percent():
    row = {"dataset": "a", "task": "alignment_uniformity", "metric": "alignment", "languages": ["en"], "first": 1.5,
           "second": 1.25, "difference": -0.25}  # fmt: skip
    assert markdown_rows(comparison_text([row]))[-1][4:7] == ("1.500", "1.250", "-0.250")
