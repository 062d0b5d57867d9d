"""What sampling did to the entries: how often each still matches among the kept texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.balance.stage import effective_entries
from worldclip.balance.sums import sum_shards
from worldclip.core import artifacts
from worldclip.core.execute import Executor, Shard
from worldclip.match.counts import count_entries

CURVE_POINTS = 60


def counts_path(run_dir: Path, shard: Shard) -> Path:
    return run_dir / "curate" / "counts" / f"{shard.name}.parquet"


def write_counts(run_dir: Path, shard: Shard, kept: pa.Table) -> None:
    """RUN/curate/counts/<shard>.parquet: in how many of the kept texts each entry occurs; zeros left out."""
    artifacts.write_table(counts_path(run_dir, shard), count_entries(kept), artifacts.MATCH_COUNTS)


def find_effect(
    run_dir: Path, lists: Mapping[str, int], shards: Sequence[Shard], executor: Executor
) -> dict[str, dict[str, Any]]:
    """{list with a match: sampled_curve of it}; lists: number of entries by name."""
    paths = [counts_path(run_dir, shard) for shard in shards]
    after = sum_shards(lists, paths, run_dir / "curate" / "sums", executor)
    found = {}
    for name in lists:
        before = np.load(run_dir / "balance" / "counts" / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if before.any():
            found[name] = sampled_curve(np.asarray(before), after[name])
    return found


def sampled_curve(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Matches by rank over the pool and, of the same entries, among the kept texts (1 = the most frequent entry).

    before, after: (num_entries,) uint64.  Returns {rank, matches, kept, effective_entries: [before, after]}: ranks
    are the last ones of up to CURVE_POINTS geometric bins, the others means over the bin.
    """
    order = np.argsort(-before.astype(np.int64), kind="stable")[: np.count_nonzero(before)]
    last = np.unique(np.geomspace(1, len(order), CURVE_POINTS).round().astype(np.int64))
    starts = np.concatenate([[0], last[:-1]])
    sizes = last - starts
    means = {
        name: (np.add.reduceat(counts[order].astype(np.float64), starts) / sizes).round(3).tolist()
        for name, counts in (("matches", before), ("kept", after))
    }
    return {"rank": last.tolist(), **means, "effective_entries": [effective_entries(before), effective_entries(after)]}
