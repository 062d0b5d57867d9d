"""Write, read and merge sorted runs: the words of a count in byte order, its bigrams by the ranks of their words.

A run is a folder of its own (`Path`), or a part of a file (`Part`) where there are many small ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from worldclip.core import artifacts
from worldclip.core.arrow import binary_array, byte_buffers
from worldclip.kernels.llvm import inner, kernel

FAN_IN = 16  # runs merged at once: a merge holds the words twice and 4 bytes for each word of each run
# Parts of files are mostly small: more of them are merged at once, as long as they have few words and files are open.
FAN_IN_OF_PARTS = 256
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


class Part(NamedTuple):
    """A run inside a file, from byte `start` on: offsets, counts, bigrams, then the bytes of the words.

    offsets (num_words + 1,) int64, counts (num_words,) uint64, bigrams (num_bigrams, 2) uint64; all little-endian.
    """

    path: Path
    start: int
    num_words: int
    num_bigrams: int
    num_bytes: int

    @property
    def bigrams_start(self) -> int:
        return self.start + 16 * self.num_words + 8


Run: TypeAlias = Path | Part


def write_part(
    path: Path, file: BinaryIO, words: pa.LargeBinaryArray, counts_W: np.ndarray, pairs_B2: np.ndarray
) -> Part:
    """Append a run to `file`, which will be read as `path`."""
    data, offsets_W = byte_buffers(words)
    part = Part(path, file.tell(), len(counts_W), len(pairs_B2), int(offsets_W[-1]))
    for array, dtype in ((offsets_W, "<i8"), (counts_W, "<u8"), (pairs_B2, "<u8")):
        file.write(np.ascontiguousarray(array, dtype).data)
    file.write(np.ascontiguousarray(data[: part.num_bytes]).data)
    return part


def _read_part(part: Part) -> Words:
    with open(part.path, "rb") as file:
        file.seek(part.start)
        offsets = np.fromfile(file, "<i8", part.num_words + 1)
        counts = np.fromfile(file, "<u8", part.num_words)
        file.seek(16 * part.num_bigrams, os.SEEK_CUR)
        return Words(np.fromfile(file, np.uint8, part.num_bytes), offsets, counts)


def write_words(run: Path, words: pa.LargeBinaryArray, counts_W: np.ndarray) -> None:
    """Write words, in byte order, and their counts."""
    data, offsets_W = byte_buffers(words)
    artifacts.write_array(run / "word_bytes.npy", data[: offsets_W[-1]])
    artifacts.write_array(run / "word_offsets.npy", offsets_W)
    artifacts.write_array(run / "word_counts.npy", counts_W)


def read_words(run: Run) -> Words:
    if isinstance(run, Part):
        return _read_part(run)
    return Words(*(np.load(run / f"word_{name}.npy") for name in ("bytes", "offsets", "counts")))


class BigramWriter:
    """Writes sorted bigrams chunk by chunk: `bigrams`, raw little-endian uint64 pairs (key, count)."""

    def __init__(self, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.file = open(run / "bigrams", "wb")  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> BigramWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._naming_errors():
            self.file.flush()
            os.fsync(self.file.fileno())  # as write_artifact: a run that is marked finished is on the disk
            self.file.close()

    def add(self, pairs_B2: np.ndarray) -> None:
        with self._naming_errors():
            self.file.write(np.ascontiguousarray(pairs_B2, "<u8").data)

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """Add the file's name to an OSError: a failed write does not say where the disk is full."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or self.file.name
            raise


