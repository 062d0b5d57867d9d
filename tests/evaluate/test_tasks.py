"""Choice among options, and several texts of an image, with the made-up model of words."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import WordModel, vector

from worldclip.evaluate.selection import Choice
from worldclip.evaluate.tasks import Retrieval


def test_choice_is_a_micro_average_over_questions_and_leaves_out_broken_images():
    images = np.stack([vector("cat"), vector("dog"), np.full(32, np.nan, np.float32)])
    task = Choice(
        options=[["cat", "dog"], ["cow", "dog"], ["cat", "bee"], ["cat", "dog"]],
        answer=np.array([0, 1, 1, 0]),
        image_idx=np.array([0, 1, 0, 2]),
        slices={"farm": np.array([False, True, True, True]), "nowhere": np.zeros(4, bool)},
    )
    score = task.score(images, WordModel().encode_text)
    assert score.n == 3
    assert score.metrics == {"accuracy": pytest.approx(2 / 3)}
    assert score.chance == {"accuracy": 0.5}
    assert score.slices == {"farm": {"n": 2, "metrics": {"accuracy": 0.5}}}


def test_options_that_read_alike_are_never_right():
    task = Choice(options=[["cat", "cat"]], answer=np.array([0]), image_idx=np.array([0]))
    assert task.score(vector("cat")[None], WordModel().encode_text).metrics["accuracy"] == 0.0


def test_captions_of_a_broken_image_are_no_candidates():
    images = np.stack([vector("cat"), np.full(32, np.nan, np.float32), vector("owl")])
    task = Retrieval(
        texts=["cat", "a cat", "dog", "owl"],
        pair_image=np.array([0, 0, 1, 2]),
        pair_text=np.arange(4),
        image_idx=np.arange(3),
    )
    score = task.score(images, WordModel().encode_text)
    assert (score.n, score.more["num_texts"]) == (2, 3)
    assert score.metrics["text_retrieval_recall@1"] == 1.0
    assert score.chance["image_retrieval_recall@1"] == 0.5
