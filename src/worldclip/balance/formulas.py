"""The formulas of balancing (arXiv:2507.22062, Alg. 1): counts in, thresholds and probabilities out.  Pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def tail_fraction(counts: npt.ArrayLike, threshold: int) -> float:
    """Share of all matches that fall on tail entries, those matched fewer than `threshold` times; p in the paper.

    counts: (num_entries,) matches per entry over the whole pool.  0.0 where there is no match.
    Source: arXiv:2507.22062, Alg. 1.  Raises ValueError for a threshold below 1.
    """
    counts, threshold = _as_counts(counts), _as_threshold(threshold)
    total = int(counts.sum())
    return int(counts[counts < np.uint64(threshold)].sum()) / total if total else 0.0


def threshold_for(counts: npt.ArrayLike, tail_fraction: float) -> int:
    """The count whose cumulated share of matches, from the rarest entry up, is first nearest to `tail_fraction`.

    At least 1.  Not the inverse of `tail_fraction` but the largest count strictly below its threshold, as in the
    reference.  Raises ValueError where no count is positive.
    """
    ascending = np.sort(_as_counts(counts))
    cumulated = np.cumsum(ascending, dtype=np.uint64)
    if not len(ascending) or cumulated[-1] == 0:
        raise ValueError("no entry has a match; a list without matches has no threshold")
    nearest = np.argmin(np.abs(cumulated / cumulated[-1] - tail_fraction))
    return max(1, int(ascending[nearest]))


def entry_probs(counts: npt.ArrayLike, threshold: int) -> np.ndarray:
    """Probability that a match of each entry keeps its text: t / max(t, count), (num_entries,) float64; 1 for tail.

    Raises ValueError for a threshold below 1.
    """
    counts, threshold = _as_counts(counts), _as_threshold(threshold)
    return threshold / np.maximum(counts, np.uint64(threshold)).astype(np.float64)


def _as_counts(counts: npt.ArrayLike) -> np.ndarray:
    array = np.asarray(counts)
    if array.dtype == np.uint64:
        return array
    if array.size and (array < 0).any():
        raise ValueError(f"the smallest count is {array.min()}; counts of matches are at least 0")
    return array.astype(np.uint64)


def _as_threshold(threshold: int) -> int:
    if threshold < 1:
        raise ValueError(f"threshold is {threshold}; it counts matches per entry and must be at least 1")
    return int(threshold)
