"""Bring the rows of many shards together by key in bounded memory, for duplicates across shards and joins of pools.

    1  each shard    write_rows: its rows in a file, sorted by the XXH64 of their keys
    2  each range    read_range: the rows of all shards with hashes in one range; write_results: the range's results
    3  each shard    read_results: the results of all ranges for it
Files are Arrow IPC and memory-mapped while they are read: a range reads only its own pages of them.

Every range opens every file of step 1.  Where that is too often, `merge_groups` first makes one file of each group of
files: with groups of sqrt(shards), 1.6 million shards and 25,000 ranges are 64 million opens, not 40 billion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.core.artifacts import write_artifact
from worldclip.core.coin import hash_keys
from worldclip.core.execute import Executor, Report, Shard

ROWS_PER_RANGE = 4_000_000  # rows in memory at once: under 1 GiB with keys of 100 bytes
MAX_OPENS = 200_000  # opened files, some 10 s: above it they are merged in groups first


def write_rows(path: Path, rows: pa.Table) -> None:
    """Write `rows` with a column `key` (no nulls), sorted by its hash; rows of one hash keep their order."""
    hashes = hash_keys(rows["key"])
    rows = rows.set_column(rows.schema.get_field_index("key"), "key", rows["key"].cast(pa.large_string()))
    _write(path, rows.append_column("hash", pa.array(hashes)).take(pa.array(np.argsort(hashes, kind="stable"))))


def num_ranges(num_rows: int) -> int:
    """Return the number of ranges for `num_rows`; results do not depend on it."""
    return max(1, -(-num_rows // ROWS_PER_RANGE))


def range_bounds(of: int) -> list[int | None]:
    """Return where each of `of` ranges of hashes begins, and None at the end."""
    return [(number << 64) // of for number in range(of)] + [None]


def read_range(paths: Sequence[Path], number: int, of: int) -> pa.Table:
    """Return the rows of range `number` of `of`, file by file; column `shard` (int32) is the file's position.

    Files of `merge` have that column.
    """
    low, high = range_bounds(of)[number : number + 2]
    return _read_all(paths, "hash", low, high)


def group_size(num_files: int, num_readers: int) -> int:
    """Return how many files `merge_groups` makes one of, before `num_readers` open all of them; 1: none."""
    return 1 if num_files * num_readers <= MAX_OPENS else math.ceil(math.sqrt(num_files))


def merge_groups(
    units: Sequence[Shard],
    folder: Path,
    executor: Executor,
    *,
    num_readers: int,
    num_rows: int,
    num_shards: int | None = None,
    label: str,
    out: Path,
    done_dir: Path,
    key: Any,
) -> list[Shard]:
    """Make one file in `out` of each group of files, before `num_readers` open all of them.

    units: what the files `folder`/<unit>.arrow were made of.  num_rows: of all files, about.
    num_shards: of the pool, for results of ranges, which are sorted by shard; None: the files are of `write_rows`.
    label, done_dir, key: as Executor.map takes them.
    Return a Shard for each group, with the path of its file; [] where the files are few enough as they are.
    """
    size = group_size(len(units), num_readers)
    if size == 1:
        return []
    groups = []
    for number, start in enumerate(range(0, len(units), size)):
        name = f"{number:06}"
        members = {unit.name: unit.fingerprint for unit in units[start : start + size]}
        groups.append(
            Shard(name=name, path=str(out / f"{name}.arrow"), fingerprint={"first": start, "members": members})
        )
    num_parts = num_ranges(num_rows * size // len(units))
    if num_shards is None:
        merge_files = partial(_merge_group, folder=folder, column="hash", bounds=range_bounds(num_parts))
    else:
        num_parts = min(num_shards, num_parts)
        bounds = [part * num_shards // num_parts for part in range(num_parts)]
        merge_files = partial(_merge_group, folder=folder, column="shard", bounds=[*bounds, None])
    executor.map(merge_files, groups, label=label, done_dir=done_dir, key=key)
    return groups


def _merge_group(group: Shard, *, folder: Path, column: str, bounds: Sequence[int | None]) -> Report:
    paths = [folder / f"{name}.arrow" for name in group.fingerprint["members"]]
    merge(Path(group.path), paths, column, bounds, group.fingerprint["first"])
    return {"files": len(paths)}


def merge(path: Path, paths: Sequence[Path], column: str, bounds: Sequence[int | None], first_shard: int = 0) -> None:
    """Write the rows of several files, each sorted by `column`, as one that is.

    Of equal ones those of the first file come first.  column: hash or shard.  bounds: of the parts that are sorted in
    memory, the last is None.  first_shard: position of the first file, see `read_range`.
    """

    def write(aside: Path) -> None:
        schema = _read_all(paths[:1], column, 0, 0).schema
        with pa.ipc.new_file(aside, schema) as file:
            for low, high in pairwise(bounds):
                part = _read_all(paths, column, low, high, first_shard)
                order = np.argsort(part[column].to_numpy(), kind="stable")
                file.write_table(part.take(pa.array(order)).combine_chunks())

    write_artifact(path, write)


def _read_all(paths: Sequence[Path], column: str, low: int | None, high: int | None, first_shard: int = 0) -> pa.Table:
    """Return the rows of all files whose `column` is in [low, high), with the column `shard`, as one chunk."""
    parts = []
    for shard, path in enumerate(paths, first_shard):
        part = _read(path, column, low, high)
        if "shard" not in part.column_names:
            part = part.append_column("shard", pa.array(np.full(len(part), shard, np.int32)))
        parts.append(part)
    return pa.concat_tables(parts).combine_chunks()


def write_results(path: Path, rows: pa.Table) -> None:
    """Write the results of a range: `rows` with a column `shard` (int32), sorted by it."""
    _write(path, rows.take(pa.array(np.argsort(rows["shard"].to_numpy(), kind="stable"))))


def read_results(paths: Sequence[Path], first: int, stop: int) -> pa.Table:
    """Return the results of all ranges for the shards first ... stop - 1."""
    return _read_all(paths, "shard", first, stop)


def _write(path: Path, rows: pa.Table) -> None:
    def write(aside: Path) -> None:
        with pa.ipc.new_file(aside, rows.schema) as file:
            file.write_table(rows.combine_chunks())

    write_artifact(path, write)


def _read(path: Path, column: str, low: int | None, high: int | None) -> pa.Table:
    """Return the rows of a file whose sorted `column` is in [low, high), None: without a bound.

    They are copied, so that the map goes: the maps of 1,600 files would count as gigabytes of this process.
    """
    batches = []
    one_thread = pa.ipc.IpcReadOptions(use_threads=False)  # another thread may keep the map for a while
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source, options=one_thread)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            start, stop = _slice_of(batch.column(column).to_numpy(), low, high)
            batches.append(batch.take(pa.array(np.arange(start, stop))))
        return pa.Table.from_batches(batches, file.schema)


def _slice_of(values: np.ndarray, low: Any, high: Any) -> tuple[int, int]:
    start = 0 if low is None else int(np.searchsorted(values, values.dtype.type(low)))
    stop = len(values) if high is None else int(np.searchsorted(values, values.dtype.type(high)))
    return start, stop
