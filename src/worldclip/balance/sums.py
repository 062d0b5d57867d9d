"""The exact sums of the shards' counts: here for a few shards, in two maps for very many.

First groups of shards are added up, each by one worker into an array of all lists end to end; then ranges of entries,
each by one worker over all groups.  What is left to this process is to read as many numbers as there are entries.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from worldclip.core import artifacts
from worldclip.core.arrow import one_array
from worldclip.core.execute import Executor, Report, Shard, repeatable
from worldclip.core.job import remove_stale

GROUP_SIZE = 2048  # shards added up by one worker; fewer shards than this are added here
RANGE_SIZE = 2**18  # entries added up over all groups by one worker


def counted_shards(run_dir: Path) -> list[Path]:
    """Files of counts, one a shard now in the pool, sorted."""
    return sorted((run_dir / "match" / "counts").rglob("*.parquet"))


def sum_counts(num_entries: Mapping[str, int], shards: Iterable[Path]) -> dict[str, np.ndarray]:
    """Matches of every entry of each list over `shards`, read one by one: (num_entries,) uint64."""
    return _split(_add_files(num_entries, shards), num_entries)


def sum_shards(
    num_entries: Mapping[str, int],
    shards: Sequence[Path],
    folder: Path,
    executor: Executor,
    group_size: int = GROUP_SIZE,
    range_size: int = RANGE_SIZE,
) -> dict[str, np.ndarray]:
    """`sum_counts` of all shards; where they are more than a group, sums of groups and ranges go to `folder`.

    The sum is the same whatever the groups are: uint64 adds up in any order.  A group is added again only where one of
    its files changed.
    """
    if len(shards) <= group_size:
        remove_stale(folder, [])
        return sum_counts(num_entries, shards)
    lists = dict(num_entries)
    groups = [_group(i // group_size, shards[i : i + group_size]) for i in range(0, len(shards), group_size)]
    add = functools.partial(_add_group, num_entries=lists, folder=folder)
    executor.map(add, groups, label="add", done_dir=folder / "done/groups", key=lists)
    known = artifacts.digest([group.fingerprint for group in groups])
    ranges = [
        Shard(name=f"{start:012}", path="", fingerprint={"groups": known, "size": range_size})
        for start in range(0, sum(lists.values()), range_size)
    ]
    add = functools.partial(_add_range, groups=[_group_path(folder, group.name) for group in groups], folder=folder)
    executor.map(add, ranges, label="sum", done_dir=folder / "done/ranges", key=lists)
    _remove_stale(folder, groups, ranges)
    return _split(np.concatenate([np.load(_range_path(folder, part.name)) for part in ranges]), lists)


def add_counts(total: np.ndarray, starts: Mapping[str, int], shard: Path) -> None:
    """Add one file's sparse counts, in place; an entry occurs once in a file.

    total: all lists end to end, uint64; starts: where each list begins.
    """
    table = artifacts.read_table(shard, artifacts.MATCH_COUNTS)
    lists = one_array(table.column("entries_lang"))
    start_of_code = np.array([starts[name] for name in lists.dictionary.to_pylist()], np.int64)
    places = start_of_code[lists.indices.to_numpy(zero_copy_only=False)] if len(lists) else np.zeros(0, np.int64)
    total[places + table.column("entry_id").to_numpy()] += table.column("count").to_numpy()


def list_starts(num_entries: Mapping[str, int]) -> dict[str, int]:
    """Where each list begins in an array of all lists end to end."""
    ends = np.cumsum([0, *num_entries.values()])
    return dict(zip(num_entries, ends.tolist(), strict=False))


def _add_files(num_entries: Mapping[str, int], shards: Iterable[Path]) -> np.ndarray:
    total, starts = np.zeros(sum(num_entries.values()), np.uint64), list_starts(num_entries)
    for shard in shards:
        add_counts(total, starts, shard)
    return total


def _split(total: np.ndarray, num_entries: Mapping[str, int]) -> dict[str, np.ndarray]:
    return {name: total[start : start + num_entries[name]] for name, start in list_starts(num_entries).items()}


# many shards


def _group(number: int, files: Sequence[Path]) -> Shard:
    """A unit of work that names its files itself: a list of all files would go to every worker with every group."""
    root = os.path.commonpath([file.parent for file in files])
    stats = ((file, file.stat()) for file in files)
    known = [[os.path.relpath(file, root), stat.st_size, stat.st_mtime_ns] for file, stat in stats]
    return Shard(name=f"{number:06}", path=root, fingerprint={"files": known})


def _group_path(folder: Path, name: str) -> Path:
    return folder / "groups" / f"{name}.npy"


def _range_path(folder: Path, name: str) -> Path:
    return folder / "ranges" / f"{name}.npy"


@repeatable
def _add_group(group: Shard, *, num_entries: Mapping[str, int], folder: Path) -> Report:
    """Write the sum of a group's files, all lists end to end, in the smallest unsigned type that holds it."""
    files = [Path(group.path) / name for name, _, _ in group.fingerprint["files"]]
    total = _add_files(num_entries, files)
    smallest = np.min_scalar_type(int(total.max(initial=0)))
    artifacts.write_array(_group_path(folder, group.name), total.astype(smallest))
    return {"shards": len(files)}


@repeatable
def _add_range(part: Shard, *, groups: Sequence[Path], folder: Path) -> Report:
    """Write the sum over all groups of the entries from int(part.name) on."""
    start = int(part.name)
    rows = slice(start, start + part.fingerprint["size"])
    total: np.ndarray = np.load(groups[0], mmap_mode="r", allow_pickle=False)[rows].astype(np.uint64)
    for group in groups[1:]:
        total += np.load(group, mmap_mode="r", allow_pickle=False)[rows]
    artifacts.write_array(_range_path(folder, part.name), total)
    return {"entries": len(total)}


def _remove_stale(folder: Path, groups: Sequence[Shard], ranges: Sequence[Shard]) -> None:
    keep = [_group_path(folder, group.name) for group in groups]
    keep += [_range_path(folder, part.name) for part in ranges]
    keep += [folder / "done/groups" / f"{group.name}.json" for group in groups]
    keep += [folder / "done/ranges" / f"{part.name}.json" for part in ranges]
    remove_stale(folder, keep)
