"""Sets of many keys, sorted once on disk, so that a lookup maps a part of them and holds none.

    FILE.npy    (2, n) uint64: two hashes of each key, sorted by the first

128 bits stand for a key: among 10 billion keys, 100 billion others find one of them by mistake with a chance of 3e-18.
Sorting takes memory for ROWS_PER_RANGE keys, a lookup for KEPT_WINDOWS windows, whatever n.
"""

from __future__ import annotations

import functools
import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np

from worldclip.core.arrow import Strings
from worldclip.core.artifacts import folder_aside, write_artifact
from worldclip.core.coin import hash_keys
from worldclip.core.execute.shards import raise_file_limit

ROWS_PER_RANGE = 4_000_000  # 64 MB that are sorted in memory
MAX_RANGES = 4_096  # files that are open at once, fewer where the system allows less
WINDOW_ROWS = 4_000_000  # 64 MB that are mapped at once
KEPT_WINDOWS = 4
# Rows that a window shares with the next: keys with one first hash may stand on both sides of the border.
OVERLAP_ROWS = 64
_SEEDS = (0, 1)


def hash_pairs(keys: Strings) -> np.ndarray:
    """Return two hashes of each key, (2, n) uint64."""
    return np.stack([hash_keys(keys, seed) for seed in _SEEDS])


class SortedKeys:
    """A set of keys in a file of `write_sorted`."""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        assert isinstance(mapped, np.memmap)
        self._path = path
        self._start = int(mapped.offset)
        self._num_keys = int(mapped.shape[1])
        self._first_hashes = np.array(mapped[0, ::WINDOW_ROWS])
        self._window = functools.lru_cache(maxsize=KEPT_WINDOWS)(self._map_window)

    def __len__(self) -> int:
        return self._num_keys

    def contains(self, keys: Strings) -> np.ndarray:
        """Return whether each key is in the set: (n,) bool."""
        first, second = hash_pairs(keys)
        is_in = np.zeros(len(first), np.bool_)
        if not self._num_keys or not len(first):
            return is_in
        order = np.argsort(first)
        first, second = first[order], second[order]
        # `left`: a key whose first hash begins a window may stand at the end of the one before, see OVERLAP_ROWS
        window_of_key = np.maximum(np.searchsorted(self._first_hashes, first, side="left") - 1, 0)
        windows, starts = np.unique(window_of_key, return_index=True)
        stops = np.append(starts[1:], len(first))
        for window, start, stop in zip(windows.tolist(), starts, stops, strict=True):
            is_in[order[start:stop]] = _find(self._window(window), first[start:stop], second[start:stop])
        return is_in

    def _map_window(self, number: int) -> Sequence[np.ndarray]:
        """Map the first and the second hashes of a window; the map goes with the arrays."""
        start = number * WINDOW_ROWS
        num_rows = min(self._num_keys - start, WINDOW_ROWS + OVERLAP_ROWS)
        offsets = [self._start + 8 * (row * self._num_keys + start) for row in (0, 1)]
        return [np.memmap(self._path, np.uint64, "r", offset, (num_rows,)) for offset in offsets]


def _find(window: Sequence[np.ndarray], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return whether each pair of hashes is in the window, (n,) bool; first: rising."""
    firsts, seconds = window
    is_found = np.zeros(len(first), np.bool_)
    queries = np.arange(len(first))
    rows = np.searchsorted(firsts, first)
    while len(queries):  # again only for keys whose first hash other keys have too
        is_same = rows < len(firsts)
        is_same[is_same] = firsts[rows[is_same]] == first[queries[is_same]]
        queries, rows = queries[is_same], rows[is_same]
        is_hit = seconds[rows] == second[queries]
        is_found[queries[is_hit]] = True
        queries, rows = queries[~is_hit], rows[~is_hit] + 1
    return is_found


def write_sorted(path: Path, batches: Iterable[Strings], num_keys: int) -> None:
    """Write the set of all keys in `batches`; num_keys: about their number, which decides the number of ranges."""
    raise_file_limit()
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    max_ranges = min(MAX_RANGES, max(1, soft_limit // 4)) if soft_limit != resource.RLIM_INFINITY else MAX_RANGES
    bits = max(0, min(max_ranges, -(-num_keys // ROWS_PER_RANGE)) - 1).bit_length()
    with folder_aside(path) as folder:
        ranges = [folder / f"{number:04}" for number in range(1 << bits)]
        num_rows = _split_by_range(ranges, bits, batches)

        def write(aside: Path) -> None:
            header = {"descr": "<u8", "fortran_order": False, "shape": (2, sum(num_rows))}
            with open(aside, "wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                begin = file.tell()
                start = 0
                for pairs in map(_sorted_range, ranges):
                    for row in (0, 1):
                        file.seek(begin + 8 * (row * sum(num_rows) + start))
                        file.write(pairs[row].data)
                    start += pairs.shape[1]

        write_artifact(path, write)


def _split_by_range(ranges: Sequence[Path], bits: int, batches: Iterable[Strings]) -> list[int]:
    """Write the hashes of all keys into the file of their range, by the first bits; return the number of each."""
    num_rows = [0] * len(ranges)
    with ExitStack() as opened:
        files = [opened.enter_context(open(path, "wb", buffering=0)) for path in ranges]
        for pairs in map(hash_pairs, batches):
            for number, part in _by_range(pairs, bits):
                files[number].write(np.ascontiguousarray(part.T).data)
                num_rows[number] += part.shape[1]
    return num_rows


def _by_range(pairs: np.ndarray, bits: int) -> Iterator[tuple[int, np.ndarray]]:
    if not bits:
        yield 0, pairs
        return
    range_of_key = (pairs[0] >> np.uint64(64 - bits)).astype(np.uint16)
    order = np.argsort(range_of_key, kind="stable")  # a radix sort
    bounds = np.searchsorted(range_of_key[order], np.arange((1 << bits) + 1))
    for number, (start, stop) in enumerate(pairwise(bounds)):
        if start < stop:
            yield number, pairs[:, order[start:stop]]


def _sorted_range(path: Path) -> np.ndarray:
    """Return the hashes of a range, (2, n) uint64 sorted by the first."""
    pairs = np.fromfile(path, np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(pairs[np.argsort(pairs[:, 0])].T)
