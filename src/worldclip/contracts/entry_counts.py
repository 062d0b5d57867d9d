"""How many texts each entry occurs in: the sparse counts of one shard, and their exact sum over all shards.

Counts are uint64, so neither the number of workers nor the order of shards changes a sum.  A few shards are added up
by this process, very many in groups, each by one worker into an array of all lists end to end.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.arrow import codes_of, list_buffers, names_of
from worldclip.core.execute import Executor, Report, Shard
from worldclip.core.inputs import size_and_time
from worldclip.core.job import remove_stale

GROUP_SIZE = 2048  # up to this many shards are added up by this process
MAX_GROUPS = 64  # arrays of all entries that this process adds up


# one shard


def count_entries(table: pa.Table) -> pa.Table:
    """Return the sparse counts of rows of (entries_lang, entry_ids): entries_lang, entry_id, count, sorted by both."""
    codes, list_names = codes_of(table.column("entries_lang"))
    entry_ids, offsets = list_buffers(table.column("entry_ids"))
    # Texts of lists 0 and 1 with the ids [5, 7] and [5] have the matches (0, 5), (0, 7) and (1, 5), one number each.
    list_of_match = np.repeat(codes.astype(np.int64), np.diff(offsets))
    matches, counts = np.unique(list_of_match << 32 | entry_ids[offsets[0] : offsets[-1]], return_counts=True)
    return pa.table(
        {
            "entries_lang": names_of(matches >> 32, list_names),
            "entry_id": (matches & 0xFFFFFFFF).astype(np.int32),
            "count": counts.astype(np.uint64),
        }
    )


# a few shards


def sum_counts(num_entries: Mapping[str, int], files: Iterable[Path]) -> dict[str, np.ndarray]:
    """Return the matches of every entry of each list, (num_entries,) uint64, from count files read one by one."""
    return _split(_add_files(num_entries, files), num_entries)


def _add_files(num_entries: Mapping[str, int], files: Iterable[Path]) -> np.ndarray:
    """Return the sum of sparse counts, all lists end to end, uint64."""
    total = np.zeros(sum(num_entries.values()), np.uint64)
    starts = list_starts(num_entries)
    for file in files:
        table = artifacts.read_table(file, schemas.MATCH_COUNTS)
        codes, list_names = codes_of(table.column("entries_lang"))
        start_of_code = np.array([starts[name] for name in list_names], np.int64)
        positions = start_of_code[codes] + table.column("entry_id").to_numpy()
        total[positions] += table.column("count").to_numpy()  # an entry occurs once in a file: no position repeats
    return total


def list_starts(num_entries: Mapping[str, int]) -> dict[str, int]:
    """Return where each list begins in an array of all lists end to end."""
    ends = np.cumsum([0, *num_entries.values()])
    return dict(zip(num_entries, ends.tolist(), strict=False))


def _split(total: np.ndarray, num_entries: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the part of each list of an array of all lists end to end."""
    return {name: total[start : start + num_entries[name]] for name, start in list_starts(num_entries).items()}


# very many shards


def sum_shards(
    num_entries: Mapping[str, int],
    root: Path,
    shards: Sequence[str],
    folder: Path,
    executor: Executor,
) -> dict[str, np.ndarray]:
    """Return `sum_counts` of the count files `root`/<shard>.parquet; shards: names.

    With more than GROUP_SIZE files, sums of at most MAX_GROUPS groups go to `folder`.  A group is added up again only
    if one of its files changed.
    """
    if len(shards) <= GROUP_SIZE:
        remove_stale(folder, [])
        return sum_counts(num_entries, (root / f"{name}.parquet" for name in shards))
    lists = dict(num_entries)
    size = max(GROUP_SIZE, -(-len(shards) // MAX_GROUPS))
    groups = []
    outputs = []
    for start in range(0, len(shards), size):
        files = [[f"{name}.parquet", *size_and_time(f"{root}/{name}.parquet")] for name in shards[start : start + size]]
        group = Shard(name=f"{start:06}", path=str(root), fingerprint={"files": files})
        groups.append(group)
        outputs += [folder / f"{group.name}.npy", layout.marker(folder, group.name)]
    add_group = functools.partial(_add_group, num_entries=lists, folder=folder)
    executor.map(add_group, groups, label="add", done_dir=layout.done_dir(folder), key=lists)
    remove_stale(folder, outputs)
    total: np.ndarray = np.zeros(sum(lists.values()), np.uint64)
    for group in groups:
        total += np.load(folder / f"{group.name}.npy", mmap_mode="r", allow_pickle=False)
    return _split(total, lists)


def _add_group(group: Shard, *, num_entries: Mapping[str, int], folder: Path) -> Report:
    """Write the sum of a group's files, all lists end to end, in the smallest unsigned type that holds it."""
    files = group.fingerprint["files"]
    total = _add_files(num_entries, (Path(group.path) / name for name, *_ in files))
    smallest = np.min_scalar_type(int(total.max(initial=0)))
    artifacts.write_array(folder / f"{group.name}.npy", total.astype(smallest))
    return {"shards": len(files)}


# how varied


def effective_entries(counts: np.ndarray) -> float:
    """Return how many equally frequent entries would be as varied as these: exp(entropy); 0.0 without a match."""
    positive = counts[counts > 0].astype(np.float64)
    if not len(positive):
        return 0.0
    share = positive / positive.sum()
    return round(float(np.exp(-(share * np.log(share)).sum())), 3)
