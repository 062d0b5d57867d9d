"""Bring the rows of many shards together by key in bounded memory, for duplicates across shards and joins of pools.

    1  each shard    write_rows: its rows in a file, sorted by the XXH64 of their keys
    2  each range    read_range: the rows of all shards with hashes in one range; write_results: the range's results
    3  each shard    read_results: the results of all ranges for it
Files are Arrow IPC and memory-mapped: a range reads only its own pages of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.core.artifacts import write_artifact
from worldclip.core.coin import hash_keys

ROWS_PER_RANGE = 4_000_000  # in memory at once: under 1 GiB with keys of 100 bytes


def write_rows(path: Path, rows: pa.Table) -> None:
    """Write `rows` with a column `key` (no nulls), sorted by its hash; rows of one hash keep their order."""
    hashes = hash_keys(rows["key"])
    rows = rows.set_column(rows.schema.get_field_index("key"), "key", rows["key"].cast(pa.large_string()))
    _write(path, rows.append_column("hash", pa.array(hashes)).take(pa.array(np.argsort(hashes, kind="stable"))))


def num_ranges(num_rows: int, rows_per_range: int = ROWS_PER_RANGE) -> int:
    """Return the number of ranges for `num_rows`; results do not depend on it."""
    return max(1, -(-num_rows // rows_per_range))


def read_range(paths: Sequence[Path], number: int, of: int) -> pa.Table:
    """Return the rows of range `number` of `of`, file by file; column `shard` (int32) is the file's position."""
    low, high = (number << 64) // of, (number + 1 << 64) // of
    parts = []
    for shard, path in enumerate(paths):
        rows = _open(path)
        hashes = rows["hash"].to_numpy()
        start = int(np.searchsorted(hashes, np.uint64(low)))
        stop = int(np.searchsorted(hashes, np.uint64(high))) if number + 1 < of else len(hashes)
        part = rows.slice(start, stop - start)
        parts.append(part.append_column("shard", pa.array(np.full(stop - start, shard, np.int32))))
    return pa.concat_tables(parts).combine_chunks()


def write_results(path: Path, rows: pa.Table) -> None:
    """Write the results of a range: `rows` with a column `shard` (int32), sorted by it."""
    _write(path, rows.take(pa.array(np.argsort(rows["shard"].to_numpy(), kind="stable"))))


def read_results(paths: Sequence[Path], first: int, stop: int) -> pa.Table:
    """Return the results of all ranges for the shards first ... stop - 1."""
    parts = []
    for path in paths:
        rows = _open(path)
        start, end = np.searchsorted(rows["shard"].to_numpy(), np.array([first, stop], np.int32))
        parts.append(rows.slice(start, end - start))
    return pa.concat_tables(parts).combine_chunks()


def _write(path: Path, rows: pa.Table) -> None:
    def write(aside: Path) -> None:
        with pa.ipc.new_file(aside, rows.schema) as file:
            file.write_table(rows.combine_chunks())

    write_artifact(path, write)


def _open(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()
