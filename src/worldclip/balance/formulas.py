"""The formulas of balancing (arXiv:2507.22062, Alg. 1): counts in, thresholds and probabilities out.  Pure numpy.

counts: (num_entries,) matches of each entry of one list over the whole pool, integers of at least 0.
threshold: matches below which an entry is tail; t in the paper.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def tail_fraction(counts: npt.ArrayLike, threshold: int) -> float:
    """Return the share of all matches on tail entries, those with fewer than `threshold` matches; p in the paper.

    0.0 without any match.  Raises ValueError for a threshold below 1.
    """
    counts = _as_counts(counts)
    tail = counts[counts < np.uint64(_as_threshold(threshold))]
    total = int(counts.sum())
    return int(tail.sum()) / total if total else 0.0


def threshold_for(counts: npt.ArrayLike, tail_fraction: float) -> int:
    """Return the count whose cumulative share of matches, from the rarest entry up, is first nearest to a fraction.

    At least 1.  Not the inverse of `tail_fraction`: for the tail fraction of a threshold it returns the largest count
    strictly below that threshold, as the reference implementation does.  Raises ValueError if no count is positive, and
    for a fraction that is no share.
    """
    if not 0 <= tail_fraction <= 1:
        raise ValueError(f"tail_fraction is {tail_fraction}; it is a share of the matches, 0 to 1")
    ascending = np.sort(_as_counts(counts))
    cumulative = np.cumsum(ascending, dtype=np.uint64)
    if not len(ascending) or cumulative[-1] == 0:
        raise ValueError("no entry has a match; a list without matches has no threshold")
    nearest = np.argmin(np.abs(cumulative / cumulative[-1] - tail_fraction))
    return max(1, int(ascending[nearest]))


def entry_probs(counts: npt.ArrayLike, threshold: int) -> np.ndarray:
    """Return the probability that a match of each entry keeps its text: t / max(t, count), (num_entries,) float64.

    1 for tail entries.  Raises ValueError for a threshold below 1.
    """
    threshold = _as_threshold(threshold)
    probs: np.ndarray = threshold / np.maximum(_as_counts(counts), np.uint64(threshold)).astype(np.float64)
    return probs


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
