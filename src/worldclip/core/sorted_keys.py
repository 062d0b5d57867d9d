"""Sets of many keys, sorted once on disk, so that a lookup maps a part of them and holds none.

    FILE.npy    (2, n) uint64: two hashes of each key, sorted by the first

128 bits stand for a key: among 10 billion keys, 100 billion others find one of them by mistake with a chance of 3e-18.
Sorting takes less than 1 GiB, a lookup memory for KEPT_WINDOWS windows, whatever n.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.core.arrow import Strings
from worldclip.core.artifacts import write_artifact
from worldclip.core.coin import hash_keys
from worldclip.core.spill import BATCH_ROWS, open_database

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


def write_sorted(path: Path, batches: Iterable[Strings]) -> None:
    """Write the set of all keys in `batches`."""
    with open_database(path.with_name(f".{path.name}.sort")) as database:
        database.execute("CREATE TABLE pairs (first UBIGINT, second UBIGINT)")
        num_keys = 0
        for first, second in map(hash_pairs, batches):
            database.from_arrow(pa.table({"first": first, "second": second})).insert_into("pairs")
            num_keys += len(first)

        def write(aside: Path) -> None:
            ordered = database.sql("SELECT first, second FROM pairs ORDER BY first, second")
            header = {"descr": "<u8", "fortran_order": False, "shape": (2, num_keys)}
            with open(aside, "wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                begin, start = file.tell(), 0
                for batch in ordered.to_arrow_reader(BATCH_ROWS):
                    for row in (0, 1):
                        file.seek(begin + 8 * (row * num_keys + start))
                        file.write(batch.column(row).to_numpy().data)
                    start += len(batch)

        write_artifact(path, write)
