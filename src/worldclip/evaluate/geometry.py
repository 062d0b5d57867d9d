"""Alignment and uniformity of embeddings on the sphere (Wang and Isola, arXiv:2005.10242): smaller is better in both.

N pairs, D embed_dim; features are of unit length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from worldclip.evaluate.interval import statistic_interval, weighted_mean_interval
from worldclip.evaluate.tasks import Encode, Score, decoded

NUM_PAIRS = 5_000  # as many as the paper takes, arXiv:2507.22062
SCALE = 2.0  # t of the Gaussian potential, as Wang and Isola


def squared_distances(image_ND: np.ndarray, text_ND: np.ndarray) -> np.ndarray:
    """Return (N,) the squared distance of each image to its text; the mean is the alignment (alpha = 2)."""
    return np.square(image_ND - text_ND).sum(axis=1)


def potentials(features_ND: np.ndarray) -> np.ndarray:
    """Return (N, N) float32 exp(-2 |x - y|^2) of all pairs, 0 on the diagonal, as a pair is two points."""
    # For unit vectors |x - y|^2 = 2 - 2 x.y; rounding may take x.y above 1, hence the minimum.
    potential_NN = np.exp(np.minimum(2 * SCALE * (features_ND @ features_ND.T - 1), 0), dtype=np.float32)
    np.fill_diagonal(potential_NN, 0)
    return potential_NN


def uniformity(potential_NN: np.ndarray, times: np.ndarray | None = None) -> float:
    """Return the log of the mean potential over pairs of different points; NaN if there is only one point.

    times: (N,) how often each point counts (default: once).
    """
    times = np.ones(len(potential_NN)) if times is None else times.astype(float)
    num_pairs = times.sum() ** 2 - np.square(times).sum()
    return float(np.log(times @ (potential_NN @ times) / num_pairs)) if num_pairs else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """Alignment of up to NUM_PAIRS pairs of an image and its first text, uniformity of images and of texts."""

    texts: Sequence[str]
    image_idx: np.ndarray
    """(N,) the image of each text."""
    image_keys: Sequence[str]
    """Of all images of the dataset: a hash of the key decides which pairs are taken."""
    protocol: dict[str, Any] = field(default_factory=lambda: {"max_pairs": NUM_PAIRS, "alpha": 2, "t": SCALE})
    name: str = "alignment_uniformity"

    def texts_to_encode(self) -> list[str]:
        return []  # the retrieval has encoded them

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        rows = np.flatnonzero(decoded(image_ND)[self.image_idx]).tolist()
        by_hash = sorted(rows, key=lambda row: _hash(self.image_keys[int(self.image_idx[row])]))
        chosen = sorted(by_hash[:NUM_PAIRS])
        image_nD = image_ND[self.image_idx[chosen]]
        text_nD = encode([self.texts[row] for row in chosen])
        distance = squared_distances(image_nD, text_nD)
        metrics = {"alignment": float(distance.mean())}
        interval = {"alignment": weighted_mean_interval(distance)}
        if len(chosen) > 1:
            for side, features in (("image", image_nD), ("text", text_nD)):
                potential = potentials(features)
                metrics[f"uniformity_{side}"] = uniformity(potential)
                interval[f"uniformity_{side}"] = statistic_interval(partial(uniformity, potential), len(chosen))
        return Score(n=len(chosen), metrics=metrics, chance={}, interval=interval)


def _hash(key: str) -> str:
    return hashlib.sha256(f"pairs {key}".encode()).hexdigest()
