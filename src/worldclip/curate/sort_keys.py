"""The kept keys as DataComp's subset file, sorted by maps: no process holds more than a group or a range of them.

Groups of shards are sorted, each by one worker.  A sample of every group's keys gives the bounds of ranges of about
equal size, and each range is collected from all groups by one worker.  The ranges end to end are the sorted list.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout, schemas
from worldclip.core import artifacts, keys
from worldclip.core.execute import Executor, FileGroups, Report, Shard, files_of, group_starts
from worldclip.curate.candidates import read_curated

GROUP_KEYS = 2**23  # sorted by one worker at once, in some 400 MB
RANGE_KEYS = 2**23  # collected by one worker at once, about
SAMPLES_PER_RANGE = 2**10  # sampled keys of a range: its size differs from RANGE_KEYS by some percent
FILE_KEYS = 2**31  # keys of one file, 34 GB; DataComp's largest pool has 13 billion


def write_keys(
    run_dir: Path,
    shards: Sequence[Shard],
    num_kept: Sequence[int],
    executor: Executor,
) -> tuple[list[Path], int | None]:
    """Write the kept keys as sorted and unique u8,u8 if all are 128-bit hex: RUN/curate/keys.npy, or keys/<number>.npy.

    num_kept: of the pairs of each shard.  Return (the files, the number of keys); ([], None) where a key is not hex or
    nothing is kept.  Older files that are not written again are removed.
    """
    folder = layout.key_work(run_dir)
    every = max(1, RANGE_KEYS // SAMPLES_PER_RANGE)
    sorted_groups = _sort_groups(run_dir, shards, num_kept, executor, every)
    files: list[Shard] = []
    number = None
    if sorted_groups is not None:
        groups, samples = sorted_groups
        ranges, range_reports = _sort_ranges(run_dir, groups, _bounds(samples, RANGE_KEYS // every), executor)
        sizes = [int(report["pairs"]) for report in range_reports]
        number = sum(sizes)
        files = _plan_files(ranges, sizes)
    paths = [layout.stage_dir(run_dir, "curate") / file.name for file in files]
    for path in layout.curated_keys(run_dir):
        if path not in paths:
            path.unlink()
    join = functools.partial(_join_ranges, run_dir=run_dir)
    executor.map(join, files, label="keys", done_dir=layout.done_dir(folder, "files"), key={})
    artifacts.remove(folder)
    return paths, number


def _sort_groups(
    run_dir: Path, shards: Sequence[Shard], num_kept: Sequence[int], executor: Executor, every: int
) -> tuple[FileGroups, np.ndarray] | None:
    """Sort the keys of each group of shards; return the groups and every `every`-th key of each, sorted: (n,) u8,u8.

    None where a key is not hex or nothing is kept.
    """
    first = next((i for i, number in enumerate(num_kept) if number), None)
    if first is None:
        return None
    _, is_hex = keys.hex_pairs(read_curated(run_dir, shards[first], ["key"]).column("key"))
    if not is_hex.all():  # most pools have keys of one kind, which the first shard shows
        return None
    names = [shard.name for shard in shards]
    groups = FileGroups(layout.stage_dir(run_dir, "curate"), names, ".parquet", group_starts(num_kept, GROUP_KEYS))
    folder = layout.key_work(run_dir)
    sort = functools.partial(_sort_group, folder=folder, every=every)
    done_dir = layout.done_dir(folder, "groups")
    samples = []
    for report in executor.map(sort, groups, label="sort keys", done_dir=done_dir, key={"every": every}):
        if not report["is_hex"]:
            return None
        samples.append(keys.hex_pairs(pa.array(report["samples"], pa.large_string()))[0])
    return groups, keys.sort_pairs(np.concatenate(samples))


def _sort_group(group: Shard, *, folder: Path, every: int) -> Report:
    """Write the sorted keys of a group's shards; report a sample of them, and whether all are hex."""
    parts = [np.zeros((0, 2), np.uint64)]
    for path in files_of(group):
        pairs, is_hex = keys.hex_pairs(artifacts.read_table(path, schemas.CURATED, ["key"]).column("key"))
        if not is_hex.all():
            return {"pairs": 0, "is_hex": False, "samples": []}
        parts.append(pairs)
    pairs = np.concatenate(parts)
    parts.clear()  # half of the memory
    sorted_keys = keys.sort_pairs(pairs)
    artifacts.write_array(layout.unit_array(folder, "groups", group.name), sorted_keys)
    samples = keys.hex_strings(sorted_keys[::every]).to_pylist()
    return {"pairs": len(sorted_keys), "is_hex": True, "samples": samples}


