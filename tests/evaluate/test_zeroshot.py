"""Accuracy, mean per class recall and class embeddings: on paper, and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldclip.evaluate import zeroshot
from worlds import rows_of


def test_accuracy_of_a_worked_example():
    images = np.eye(3, dtype=np.float32)
    classes = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], np.float32)  # image 2 is taken for class 1
    found = zeroshot.classification_ranks(images, classes, np.array([0, 1, 2]))
    assert found.tolist() == [0, 0, 2]  # class 0 ties with class 2 for image 2: against the model
    assert zeroshot.accuracies(found, num_classes=3) == {"acc1": pytest.approx(2 / 3)}


def test_of_equal_classes_the_first_or_a_wrong_one_is_predicted():
    images = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    classes = np.array([[0, 1], [1, 0], [1, 0]], np.float32)
    target = np.array([1, 2, 0])
    assert zeroshot.predictions(images, classes, target, "first").tolist() == [1, 1, 0]
    assert zeroshot.predictions(images, classes, target, "against").tolist() == [2, 1, 0]
    assert zeroshot.classification_ranks(images, classes, target, ties="first").tolist() == [0, 1, 0]


def test_equal_names_give_equal_class_embeddings_at_any_position():
    random = np.random.default_rng(0)
    rows = {word: random.standard_normal(768).astype(np.float32) for word in "abcde"}
    names = [[word, "e"] for word in "abcdabcddcba"]
    found = zeroshot.class_embeddings(names, ["{}", "{}"], rows_of(rows))
    first, _ = np.unique([name for name, _ in names], return_index=True)
    assert len(np.unique(found, axis=0)) == len(first) == 4


def test_top_5_needs_more_than_five_classes():
    assert zeroshot.accuracies(np.array([0, 4, 5]), 6) == {"acc1": pytest.approx(1 / 3), "acc5": pytest.approx(2 / 3)}
    assert zeroshot.chance(3944) == {"acc1": 1 / 3944, "acc5": 5 / 3944}
    assert zeroshot.chance(5) == {"acc1": 0.2}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_mean_per_class_recall_agrees_with_a_plain_loop(images):
    targets, found = np.array(images).T
    recalls = []
    for label in sorted(set(targets.tolist())):
        of_class = [rank == 0 for target, rank in zip(targets, found, strict=True) if target == label]
        recalls.append(sum(of_class) / len(of_class))
    assert zeroshot.mean_per_class_recall(found, targets) == pytest.approx(sum(recalls) / len(recalls))


def test_class_embedding_is_the_normalised_mean_over_templates_and_synonyms():
    dogs = {"a dog": (1, 0), "my dog": (1, 0), "a hound": (0, 1), "my hound": (1, 0)}
    encode = rows_of({"a cat": (1, 0), "my cat": (0, 1), **dogs})
    found = zeroshot.class_embeddings([["cat"], ["dog", "hound"]], ["a {}", "my {}"], encode)
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], np.array([3, 1]) / 10**0.5], rtol=1e-6)
    assert found.dtype == np.float32


def test_class_without_a_name_is_an_error():
    with pytest.raises(ValueError, match="class 1 has no name"):
        zeroshot.class_embeddings([["cat"], []], ["{}"], lambda texts: np.ones((len(texts), 2)))


def test_braces_in_a_name_are_literal():
    seen: list[str] = []

    def encode(texts):
        seen.extend(texts)
        return np.ones((len(texts), 2))

    zeroshot.class_embeddings([["{0} {x}"]], ["a {}"], encode)
    assert seen == ["a {0} {x}"]
