"""Write, read and merge sorted runs: the words of a count in byte order, its bigrams by the ranks of their words.

A run is a part of a file; the runs of a count follow each other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from worldclip.kernels.llvm import inner, kernel

RUNS_VERSION = 2  # version of the run files
FAN_IN = 16  # runs merged at once: a merge holds the words twice and 4 bytes for each word of each run
# Small runs are merged more at once, as long as they have few words together and few files are open.
FAN_IN_OF_SMALL = 256
FEW_WORDS = 2**20
MERGED_AT_ONCE = 2**20  # bigrams in memory during a merge, of all runs together

_U0, _U32, _LOW_32 = np.uint64(0), np.uint64(32), np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Words:
    """Words in byte order: bytes (,) uint8, offsets (W + 1,) int64, counts (W,) uint64."""

    data: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return self.counts.size

    def word(self, rank: int) -> str:
        return self.data[self.offsets[rank] : self.offsets[rank + 1]].tobytes().decode()


NO_WORDS = Words(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.uint64))


class Run(NamedTuple):
    """A run inside a file, from byte `start` on: offsets, counts, bigrams, then the bytes of the words.

    offsets (num_words + 1,) int64, counts (num_words,) uint64, bigrams (num_bigrams, 2) uint64; all little-endian.
    """

    path: Path
    start: int
    num_words: int
    num_bigrams: int
    num_bytes: int

    def read_words(self) -> Words:
        with open(self.path, "rb") as file:
            file.seek(self.start)
            offsets = np.fromfile(file, "<i8", self.num_words + 1)
            counts = np.fromfile(file, "<u8", self.num_words)
            file.seek(16 * self.num_bigrams, os.SEEK_CUR)
            return Words(np.fromfile(file, np.uint8, self.num_bytes), offsets, counts)

    def iter_bigrams(self, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (keys uint64, counts uint64) in rising order, `chunk` at a time, read rather than mapped."""
        with open(self.path, "rb") as file:
            file.seek(self.start + 16 * self.num_words + 8)
            for done in range(0, self.num_bigrams, chunk):
                pairs = np.frombuffer(file.read(16 * min(chunk, self.num_bigrams - done)), "<u8").reshape(-1, 2)
                yield pairs[:, 0], pairs[:, 1]


def write_run(path: Path, file: BinaryIO, words: Words, bigrams: Iterable[np.ndarray]) -> Run:
    """Append a run to `file`, which will be read as `path`; bigrams: parts of (B, 2) uint64 by rising key."""
    start = file.tell()
    file.write(np.ascontiguousarray(words.offsets, "<i8").data)
    file.write(np.ascontiguousarray(words.counts, "<u8").data)
    num_bigrams = 0
    for pairs_B2 in bigrams:
        file.write(np.ascontiguousarray(pairs_B2, "<u8").data)
        num_bigrams += len(pairs_B2)
    num_bytes = int(words.offsets[-1])
    file.write(np.ascontiguousarray(words.data[:num_bytes]).data)
    return Run(path, start, len(words), num_bigrams, num_bytes)


def run_files(folder: Path, shard_name: str) -> tuple[Path, Path]:
    """Return the files of a shard's counts: its runs, and where they are in it."""
    return folder / f"{shard_name}.counts", folder / f"{shard_name}.json"


# --- words -----------------------------------------------------------------------------------------------------------


@inner
def _compare(data_a, start_a, end_a, data_b, start_b, end_b):
    """Return a negative number, 0 or a positive one as the bytes of a sort before, with or after those of b."""
    for k in range(min(end_a - start_a, end_b - start_b)):
        difference = np.int64(data_a[start_a + k]) - np.int64(data_b[start_b + k])
        if difference:
            return difference
    return (end_a - start_a) - (end_b - start_b)


@inner
def _copy(data, start, end, out, at):
    """Copy data[start:end] to out[at:]; returns the position after it."""
    for k in range(start, end):
        out[at] = data[k]
        at += 1
    return at


