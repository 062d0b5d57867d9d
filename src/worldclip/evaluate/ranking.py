"""The one question all tasks ask: how many candidates does the model put before (or level with) a right one?

Q queries, C candidates, D embed_dim.  Exact, in bounded memory, ties counted against the model.
"""

from __future__ import annotations

import numpy as np

BLOCK_BYTES = 64 * 2**20  # scores held at once; the whole of Q x C would be 40 GB at 100,000 x 100,000


def ranks(
    query_QD: np.ndarray, candidate_CD: np.ndarray, right_query: np.ndarray, right_candidate: np.ndarray
) -> np.ndarray:
    """Rank of each query's best right candidate: the number of wrong candidates that score at least as high.

    query_QD, candidate_CD: (Q, D), (C, D) float32 features.  right_query, right_candidate: (num_right,) integer pairs
    (q, c) saying that c answers q.  Returns (Q,) int64: 0 = first; -1 where no candidate is right (not a query then).
    A score that is not a number ranks its query last.  Raises ValueError for pairs out of range.
    """
    num_queries, num_candidates = len(query_QD), len(candidate_CD)
    right_query, right_candidate = np.asarray(right_query, np.int64), np.asarray(right_candidate, np.int64)
    _check_range("query", right_query, num_queries)
    _check_range("candidate", right_candidate, num_candidates)
    order = np.argsort(right_query, kind="stable")
    right_query, right_candidate = right_query[order], right_candidate[order]
    found = np.full(num_queries, -1, np.int64)
    block = max(1, BLOCK_BYTES // (4 * max(1, num_candidates)))
    for start in range(0, num_queries, block):
        scores = query_QD[start : start + block] @ candidate_CD.T
        stop = start + len(scores)
        first, last = np.searchsorted(right_query, (start, stop))
        is_right = np.zeros(scores.shape, bool)
        is_right[right_query[first:last] - start, right_candidate[first:last]] = True
        found[start:stop] = _block_ranks(scores, is_right)
    return found


def _block_ranks(scores: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    best = np.where(is_right & ~np.isnan(scores), scores, -np.inf).max(axis=1, initial=-np.inf)
    is_behind = (scores < best[:, None]) | is_right  # what is not clearly behind is before: ties, and NaN
    before = (~is_behind).sum(axis=1)
    return np.where(is_right.any(axis=1), before, -1)


def _check_range(kind: str, idx: np.ndarray, num: int) -> None:
    if len(idx) and (idx.min() < 0 or idx.max() >= num):
        raise ValueError(f"{kind} {int(idx.min() if idx.min() < 0 else idx.max())} is not one of the {num}")


def share_within(found: np.ndarray, k: int) -> float:
    """Share of the queries with a right candidate among their first k; 0 to 1.  Queries without one do not count."""
    asked = found[found >= 0]
    if not len(asked):
        raise ValueError("no query has a right candidate; there is nothing to measure")
    return float((asked < k).mean())


def top(query_QD: np.ndarray, candidate_CD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each query, best first: ids (Q, k) int64 and scores (Q, k); equal scores by id."""
    scores = query_QD @ candidate_CD.T
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)
