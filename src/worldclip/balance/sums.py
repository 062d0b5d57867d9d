"""The exact sums of the shards' counts: one by one for a few shards, by groups in parallel for very many."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip import formats
from worldclip.columns import codes_of, names_of
from worldclip.execute import Executor, Report, Shard, remove_stale

GROUP_SIZE = 2048  # shards added up by one worker; fewer shards than this are added here


def counted_shards(run_dir: Path) -> list[Path]:
    """Files of counts, one a shard now in the pool, sorted."""
    return sorted((run_dir / "match" / "counts").rglob("*.parquet"))


def sum_shards(
    num_entries: Mapping[str, int],
    shards: Sequence[Path],
    folder: Path,
    executor: Executor,
    group_size: int = GROUP_SIZE,
) -> dict[str, np.ndarray]:
    """`sum_counts` of all shards; where they are more than a group, sums of groups go to `folder` on the way.

    The sum is the same whatever the groups are: uint64 adds up in any order.  A group is added again only where one of
    its files changed.
    """
    if len(shards) <= group_size:
        remove_stale(folder, [])
        return sum_counts(num_entries, shards)
    groups = {f"{i // group_size:06}": shards[i : i + group_size] for i in range(0, len(shards), group_size)}
    work = [Shard(name=name, path="", fingerprint=_fingerprint(paths)) for name, paths in groups.items()]
    executor.map(
        functools.partial(_sum_group, num_entries=dict(num_entries), groups=groups, folder=folder),
        work,
        label="add",
        done_dir=folder / "done",
        key=dict(num_entries),
    )
    outputs = [folder / f"{name}.parquet" for name in groups]
    remove_stale(folder, [*outputs, *(folder / "done" / f"{name}.json" for name in groups)])
    return sum_counts(num_entries, outputs)


def _fingerprint(paths: Iterable[Path]) -> dict[str, str]:
    stats = ((path, os.stat(path)) for path in paths)
    return {"files": formats.digest([[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats])}


def _sum_group(
    group: Shard, *, num_entries: Mapping[str, int], groups: Mapping[str, Sequence[Path]], folder: Path
) -> Report:
    counts = sum_counts(num_entries, groups[group.name])
    matched = {name: np.flatnonzero(list_counts) for name, list_counts in counts.items()}
    names = [name for name, ids in matched.items() if len(ids)]
    table = pa.table(
        {
            "entries_lang": names_of(np.repeat(np.arange(len(names)), [len(matched[name]) for name in names]), names),
            "entry_id": np.concatenate([np.zeros(0, np.int32), *(matched[name].astype(np.int32) for name in names)]),
            "count": np.concatenate([np.zeros(0, np.uint64), *(counts[name][matched[name]] for name in names)]),
        }
    )
    formats.write_table(folder / f"{group.name}.parquet", table, formats.MATCH_COUNTS)
    return {"shards": len(groups[group.name])}


def sum_counts(num_entries: Mapping[str, int], shards: Iterable[Path]) -> dict[str, np.ndarray]:
    """Matches of every entry of each list over `shards`, read one by one: (num_entries,) uint64."""
    counts = {name: np.zeros(size, np.uint64) for name, size in num_entries.items()}
    for shard in shards:
        add_counts(counts, shard)
    return counts


def add_counts(counts: Mapping[str, np.ndarray], shard: Path) -> None:
    """Add one file's sparse counts, in place; an entry occurs once in a file."""
    table = formats.read_table(shard, formats.MATCH_COUNTS)
    codes, names = codes_of(table.column("entries_lang"))
    entry_ids, of_shard = table.column("entry_id").to_numpy(), table.column("count").to_numpy()
    order = np.argsort(codes, kind="stable")  # sorted already in files of ours, which makes this one pass
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for name, start, stop in zip(names, bounds[:-1], bounds[1:], strict=True):
        rows = order[start:stop]
        counts[name][entry_ids[rows]] += of_shard[rows]