def _bounds(samples: np.ndarray, per_range: int) -> list[str]:
    """Return the first key of each range after the first, as hex."""
    bounds: list[str] = keys.hex_strings(samples[per_range::per_range]).to_pylist()
    return bounds


def _sort_ranges(
    run_dir: Path, groups: FileGroups, bounds: Sequence[str], executor: Executor
) -> tuple[list[Shard], Sequence[Report]]:
    """Collect each range of keys from all groups; return the ranges and their reports."""
    folder = layout.key_work(run_dir)
    groups_digest = groups.digest()
    edges = [None, *bounds, None]
    ranges = [
        Shard(name=f"{i:06}", path="", fingerprint={"groups": groups_digest, "start": edges[i], "stop": edges[i + 1]})
        for i in range(len(edges) - 1)
    ]
    sort = functools.partial(_sort_range, groups=groups.unit_names(), folder=folder)
    done_dir = layout.done_dir(folder, "ranges")
    return ranges, executor.map(sort, ranges, label="merge keys", done_dir=done_dir, key={})


def _sort_range(part: Shard, *, groups: Sequence[str], folder: Path) -> Report:
    """Write the sorted and unique keys of all groups from `start` to before `stop`; None: no bound."""
    parts = [np.zeros((0, 2), np.uint64)]
    start, stop = (_to_pair(part.fingerprint[name]) for name in ("start", "stop"))
    for name in groups:
        sorted_keys = np.load(layout.unit_array(folder, "groups", name), mmap_mode="r", allow_pickle=False)
        first = 0 if start is None else int(np.searchsorted(sorted_keys, start))
        end = len(sorted_keys) if stop is None else int(np.searchsorted(sorted_keys, stop))
        parts.append(np.array(sorted_keys[first:end]).view(np.uint64).reshape(-1, 2))
    pairs = np.concatenate(parts)
    parts.clear()
    merged = keys.sort_pairs(pairs)
    artifacts.write_array(layout.unit_array(folder, "ranges", part.name), merged)
    return {"pairs": len(merged)}


def _to_pair(key: str | None) -> np.ndarray | None:
    """Return a key of 32 hex digits as a () array of u8,u8."""
    return None if key is None else np.array((int(key[:16], 16), int(key[16:], 16)), keys.HEX_PAIR)


def _plan_files(ranges: Sequence[Shard], sizes: Sequence[int]) -> list[Shard]:
    """Return the files of the list, each with the ranges that it holds: one if FILE_KEYS allows."""
    pieces: list[list[int]] = [[]]
    in_file = 0
    for i, size in enumerate(sizes):
        if pieces[-1] and in_file + size > FILE_KEYS:
            pieces.append([])
            in_file = 0
        pieces[-1].append(i)
        in_file += size
    files = []
    for number, piece in enumerate(pieces):
        fingerprint = {
            "ranges": [ranges[i].name for i in piece],
            "keys": sum(sizes[i] for i in piece),
            "digest": artifacts.digest([ranges[i].fingerprint for i in piece]),
        }
        name = layout.key_file(number if len(pieces) > 1 else None)
        files.append(Shard(name=name, path="", fingerprint=fingerprint))
    return files


def _join_ranges(file: Shard, *, run_dir: Path) -> Report:
    """Write the ranges of a file end to end, with one of them in memory."""

    def parts() -> Iterator[np.ndarray]:
        for name in file.fingerprint["ranges"]:
            path = layout.unit_array(layout.key_work(run_dir), "ranges", name)
            yield np.load(path, mmap_mode="r", allow_pickle=False)

    number = file.fingerprint["keys"]
    path = layout.stage_dir(run_dir, "curate") / file.name
    artifacts.write_array_parts(path, (number,), keys.HEX_PAIR, parts())
    return {"pairs": number}