@kernel
def _merge_two(data_a, offsets_a, counts_a, data_b, offsets_b, counts_b):
    """Return the union of two sorted lists of words (bytes, offsets, counts) and the new ranks of the words of a and b.

    The union's arrays are the fronts of longer ones, whose unused pages are never touched and take no memory.
    """
    num_a, num_b = counts_a.size, counts_b.size
    data = np.empty(data_a.size + data_b.size, np.uint8)
    offsets = np.empty(num_a + num_b + 1, np.int64)
    counts = np.empty(num_a + num_b, np.uint64)
    ranks_a = np.empty(num_a, np.uint32)
    ranks_b = np.empty(num_b, np.uint32)
    offsets[0] = 0
    a = b = rank = at = 0
    while a < num_a or b < num_b:
        if a == num_a:
            order = 1
        elif b == num_b:
            order = -1
        else:
            order = _compare(data_a, offsets_a[a], offsets_a[a + 1], data_b, offsets_b[b], offsets_b[b + 1])
        if order <= 0:
            at = _copy(data_a, offsets_a[a], offsets_a[a + 1], data, at)
        else:
            at = _copy(data_b, offsets_b[b], offsets_b[b + 1], data, at)
        count = _U0
        if order <= 0:
            count += counts_a[a]
            ranks_a[a] = rank
            a += 1
        if order >= 0:
            count += counts_b[b]
            ranks_b[b] = rank
            b += 1
        counts[rank] = count
        rank += 1
        offsets[rank] = at
    return data[:at], offsets[: rank + 1], counts[:rank], ranks_a, ranks_b


def merge_words(lists: Iterable[Words]) -> tuple[Words, list[np.ndarray]]:
    """Return the union of sorted lists of words, and for each list the new rank of each of its words (uint32).

    At least one list.  Each is read when it is its turn, so only one of them and the union are in memory.
    """
    iterator = iter(lists)
    merged = next(iterator)
    ranks = [np.arange(len(merged), dtype=np.uint32)]
    for other in iterator:
        *union, ranks_a, ranks_b = _merge_two(
            merged.data, merged.offsets, merged.counts, other.data, other.offsets, other.counts
        )
        merged = Words(*union)
        for n, old in enumerate(ranks):  # one by one, so that not all of them are in memory twice
            ranks[n] = ranks_a[old]
        ranks.append(ranks_b)
    return merged, ranks


# --- bigrams ---------------------------------------------------------------------------------------------------------


