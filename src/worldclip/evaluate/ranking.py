"""The question behind every task: how many wrong candidates does the model rank before (or level with) a right one?

Exact, in bounded memory, ties count against the model.  Protocols of retrieval, whose numbers do not compare:
`all_captions` (the paper's: any caption of the image counts, and every caption is a query) and `first_caption`
(CLIP_benchmark's: the others are left out).

Q queries, C candidates, N images, M texts, D embed_dim.
"""

from __future__ import annotations

import numpy as np

RECALL_AT = (1, 5, 10)
BLOCK_BYTES = 64 * 2**20  # of scores in memory at once; all of Q x C would be 40 GB at 100,000 x 100,000


def ranks(
    query_QD: np.ndarray, candidate_CD: np.ndarray, right_query: np.ndarray, right_candidate: np.ndarray
) -> np.ndarray:
    """Return the rank of each query's best right candidate: the number of wrong candidates that score at least as high.

    query_QD, candidate_CD: (Q, D), (C, D) float32 features.  right_query, right_candidate: (num_right,) integer pairs
    (q, c): c is right for q.  Returns (Q,) int64: 0 = first; -1 if no candidate is right (such a query does not count).
    A score of NaN ranks its query last.  Raises ValueError for pairs out of range.
    """
    num_queries = len(query_QD)
    num_candidates = len(candidate_CD)
    right_query = np.asarray(right_query, np.int64)
    right_candidate = np.asarray(right_candidate, np.int64)
    _check_range("query", right_query, num_queries)
    _check_range("candidate", right_candidate, num_candidates)
    # Sorted by query, the right pairs of a block of queries are one slice.
    order = np.argsort(right_query, kind="stable")
    right_query = right_query[order]
    right_candidate = right_candidate[order]
    rank_Q = np.full(num_queries, -1, np.int64)
    num_rows = max(1, BLOCK_BYTES // (4 * max(1, num_candidates)))
    for start in range(0, num_queries, num_rows):
        scores = query_QD[start : start + num_rows] @ candidate_CD.T
        stop = start + len(scores)
        first, last = np.searchsorted(right_query, (start, stop))
        is_right = np.zeros(scores.shape, bool)
        is_right[right_query[first:last] - start, right_candidate[first:last]] = True
        best = np.where(is_right & ~np.isnan(scores), scores, -np.inf).max(axis=1, initial=-np.inf)
        # Count what is not clearly after the best right candidate: this includes ties and NaN.
        is_after = (scores < best[:, None]) | is_right
        rank_Q[start:stop] = np.where(is_right.any(axis=1), (~is_after).sum(axis=1), -1)
    return rank_Q


def _check_range(kind: str, idx: np.ndarray, num: int) -> None:
    invalid = idx[(idx < 0) | (idx >= num)]
    if len(invalid):
        raise ValueError(f"{kind} {invalid[0]} is not one of the {num}")


def share_within(rank_Q: np.ndarray, k: int) -> float:
    """Return the share (0 to 1) of queries with a right candidate among their first k.

    Queries without a right candidate do not count.  Raises ValueError if none is left.
    """
    rank_Q = rank_Q[rank_Q >= 0]
    if not len(rank_Q):
        raise ValueError("no query has a right candidate; there is nothing to measure")
    return float((rank_Q < k).mean())


def top(query_QD: np.ndarray, candidate_CD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (Q, k) int64 and scores (Q, k) of each query's k best candidates, best first, equal scores by id."""
    scores = query_QD @ candidate_CD.T
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


# --- image-text retrieval


def retrieval_ranks(
    image_ND: np.ndarray, text_MD: np.ndarray, pair_image: np.ndarray, pair_text: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks of text -> image (M,) and image -> text (N,), see ranking.ranks.

    pair_image, pair_text: (num_pairs,) which text belongs to which image; a text may belong to several images.
    """
    text_to_image = ranks(text_MD, image_ND, pair_text, pair_image)
    image_to_text = ranks(image_ND, text_MD, pair_image, pair_text)
    return text_to_image, image_to_text


def recalls(text_to_image: np.ndarray, image_to_text: np.ndarray) -> dict[str, float]:
    """Return `image_retrieval_recall@k` (a text finds its image) and `text_retrieval_recall@k`, k = 1, 5, 10."""
    of_images = {f"image_retrieval_recall@{k}": share_within(text_to_image, k) for k in RECALL_AT}
    of_texts = {f"text_retrieval_recall@{k}": share_within(image_to_text, k) for k in RECALL_AT}
    return of_images | of_texts


def recall_chance(num_images: int, num_texts: int) -> dict[str, float]:
    """Return the recall of a random order if each text has one image and each image one text."""
    of_images = {f"image_retrieval_recall@{k}": min(1.0, k / num_images) for k in RECALL_AT}
    of_texts = {f"text_retrieval_recall@{k}": min(1.0, k / num_texts) for k in RECALL_AT}
    return of_images | of_texts


def first_captions(pair_image: np.ndarray) -> np.ndarray:
    """Return the positions of the first pair of each image, in order: what `first_caption` keeps."""
    return np.sort(np.unique(pair_image, return_index=True)[1])
