"""Zero-shot classification from features: which class's text is nearest to an image.

N images, C classes, T templates, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from worldclip.evaluate.ranking import ranks, share_within


def classification_ranks(image_ND: np.ndarray, class_CD: np.ndarray, target_N: np.ndarray) -> np.ndarray:
    """Number of wrong classes that score at least as high as each image's own, (N,) int64."""
    return ranks(image_ND, class_CD, np.arange(len(target_N)), target_N)


def accuracies(found: np.ndarray, num_classes: int) -> dict[str, float]:
    """acc1, and acc5 where there are more than five classes, of classification_ranks."""
    return {f"acc{k}": share_within(found, k) for k in (1, 5) if k == 1 or num_classes > 5}


def mean_per_class_recall(found: np.ndarray, target_N: np.ndarray) -> float:
    """Top-1 recall of each class that has images, averaged with equal weight."""
    classes, inverse, num_images = np.unique(target_N, return_inverse=True, return_counts=True)
    num_right = np.bincount(inverse, weights=found == 0, minlength=len(classes))
    return float((num_right / num_images).mean())


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
    texts = [template.replace("{}", name) for names in class_names for name in names for template in templates]
    features = np.asarray(encode(texts), np.float32)
    num_texts = np.array([len(names) * len(templates) for names in class_names])
    starts = np.concatenate(([0], num_texts.cumsum()[:-1]))
    means = np.add.reduceat(features, starts, axis=0) / num_texts[:, None].astype(np.float32)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return means / np.where(norms > 0, norms, 1)
