"""Choose entries from counts: the most frequent words, and the bigrams with the highest mutual information."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from worldclip.metadata.ngrams.runs import Counts, Words

_U32, _LOW_32 = np.uint64(32), np.uint64(0xFFFFFFFF)


def iter_unigrams(counts: Counts, *, min_count: int = 1) -> Iterator[tuple[str, float]]:
    """Return (word, count) of the frequent words by falling count, equal ones in byte order."""
    order_W = np.argsort(-counts.words.counts.astype(np.int64), kind="stable")
    return iter_words(counts.words, order_W, min_count)


def iter_words(words: Words, ranks: np.ndarray, min_count: int = 1) -> Iterator[tuple[str, float]]:
    """Yield (word, count) of each of `ranks`, until one has fewer than `min_count`."""
    for rank in ranks:  # not as a list: callers take a tenth of the words, and a list of all is 36 bytes per word
        if words.counts[rank] < min_count:
            return
        yield words.word(rank), float(words.counts[rank])


def best_bigrams(
    counts: Counts, joiner: str, *, limit: int, min_count: int = 1, min_pmi: float = -np.inf
) -> list[tuple[str, float]]:
    """Return at most `limit` (bigram, PMI) by falling PMI = log2(c(ab) N / (c(a) c(b))), N the tokens of the corpus.

    Bigrams have at least `min_count` occurrences and PMI >= `min_pmi`.  Of equal ones the more frequent comes first,
    then byte order decides.  The order is that of the quotient, so it does not depend on a processor's logarithm.
    """
    num_tokens = counts.num_tokens
    counts_W = counts.words.counts.astype(np.float64)
    best = [np.zeros(0), np.zeros(0, np.uint64), np.zeros(0, np.uint64)]  # quotient, count, key
    least = 0.0  # the smallest quotient among `limit` bigrams seen so far
    for keys_B, counts_B in counts.iter_bigrams():
        is_frequent = counts_B >= min_count
        keys_B, counts_B = keys_B[is_frequent], counts_B[is_frequent]
        first, second = (keys_B >> _U32).astype(np.int64), (keys_B & _LOW_32).astype(np.int64)
        quotient = counts_B / (counts_W[first] * counts_W[second])
        is_good = quotient >= least
        more = quotient[is_good], counts_B[is_good], keys_B[is_good]
        best = [np.concatenate(pair) for pair in zip(best, more, strict=True)]
        if best[0].size > 2 * limit:
            best = _keep_best(best, limit)
            least = best[0][-1] if limit else np.inf
    quotient, _, keys_B = _keep_best(best, limit)
    # Not np.log2: its last bit depends on whether the processor has AVX-512.
    pmi = np.array([math.log2(ratio) for ratio in (quotient * num_tokens).tolist()])
    is_good = pmi >= min_pmi
    word = counts.words.word
    return [
        (f"{word(key >> 32)}{joiner}{word(key & 0xFFFFFFFF)}", score)
        for key, score in zip(keys_B[is_good].tolist(), pmi[is_good].tolist(), strict=True)
    ]


def iter_bigrams_by_pmi(
    counts: Counts, joiner: str, *, first: int, min_count: int = 1, min_pmi: float = -np.inf
) -> Iterator[tuple[str, float]]:
    """Yield all of `best_bigrams`: `first` of them after one reading, each doubling after one more."""
    limit, num_done = first, 0
    while True:
        bigrams = best_bigrams(counts, joiner, limit=limit, min_count=min_count, min_pmi=min_pmi)
        yield from bigrams[num_done:]
        if len(bigrams) < limit:
            return
        limit, num_done = 2 * limit, limit


def _keep_best(best: list[np.ndarray], limit: int) -> list[np.ndarray]:
    quotient, counts_B, keys_B = best
    order = np.lexsort((keys_B, -counts_B.astype(np.int64), -quotient))[:limit]
    return [quotient[order], counts_B[order], keys_B[order]]