def _renumbered(run: Run, ranks_W: np.ndarray, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (keys, counts) of a run's bigrams as `Run.iter_bigrams`, their words numbered by rank."""
    for keys, counts in run.iter_bigrams(chunk):
        first = ranks_W[keys >> _U32].astype(np.uint64)
        second = ranks_W[keys & _LOW_32].astype(np.uint64)
        yield first << _U32 | second, counts


def _merge_bigrams(
    runs: Sequence[Run], ranks: Sequence[np.ndarray], at_once: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield sorted (keys, counts) of all runs, equal keys summed; about `at_once` of them are in memory."""
    chunk = max(1, at_once // max(1, len(runs)))
    readers = [_renumbered(run, ranks_W, chunk) for run, ranks_W in zip(runs, ranks, strict=True)]
    heads = [next(reader, None) for reader in readers]  # what is read of each run and not yet merged
    while any(head is not None for head in heads):
        # Heads [1, 4, 9] and [2, 4]: upto is 4; [1, 4] and [2, 4] are merged, [9] and the second run's next chunk stay.
        upto = min(head[0][-1] for head in heads if head is not None)  # up to here all bigrams of every run are read
        parts = []
        for n, head in enumerate(heads):
            if head is not None:
                keys, counts = head
                cut = int(np.searchsorted(keys, upto, side="right"))
                parts.append((keys[:cut], counts[:cut]))
                if cut < keys.size:
                    heads[n] = (keys[cut:], counts[cut:])
                else:
                    heads[n] = next(readers[n], None)
        keys, counts = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        counts = counts[order]
        firsts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        yield keys[firsts], np.add.reduceat(counts, firsts)


@dataclass(frozen=True, slots=True)
class Counts:
    """All of a corpus: its words with their counts, and the runs that hold its bigrams."""

    words: Words
    runs: tuple[Run, ...]
    ranks: tuple[np.ndarray, ...]

    @property
    def num_tokens(self) -> int:
        return int(self.words.counts.sum())

    def iter_bigrams(self, at_once: int = MERGED_AT_ONCE) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (keys uint64 = rank of the first word << 32 | rank of the second, counts uint64) in rising order."""
        return _merge_bigrams(self.runs, self.ranks, at_once)


def merge(runs: Sequence[Run], scratch: Path, fan_in: int = FAN_IN) -> Counts:
    """Return the sum of any number of runs.  More than `fan_in` are first merged in groups, into `scratch`."""
    runs = list(runs)
    num_merged = 0
    group_size = _merged_at_once(runs, fan_in)
    while group_size < len(runs):
        group = runs[:group_size]
        words, ranks = merge_words(run.read_words() for run in group)
        bigrams = (np.stack(part, axis=1) for part in _merge_bigrams(group, ranks, MERGED_AT_ONCE))
        path = scratch / f"merged_{num_merged:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            runs = [*runs[group_size:], write_run(path, file, words, bigrams)]
        for run in group:
            if run.path.parent == scratch:
                run.path.unlink()
        num_merged += 1
        group_size = _merged_at_once(runs, fan_in)
    if not runs:
        return Counts(NO_WORDS, (), ())
    words, ranks = merge_words(run.read_words() for run in runs)
    return Counts(words, tuple(runs), tuple(ranks))


def _merged_at_once(runs: Sequence[Run], fan_in: int) -> int:
    """Return how many of the first runs are merged at once: `fan_in`, or more that have few words together."""
    num_words = 0
    for position, run in enumerate(runs[:FAN_IN_OF_SMALL]):
        num_words += run.num_words
        if position >= fan_in and num_words > FEW_WORDS:
            return position
    return min(len(runs), FAN_IN_OF_SMALL)


# --- entries ----------------------------------------------------------------------------------------------------------


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
        keys_B = keys_B[is_frequent]
        counts_B = counts_B[is_frequent]
        first = (keys_B >> _U32).astype(np.int64)
        second = (keys_B & _LOW_32).astype(np.int64)
        quotient = counts_B / (counts_W[first] * counts_W[second])
        is_good = quotient >= least
        candidates = [quotient[is_good], counts_B[is_good], keys_B[is_good]]
        best = [np.concatenate(pair) for pair in zip(best, candidates, strict=True)]
        if best[0].size > 2 * limit:
            best = _keep_best(best, limit)
            least = best[0][-1] if limit else np.inf
    quotient, _, keys_B = _keep_best(best, limit)
    # Not np.log2: its last bit depends on whether the processor has AVX-512.
    pmi = np.array(list(map(math.log2, (quotient * num_tokens).tolist())))
    is_good = pmi >= min_pmi
    word = counts.words.word
    bigrams = []
    for key, score in zip(keys_B[is_good].tolist(), pmi[is_good].tolist(), strict=True):
        first_word = word(key >> 32)
        second_word = word(key & 0xFFFFFFFF)
        bigrams.append((f"{first_word}{joiner}{second_word}", score))
    return bigrams


def iter_bigrams_by_pmi(
    counts: Counts, joiner: str, *, first: int, min_count: int = 1, min_pmi: float = -np.inf
) -> Iterator[tuple[str, float]]:
    """Yield all of `best_bigrams`: `first` of them after one reading, each doubling after one more."""
    limit = first
    num_done = 0
    while True:
        bigrams = best_bigrams(counts, joiner, limit=limit, min_count=min_count, min_pmi=min_pmi)
        yield from bigrams[num_done:]
        if len(bigrams) < limit:
            return
        num_done = limit
        limit *= 2


def _keep_best(best: list[np.ndarray], limit: int) -> list[np.ndarray]:
    quotient, counts_B, keys_B = best
    order = np.lexsort((keys_B, -counts_B.astype(np.int64), -quotient))[:limit]
    return [quotient[order], counts_B[order], keys_B[order]]
