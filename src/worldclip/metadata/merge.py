"""All lists as one: in sorted code order, the first of equal entries with its source and score.

Lists pass one by one; only the bytes of the entries kept stay in memory, with a hash table over them: about 40 bytes an
entry.  Equal hashes are no proof, so that bytes are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from worldclip.core.arrow import string_buffers
from worldclip.core.artifacts import METADATA, read_table, write_artifact
from worldclip.core.coin import hash_keys


def merge_lists(paths: Sequence[Path], merged: Path) -> dict[str, dict[str, int]]:
    """Write the entries of the tables `paths` (METADATA), each once, to `merged`; returns for each source how many
    went in and were kept.
    """
    went_in: Counter[str] = Counter()
    kept: Counter[str] = Counter()

    def write(aside: Path) -> None:
        seen = Seen(sum(pq.read_metadata(path).num_rows for path in paths))
        with pq.ParquetWriter(aside, METADATA, compression="zstd") as writer:
            for path in paths:
                table = read_table(path, METADATA).combine_chunks()
                first_id = len(seen)
                new = table.filter(pa.array(seen.add(table["entry"])))
                went_in.update(_by_source(table))
                kept.update(_by_source(new))
                entry_ids = pa.array(np.arange(first_id, len(seen), dtype=np.int32))
                writer.write_table(new.set_column(0, METADATA.field("entry_id"), entry_ids).cast(METADATA))

    write_artifact(merged, write)
    return {source: {"in": went_in[source], "kept": kept[source]} for source in went_in}


def _by_source(table: pa.Table) -> dict[str, int]:
    counts = table["source"].cast(pa.string()).combine_chunks().value_counts()
    return {row["values"]: row["counts"] for row in counts.to_pylist()}


class Seen:
    """The strings that were added, each once."""

    def __init__(self, at_most: int) -> None:
        """at_most: strings that will be added, repeated ones included."""
        num_slots = 1 << max(4, (2 * at_most).bit_length())  # at most half full
        self._slots = np.zeros(num_slots, np.int32)  # number of a string + 1
        self._ends = np.zeros(at_most + 1, np.int64)
        self._data = np.zeros(0, np.uint8)
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, strings: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """(n,) bool: which of `strings` nothing before equals, neither here nor in what was added earlier."""
        data, offsets = string_buffers(strings)
        needed = int(self._ends[self._num] + offsets[-1] - offsets[0])
        if needed > self._data.size:
            self._data.resize(needed, refcheck=False)
        is_new = np.zeros(len(offsets) - 1, np.bool_)
        hashes = hash_keys(strings)
        self._num = int(_add(data, offsets, hashes, is_new, self._slots, self._data, self._ends, self._num))
        return is_new


@njit(cache=True, nogil=True)
def _add(data, offsets, hashes, is_new, slots, seen, ends, num):
    mask = np.uint64(slots.size - 1)
    for row in range(is_new.size):
        start, stop = offsets[row], offsets[row + 1]
        slot = hashes[row] & mask
        while slots[slot] and not _is_same(data, start, stop, seen, ends[slots[slot] - 1], ends[slots[slot]]):
            slot = (slot + np.uint64(1)) & mask
        if slots[slot]:
            continue
        is_new[row] = True
        at = ends[num]
        for k in range(stop - start):
            seen[at + k] = data[start + k]
        num += 1
        ends[num] = at + stop - start
        slots[slot] = num
    return num


@njit(cache=True, nogil=True)
def _is_same(data_a, start_a, stop_a, data_b, start_b, stop_b):
    if stop_a - start_a != stop_b - start_b:
        return False
    k = 0
    while k < stop_a - start_a and data_a[start_a + k] == data_b[start_b + k]:
        k += 1
    return k == stop_a - start_a
