"""The effect of sampling on entries: how often each still matches among the kept texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from worldclip.contracts import layout
from worldclip.contracts.entry_counts import effective_entries, sum_shards
from worldclip.contracts.records import SampledCurve
from worldclip.core.execute import Executor, Shard

CURVE_POINTS = 60


def sampled_curves(
    run_dir: Path, num_entries: Mapping[str, int], shards: Sequence[Shard], executor: Executor
) -> dict[str, SampledCurve]:
    """Return the curve of each list with a match; num_entries: of each list."""
    names = [shard.name for shard in shards]
    after = sum_shards(num_entries, layout.all_curated_counts(run_dir), names, layout.entry_sums(run_dir), executor)
    curves = {}
    for name in num_entries:
        before = np.load(layout.entry_counts(run_dir, name), mmap_mode="r", allow_pickle=False)
        if before.any():
            curves[name] = sampled_curve(np.asarray(before), after[name])
    return curves


def sampled_curve(before: np.ndarray, after: np.ndarray) -> SampledCurve:
    """Return matches by rank in the pool (1 = the most frequent entry), and of the same entries among the kept texts.

    before, after: (num_entries,) uint64.  The ranks are split into up to CURVE_POINTS geometric bins; `rank` is the
    last rank of each bin, `matches` and `kept` are means over it.
    """
    order = np.argsort(-before.astype(np.int64), kind="stable")[: np.count_nonzero(before)]
    last = np.unique(np.geomspace(1, len(order), CURVE_POINTS).round().astype(np.int64))
    starts = np.concatenate([[0], last[:-1]])

    def bin_means(counts: np.ndarray) -> list[float]:
        sums = np.add.reduceat(counts[order].astype(np.float64), starts)
        means: list[float] = (sums / (last - starts)).round(3).tolist()
        return means

    return {
        "rank": last.tolist(),
        "matches": bin_means(before),
        "kept": bin_means(after),
        "effective_entries": [effective_entries(before), effective_entries(after)],
    }