def iter_bigrams(run: Run, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (keys uint64, counts uint64) of a run in rising order, `chunk` at a time, read rather than mapped."""
    path, start = (run.path, run.bigrams_start) if isinstance(run, Part) else (run / "bigrams", 0)
    num_bigrams = run.num_bigrams if isinstance(run, Part) else path.stat().st_size // 16
    with open(path, "rb") as file:
        file.seek(start)
        for done in range(0, num_bigrams, chunk):
            pairs = np.frombuffer(file.read(16 * min(chunk, num_bigrams - done)), "<u8").reshape(-1, 2)
            yield pairs[:, 0], pairs[:, 1]


# --- words ------------------------------------------------------------------------------------------------------------


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
    rest = iter(lists)
    merged = next(rest)
    ranks = [np.arange(len(merged), dtype=np.uint32)]
    for other in rest:
        *union, ranks_a, ranks_b = _merge_two(
            merged.data, merged.offsets, merged.counts, other.data, other.offsets, other.counts
        )
        merged = Words(*union)
        for n, old in enumerate(ranks):  # one by one, so that not all of them are in memory twice
            ranks[n] = ranks_a[old]
        ranks.append(ranks_b)
    return merged, ranks


# --- bigrams ----------------------------------------------------------------------------------------------------------


class _Head:
    """The unread front of a run's bigrams, renumbered."""

    def __init__(self, run: Run, ranks_W: np.ndarray, chunk: int) -> None:
        self.chunks, self.ranks_W = iter_bigrams(run, chunk), ranks_W
        self.keys, self.counts = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        self.is_done = False
        self.fill()

    def fill(self) -> None:
        """Read the next chunk if nothing is left."""
        if self.keys.size or self.is_done:
            return
        chunk = next(self.chunks, None)
        if chunk is None:
            self.is_done = True
            return
        keys, self.counts = chunk
        first = self.ranks_W[keys >> _U32].astype(np.uint64)
        second = self.ranks_W[keys & _LOW_32].astype(np.uint64)
        self.keys = first << _U32 | second

    def take(self, upto: np.uint64) -> tuple[np.ndarray, np.ndarray]:
        """Remove and return the bigrams with a key <= `upto`."""
        cut = int(np.searchsorted(self.keys, upto, side="right"))
        taken = self.keys[:cut], self.counts[:cut]
        self.keys, self.counts = self.keys[cut:], self.counts[cut:]
        return taken


def _merge_bigrams(
    runs: Sequence[Run], ranks: Sequence[np.ndarray], at_once: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield sorted (keys, counts) of all runs, equal keys summed; about `at_once` of them are in memory."""
    chunk = max(1, at_once // max(1, len(runs)))
    heads = [_Head(run, ranks_W, chunk) for run, ranks_W in zip(runs, ranks, strict=True)]
    while live := [head for head in heads if not head.is_done]:
        upto = min(head.keys[-1] for head in live)  # all bigrams up to here are in memory, of every run
        parts = [head.take(upto) for head in live]
        keys = np.concatenate([part[0] for part in parts])
        counts = np.concatenate([part[1] for part in parts])
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        firsts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        yield keys[firsts], np.add.reduceat(counts, firsts)
        for head in live:
            head.fill()


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
    runs, num_merged = list(runs), 0
    while (group_size := _merged_at_once(runs, fan_in)) < len(runs):
        group, runs = runs[:group_size], runs[group_size:]
        words, ranks = merge_words(map(read_words, group))
        merged = scratch / f"merged_{num_merged:05}"
        write_words(merged, binary_array(words.data, words.offsets), words.counts)
        with BigramWriter(merged) as writer:
            for keys_B, counts_B in _merge_bigrams(group, ranks, MERGED_AT_ONCE):
                writer.add(np.stack([keys_B, counts_B], axis=1))
        for run in group:
            if isinstance(run, Path) and run.parent == scratch:
                shutil.rmtree(run)
        runs.append(merged)
        num_merged += 1
    if not runs:
        return Counts(NO_WORDS, (), ())
    words, ranks = merge_words(map(read_words, runs))
    return Counts(words, tuple(runs), tuple(ranks))


def _merged_at_once(runs: Sequence[Run], fan_in: int) -> int:
    """Return how many of the first runs are merged at once: `fan_in`, or more parts that have few words together."""
    num_words = 0
    for position, run in enumerate(runs[:FAN_IN_OF_PARTS]):
        num_words += run.num_words if isinstance(run, Part) else FEW_WORDS + 1
        if position >= fan_in and num_words > FEW_WORDS:
            return position
    return min(len(runs), FAN_IN_OF_PARTS)
