"""Merge all lists into one: in sorted code order, the first of equal entries with its source and score.

Lists are read one by one.  Only the bytes of the entries kept stay in memory, with a hash table over them: about 50
bytes per entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.contracts.schemas import METADATA
from worldclip.core.arrow import string_buffers
from worldclip.core.artifacts import read_table, write_artifact
from worldclip.kernels.byte_table import empty_slots, find_slot, hash_bytes, put_row
from worldclip.kernels.llvm import kernel

_U0 = np.uint64(0)


def merge_lists(paths: Sequence[Path], merged: Path) -> dict[str, dict[str, int]]:
    """Write the entries of the tables `paths` (METADATA) to `merged`, each once.

    Returns {source: {in: entries read, kept: entries written}}.
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
        """at_most: number of strings that will be added, repeated ones included."""
        self._slots = empty_slots(at_most)
        self._ends = np.zeros(at_most + 1, np.int64)
        self._data = np.zeros(0, np.uint8)
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, strings: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Add strings; returns which of them equal no earlier one, of this call or before: (n,) bool."""
        data, offsets = string_buffers(strings)
        needed = int(self._ends[self._num] + offsets[-1] - offsets[0])
        if needed > self._data.size:
            self._data.resize(needed, refcheck=False)
        is_new = np.zeros(len(offsets) - 1, np.bool_)
        self._num = int(_add(data, offsets, is_new, self._slots, self._data, self._ends, self._num))
        return is_new


@kernel
def _add(data, offsets, is_new, slots, kept, kept_ends, num):
    starts, ends = kept_ends[:-1], kept_ends[1:]
    for row in range(is_new.size):
        start, end = offsets[row], offsets[row + 1]
        key = hash_bytes(data, start, end)
        slot = find_slot(data, start, end, key, kept, starts, ends, slots)
        if slots[slot] != _U0:
            continue
        is_new[row] = True
        for k in range(end - start):
            kept[starts[num] + k] = data[start + k]
        ends[num] = starts[num] + end - start
        put_row(slots, slot, key, num)
        num += 1
    return num
