"""The question behind every task: how many wrong candidates does the model rank before (or level with) a right one?

Exact, in bounded memory.  Equal candidates are scored once: the kernels of a BLAS give equal rows scores that differ in
the last bit, depending on the processor and on the place of a row.

Ties: `against` (ours: a wrong candidate that scores as high as the right one wins) or `first` (the paper's argmax: of
equal scores the first candidate wins).  Retrieval follows the paper, protocol `all_captions`: any caption of the image
counts, and every caption is a query.

Q queries, C candidates, N images, M texts, D embed_dim.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal

import numpy as np

Ties = Literal["against", "first"]

RECALL_AT = (1, 5, 10)
BLOCK_BYTES = 64 * 2**20  # scores in memory at once; all of Q x C would be 40 GB at 100,000 x 100,000


def ranks(
    query_QD: np.ndarray,
    candidate_CD: np.ndarray,
    right_query: np.ndarray,
    right_candidate: np.ndarray,
    ties: Ties = "against",
) -> np.ndarray:
    """Return the rank of each query's best right candidate: the number of wrong candidates before it.

    query_QD, candidate_CD: (Q, D), (C, D) float32 features.  right_query, right_candidate: (num_right,) integer pairs
    (q, c): c is right for q.  Returns (Q,) int64: 0 = first; -1 if no candidate is right (such a query does not count).
    A score of NaN ranks its query last.
    """
    num_queries = len(query_QD)
    right_query = np.asarray(right_query, np.int64)
    right_candidate = np.asarray(right_candidate, np.int64)
    # Sorted by query, the right pairs of a block of queries are one slice.
    order = np.argsort(right_query, kind="stable")
    right_query = right_query[order]
    right_candidate = right_candidate[order]
    rank_Q = np.full(num_queries, -1, np.int64)
    for start, scores in score_blocks(query_QD, candidate_CD):
        stop = start + len(scores)
        first, last = np.searchsorted(right_query, (start, stop))
        rank_Q[start:stop] = rank_scores(scores, right_query[first:last] - start, right_candidate[first:last], ties)
    return rank_Q


def rank_scores(scores: np.ndarray, right_query: np.ndarray, right_candidate: np.ndarray, ties: Ties) -> np.ndarray:
    """Return (Q,) ranks, see `ranks`.  scores: (Q, C), of each candidate for each query."""
    num_queries, num_candidates = scores.shape
    right_scores = scores[right_query, right_candidate]
    best = np.full(num_queries, -np.inf, scores.dtype)
    np.fmax.at(best, right_query, right_scores)  # fmax ignores NaN
    # Count what is not clearly after the best right candidate: this includes NaN, and with `against` ties.
    is_after = scores < best[:, None]
    if ties == "first":
        is_best = right_scores == best[right_query]
        first_best = np.full(num_queries, num_candidates)
        np.minimum.at(first_best, right_query[is_best], right_candidate[is_best])
        is_after |= (scores == best[:, None]) & (np.arange(num_candidates) > first_best[:, None])
    is_after[right_query, right_candidate] = True
    has_right = np.zeros(num_queries, bool)
    has_right[right_query] = True
    return np.where(has_right, num_candidates - np.count_nonzero(is_after, axis=1), -1)


def score_blocks(query_QD: np.ndarray, candidate_CD: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the position of the first of some queries and their scores (q, C) float32, BLOCK_BYTES at a time.

    Equal candidates score equal bits with every BLAS.
    """
    # Rows are compared by a hash of 128 bits: sorting them would take several times their memory.
    seen: dict[bytes, int] = {}
    row = np.empty(len(candidate_CD), np.int64)  # which of the distinct candidates equals each one, to the bit
    for c, feature_D in enumerate(np.ascontiguousarray(candidate_CD)):
        row_hash = hashlib.blake2b(feature_D, digest_size=16).digest()
        row[c] = seen.setdefault(row_hash, len(seen))
    has_repeats = len(seen) < len(candidate_CD)
    distinct_UD = candidate_CD[np.unique(row, return_index=True)[1]] if has_repeats else candidate_CD
    num_rows = max(1, BLOCK_BYTES // (4 * max(1, len(candidate_CD))))
    for start in range(0, len(query_QD), num_rows):
        scores = query_QD[start : start + num_rows] @ distinct_UD.T
        yield start, np.take(scores, row, axis=1) if has_repeats else scores


def top(query_QD: np.ndarray, candidate_CD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (Q, k) int64 and scores (Q, k) of each query's k best candidates, best first, equal scores by id."""
    ids = [np.zeros((0, min(k, len(candidate_CD))), np.int64)]
    scores = [np.zeros(ids[0].shape, np.float32)]
    for _, block in score_blocks(query_QD, candidate_CD):
        ids.append(np.argsort(-block, axis=1, kind="stable")[:, :k])
        scores.append(np.take_along_axis(block, ids[-1], axis=1))
    return np.concatenate(ids), np.concatenate(scores)


def chance_within(k: int, num_right: np.ndarray, num_candidates: int) -> float:
    """Return the share of queries with a right one among the first k of a random order; num_right: of each query."""
    right = num_right[num_right > 0]
    all_wrong = np.ones(len(right))
    for place in range(min(k, num_candidates)):
        all_wrong *= np.maximum(num_candidates - right - place, 0) / (num_candidates - place)
    return float(1 - all_wrong.mean())
