"""Recall both ways: on paper, with several captions an image, and against a plain loop over sorted lists."""

from __future__ import annotations

import numpy as np
import pytest

from worldclip.evaluate import retrieval


def plain_recall(scores, right, k):
    """Share of rows with a right column among the k best, wrong columns first where scores are equal."""
    hits = []
    for row, line in enumerate(scores):
        if not any((row, column) in right for column in range(len(line))):
            continue
        order = sorted(range(len(line)), key=lambda c: (-line[c], (row, c) in right))
        hits.append(any((row, column) in right for column in order[:k]))
    return sum(hits) / len(hits)


@pytest.mark.parametrize("seed", range(5))
def test_recall_agrees_with_sorting_for_tied_scores(seed):
    random = np.random.default_rng(seed)
    images = random.integers(-1, 2, (12, 3)).astype(np.float32)
    texts = random.integers(-1, 2, (30, 3)).astype(np.float32)
    pair_image, pair_text = random.integers(0, 11, 30), np.arange(30)  # image 11 has no caption
    metrics = retrieval.recalls(*retrieval.retrieval_ranks(images, texts, pair_image, pair_text))
    to_image = set(zip(pair_text.tolist(), pair_image.tolist(), strict=True))
    to_text = {(image, text) for text, image in to_image}
    for k in (1, 5, 10):
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(plain_recall(texts @ images.T, to_image, k))
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(plain_recall(images @ texts.T, to_text, k))


def test_any_caption_of_the_image_counts_and_every_caption_is_a_query():
    images = np.eye(2, dtype=np.float32)
    texts = np.array([[0, 1], [2, 0], [0, 3]], np.float32)  # image 0 owns texts 0 (wrong way round) and 1
    text_to_image, image_to_text = retrieval.retrieval_ranks(images, texts, np.array([0, 0, 1]), np.arange(3))
    assert text_to_image.tolist() == [1, 0, 0]
    assert image_to_text.tolist() == [0, 0]


def test_a_text_of_two_images_is_right_for_both():
    images = np.eye(2, dtype=np.float32)
    texts = np.array([[1, 1]], np.float32)
    text_to_image, image_to_text = retrieval.retrieval_ranks(images, texts, np.array([0, 1]), np.array([0, 0]))
    assert text_to_image.tolist() == [0]
    assert image_to_text.tolist() == [0, 0]


def test_first_captions_keep_the_first_of_each_image():
    assert retrieval.first_captions(np.array([2, 0, 2, 0, 1])).tolist() == [0, 1, 4]


def test_chance_is_at_most_one():
    assert retrieval.chance(4, 8)["image_retrieval_recall@10"] == 1.0
    assert retrieval.chance(4, 8)["text_retrieval_recall@1"] == 0.125
