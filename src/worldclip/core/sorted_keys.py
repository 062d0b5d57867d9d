"""Sets of many keys, sorted once on disk: workers share the pages of the file, and a lookup reads a few of them.

    FILE.npy    (2, n) uint64: two hashes of each key, sorted by the first

128 bits stand for a key: among 10 billion keys, 100 billion others find one of them by mistake with a chance of 3e-18.
Sorting takes less than 1 GiB of memory; a lookup maps the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.core.arrow import Strings
from worldclip.core.artifacts import whole_file
from worldclip.core.coin import hash_keys
from worldclip.core.spill import BATCH_ROWS, open_database

_SEEDS = (0, 1)


def hash_pairs(keys: Strings) -> np.ndarray:
    """Return two hashes of each key, (2, n) uint64."""
    return np.stack([hash_keys(keys, seed) for seed in _SEEDS])


class SortedKeys:
    """A set of keys in a file of `write_sorted`."""

    def __init__(self, path: Path) -> None:
        self._firsts, self._seconds = np.load(path, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self._firsts)

    def contains(self, keys: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return whether each key is in the set: (n,) bool."""
        first = hash_keys(keys, _SEEDS[0])
        is_in = np.zeros(len(first), np.bool_)
        queries = np.argsort(first)  # neighbours lie on the same pages
        rows = np.searchsorted(self._firsts, first[queries])
        while len(queries):  # again only for keys whose first hash other keys have too
            is_same = rows < len(self._firsts)
            is_same[is_same] = self._firsts[rows[is_same]] == first[queries[is_same]]
            queries, rows = queries[is_same], rows[is_same]
            is_hit = self._seconds[rows] == hash_keys(keys.take(pa.array(queries)), _SEEDS[1])
            is_in[queries[is_hit]] = True
            queries = queries[~is_hit]
            rows = rows[~is_hit] + 1
        return is_in


def write_sorted(path: Path, batches: Iterable[Strings]) -> None:
    """Write the set of all keys in `batches`."""
    with open_database(path.with_name(f".{path.name}.sort")) as database:
        database.execute("CREATE TABLE pairs (first UBIGINT, second UBIGINT)")
        num_keys = 0
        for first, second in map(hash_pairs, batches):
            database.from_arrow(pa.table({"first": first, "second": second})).insert_into("pairs")
            num_keys += len(first)
        ordered = database.sql("SELECT first, second FROM pairs ORDER BY first, second")
        with whole_file(path) as aside, open(aside, "wb") as file:
            header = {"descr": "<u8", "fortran_order": False, "shape": (2, num_keys)}
            np.lib.format.write_array_header_1_0(file, header)
            begin = file.tell()
            start = 0
            for batch in ordered.to_arrow_reader(BATCH_ROWS):
                for row in (0, 1):
                    file.seek(begin + 8 * (row * num_keys + start))
                    file.write(batch.column(row).to_numpy().data)
                start += len(batch)
