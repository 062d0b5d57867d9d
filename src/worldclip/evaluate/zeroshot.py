"""Zero-shot classification from features: which class's text is nearest to an image.

N images, C classes, T templates, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from worldclip.evaluate.ranking import Ties, ranks, score_blocks, share_within

NO_PAIRS = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def classification_ranks(
    image_ND: np.ndarray,
    class_CD: np.ndarray,
    target_N: np.ndarray,
    also_right: tuple[np.ndarray, np.ndarray] = NO_PAIRS,
    ties: Ties = "against",
) -> np.ndarray:
    """Return (N,) int64: the number of wrong classes before the best right class of an image.

    target_N: the right class of each image.  also_right: (image, class) positions of further right classes.
    """
    images, classes = also_right
    right_image = np.concatenate([np.arange(len(target_N)), images])
    right_class = np.concatenate([target_N, classes])
    return ranks(image_ND, class_CD, right_image, right_class, ties)


def accuracies(rank_N: np.ndarray, num_classes: int) -> dict[str, float]:
    """Return acc1, and acc5 if there are more than five classes, from classification_ranks."""
    return {f"acc{k}": share_within(rank_N, k) for k in _top_ks(num_classes)}


def chance(num_classes: int) -> dict[str, float]:
    """Return the accuracies of guessing."""
    return {f"acc{k}": k / num_classes for k in _top_ks(num_classes)}


def _top_ks(num_classes: int) -> tuple[int, ...]:
    return (1, 5) if num_classes > 5 else (1,)


def mean_per_class_recall(rank_N: np.ndarray, target_N: np.ndarray) -> float:
    """Return the top-1 recall of each class that has images, averaged with equal weight."""
    num_right, num_images = right_by_class(rank_N, target_N)
    return float((num_right / num_images).mean())


def right_by_class(rank_N: np.ndarray, target_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (number of images ranked right, number of images) of each class that has images."""
    classes, inverse, num_images = np.unique(target_N, return_inverse=True, return_counts=True)
    return np.bincount(inverse, weights=rank_N == 0, minlength=len(classes)), num_images


def predictions(image_ND: np.ndarray, class_CD: np.ndarray, target_N: np.ndarray, ties: Ties = "against") -> np.ndarray:
    """Return (N,) int64: the best class of each image, of equal ones the first; with `against` the first wrong one."""
    predicted = np.empty(len(image_ND), np.int64)
    for start, scores in score_blocks(image_ND, class_CD):
        rows = np.arange(len(scores))
        best = scores.argmax(axis=1)
        if ties == "against":
            target = target_N[start : start + len(scores)]
            right_scores = scores[rows, target]
            scores[rows, target] = -np.inf
            wrong = scores.argmax(axis=1)
            best = np.where(right_scores > scores[rows, wrong], target, wrong)
        predicted[start : start + len(scores)] = best
    return predicted


def class_embeddings(
    class_names: Sequence[Sequence[str]], templates: Sequence[str], encode: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    """Return (C, D) float32: the normalised mean over templates x synonyms of normalised embeddings (CLIP's protocol).

    class_names: the synonyms of each class, at least one; templates hold one `{}` each.
    """
    features = np.asarray(encode(class_texts(class_names, templates)), np.float32)
    num_texts = np.array([len(names) * len(templates) for names in class_names])
    starts = np.concatenate(([0], num_texts.cumsum()[:-1]))
    means = np.add.reduceat(features, starts, axis=0) / num_texts[:, None].astype(np.float32)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return means / np.where(norms > 0, norms, 1)


def class_texts(class_names: Sequence[Sequence[str]], templates: Sequence[str]) -> list[str]:
    """Return each template with each name in it, class by class."""
    texts: list[str] = []
    for names in class_names:
        for name in names:
            texts += [template.replace("{}", name) for template in templates]
    return texts
