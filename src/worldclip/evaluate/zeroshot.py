"""Zero-shot classification from features: which class's text is nearest to an image.

N images, C classes, T templates, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from worldclip.evaluate.ranking import BLOCK_BYTES, ranks, share_within

NO_PAIRS = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def classification_ranks(
    image_ND: np.ndarray,
    class_CD: np.ndarray,
    target_N: np.ndarray,
    also_right: tuple[np.ndarray, np.ndarray] = NO_PAIRS,
) -> np.ndarray:
    """Number of wrong classes that score at least as high as each image's own (best one of its own), (N,) int64.

    also_right: (image, class) positions of further classes that answer an image.
    """
    images, classes = also_right
    right_image = np.concatenate([np.arange(len(target_N)), images])
    return ranks(image_ND, class_CD, right_image, np.concatenate([target_N, classes]))


def accuracies(found: np.ndarray, num_classes: int) -> dict[str, float]:
    """acc1, and acc5 where there are more than five classes, of classification_ranks."""
    return {f"acc{k}": share_within(found, k) for k in (1, 5) if k == 1 or num_classes > 5}


def mean_per_class_recall(found: np.ndarray, target_N: np.ndarray) -> float:
    """Top-1 recall of each class that has images, averaged with equal weight."""
    num_right, num_images = right_by_class(found, target_N)
    return float((num_right / num_images).mean())


def right_by_class(found: np.ndarray, target_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(images ranked right, images) of each class that has images."""
    classes, inverse, num_images = np.unique(target_N, return_inverse=True, return_counts=True)
    return np.bincount(inverse, weights=found == 0, minlength=len(classes)), num_images


def f1_macro(predicted: np.ndarray, target_N: np.ndarray, times: np.ndarray | None = None) -> float:
    """Plain mean of F1 over the classes that occur among targets or predictions (WILDS' measure of iWildCam).

    times: (N,) how often each image counts; once where not given.
    """
    times = np.ones(len(target_N)) if times is None else times
    num = int(max(predicted.max(), target_N.max())) + 1
    both = np.bincount(target_N, weights=times * (predicted == target_N), minlength=num)
    either = np.bincount(target_N, weights=times, minlength=num) + np.bincount(predicted, weights=times, minlength=num)
    return float((2 * both[either > 0] / either[either > 0]).mean())


def predictions(image_ND: np.ndarray, class_CD: np.ndarray) -> np.ndarray:
    """(N,) int64: the best class of each image, the first one where scores are equal."""
    rows = max(1, BLOCK_BYTES // (4 * len(class_CD)))
    starts = range(0, len(image_ND), rows)
    return np.concatenate([(image_ND[start : start + rows] @ class_CD.T).argmax(axis=1) for start in starts])


def roc_auc(scores: np.ndarray, is_positive: np.ndarray, times: np.ndarray | None = None) -> float:
    """Share of (positive, negative) pairs in the right order, equal scores half right; NaN where a side is missing.

    scores, is_positive: (N,).  times: (N,) how often each image counts; once where not given.
    """
    times = np.ones(len(scores)) if times is None else times.astype(float)
    _, level = np.unique(scores, return_inverse=True)
    positive = np.bincount(level, weights=times * is_positive)
    negative = np.bincount(level, weights=times * ~is_positive)
    below = np.cumsum(negative) - negative
    num_pairs = positive.sum() * negative.sum()
    return float((positive * (below + negative / 2)).sum() / num_pairs) if num_pairs else float("nan")


def average_precision(scores: np.ndarray, is_positive: np.ndarray, times: np.ndarray | None = None) -> float:
    """Precision averaged over the positives, images of equal score taken together; 0 where there is no positive.

    As scikit-learn has it, and CLIP_benchmark where no scores are equal.
    """
    times = np.ones(len(scores)) if times is None else times.astype(float)
    _, level = np.unique(-scores, return_inverse=True)
    positive = np.bincount(level, weights=times * is_positive)
    taken = np.cumsum(np.bincount(level, weights=times))
    if not positive.sum():
        return 0.0
    precision = np.divide(np.cumsum(positive), taken, out=np.zeros(len(taken)), where=taken > 0)
    return float((positive * precision).sum() / positive.sum())


def chance(num_classes: int) -> dict[str, float]:
    """What guessing reaches; it stands beside the accuracy."""
    return {f"acc{k}": k / num_classes for k in (1, 5) if k == 1 or num_classes > 5}


def class_embeddings(
    class_names: Sequence[Sequence[str]], templates: Sequence[str], encode: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    """(C, D) float32: the normalised mean over templates x synonyms of normalised embeddings, RECIPE's protocol.

    class_names: the synonyms of each class, at least one; templates hold one `{}` each.
    """
    if not all(class_names):
        raise ValueError(f"class {[bool(names) for names in class_names].index(False)} has no name")
    features = np.asarray(encode(class_texts(class_names, templates)), np.float32)
    num_texts = np.array([len(names) * len(templates) for names in class_names])
    starts = np.concatenate(([0], num_texts.cumsum()[:-1]))
    means = np.add.reduceat(features, starts, axis=0) / num_texts[:, None].astype(np.float32)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return means / np.where(norms > 0, norms, 1)


def class_texts(class_names: Sequence[Sequence[str]], templates: Sequence[str]) -> list[str]:
    """Each template around each name, class by class."""
    return [template.replace("{}", name) for names in class_names for name in names for template in templates]
