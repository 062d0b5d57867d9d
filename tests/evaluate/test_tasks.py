"""Choice among options, and several texts of an image, with the made-up model of words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from worldclip.evaluate.selection import Association, Choice
from worldclip.evaluate.tasks import Classification, MultiLabel, NoneDecoded, Retrieval
from worlds import WordModel, rows_of, vector


def test_choice_averages_over_questions_and_drops_undecodable_images():
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


@pytest.mark.parametrize("num_options", [2, 5])
def test_equal_options_are_never_right_or_the_first_is(num_options):
    images = np.stack([vector("cat"), vector("dog")])
    options = [["cat"] * num_options, ["dog"] * num_options]
    for ties, accuracy in (("against", 0.0), ("first", 0.5)):
        task = Choice(options=options, answer=np.array([0, 1]), image_idx=np.arange(2), ties=ties)
        assert task.score(images, WordModel().encode_text).metrics["accuracy"] == accuracy


def test_captions_of_an_undecodable_image_are_no_candidates():
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


def test_association_chooses_as_many_images_as_are_right():
    images = np.eye(5, dtype=np.float32)
    task = Association(
        cues=["cue", "tied"],
        candidates=[np.arange(5), np.arange(5)],
        is_right=[np.array([1, 1, 0, 0, 0], bool), np.array([1, 0, 0, 0, 0], bool)],
    )
    rows = {"cue": [9, 1, 8, 0, 0], "tied": [1, 1, 0, 0, 0]}  # {0, 2} for {0, 1}; a tie goes against the model
    score = task.score(images, rows_of(rows))
    assert score.metrics["jaccard"] == pytest.approx((1 / 3 + 0) / 2)
    assert score.slices == {"candidates 5-6": {"n": 2, "metrics": {"jaccard": pytest.approx(1 / 6)}}}
    score = dataclasses.replace(task, ties="first").score(images, rows_of(rows))
    assert score.metrics["jaccard"] == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize("dim", [32, 768])
def test_equal_images_and_texts_tie_in_every_task(dim):
    random = np.random.default_rng(0)
    images = random.standard_normal((60, dim)).astype(np.float32)
    images[1::2] = images[::2]
    encode = rows_of(random.standard_normal((9, dim)).astype(np.float32))
    pairs = np.arange(60).reshape(-1, 2)
    every = np.arange(60)
    association = Association(cues=["0"] * 30, candidates=list(pairs), is_right=[np.array([True, False])] * 30)
    assert association.score(images, encode).metrics["jaccard"] == 0.0
    labels = MultiLabel(class_names=[["0"], ["1"]], is_there=np.stack([every % 2 == 0] * 2, 1), image_idx=every)
    assert labels.score(images, encode).metrics["mean_average_precision"] == 0.5
    task = Classification(class_names=[["0"], ["1"]], target=every % 2, image_idx=every)
    assert task.score(images, encode).metrics["roc_auc"] == 0.5
    same = Classification(class_names=[["0"], ["0"], ["1"]], target=every % 2, image_idx=every)
    assert same.score(images, encode).metrics["acc1"] == 0.0


NO_IMAGE = np.full((2, 32), np.nan, np.float32)
ONE = np.zeros(1, np.int64)


@pytest.mark.parametrize(
    "task",
    [
        Classification(class_names=[["0"], ["1"]], target=ONE, image_idx=ONE),
        MultiLabel(class_names=[["0"]], is_there=np.ones((1, 1), bool), image_idx=ONE),
        Retrieval(texts=["0"], pair_image=ONE, pair_text=ONE, image_idx=ONE),
        Choice(options=[["0", "1"]], answer=ONE, image_idx=ONE),
        Association(cues=["0"], candidates=[np.arange(2)], is_right=[np.array([True, False])]),
    ],
    ids=lambda task: task.name,
)
def test_a_task_without_a_decodable_image_is_an_error(task):
    with pytest.raises(NoneDecoded):
        task.score(NO_IMAGE, WordModel().encode_text)


def test_any_of_several_right_classes_counts():
    images = np.eye(3, dtype=np.float32)
    also_right = (np.array([1]), np.array([1]))
    names = [["0"], ["1"], ["2"]]
    task = Classification(class_names=names, target=np.zeros(3, int), image_idx=np.arange(3), also_right=also_right)
    encode = rows_of(np.eye(3))
    assert task.score(images, encode).metrics["acc1"] == pytest.approx(2 / 3)  # only image 2 is wrong
    images[0] = np.nan  # will not decode: positions move
    assert task.score(images, encode).metrics["acc1"] == pytest.approx(1 / 2)


def test_multilabel_precision_is_averaged_over_classes():
    images = np.array([[1, 0], [1, 1], [0, 1]], np.float32)
    task = MultiLabel(class_names=[["0"], ["1"]], is_there=images.astype(bool), image_idx=np.arange(3))
    score = task.score(images, rows_of(np.eye(2)))
    assert score.metrics == {"mean_average_precision": 1.0}
    assert score.chance == {"mean_average_precision": pytest.approx(4 / 6)}


def test_roc_auc_needs_images_of_both_classes():
    images = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)

    def metrics(target):
        task = Classification(class_names=[["0"], ["1"]], target=np.array(target), image_idx=np.arange(3))
        return task.score(images, rows_of(np.eye(2))).metrics

    assert metrics([0, 0, 1])["roc_auc"] == 1.0
    assert metrics([1, 0, 1])["roc_auc"] == 0.5
    assert "roc_auc" not in metrics([0, 0, 0])
