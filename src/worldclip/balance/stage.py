"""The stage: counts of matches per entry -> the threshold of each list -> the probability of each entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from worldclip.balance.config import BalanceConfig
from worldclip.balance.formulas import entry_probs
from worldclip.balance.thresholds import choose_thresholds, find_warnings, thresholds_record
from worldclip.contracts import layout, schemas
from worldclip.contracts.entry_counts import effective_entries, sum_shards
from worldclip.core import artifacts
from worldclip.core.artifacts import Json
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.job import Job, Record, Result, Run
from worldclip.core.preflight import problems_of
from worldclip.match.config import MatchConfig

CURVE_POINTS = 120  # points of the head-tail curve in the report
TOP_ENTRIES = 20  # entries per list in the report


def balance(run: Run) -> None:
    """Sum the counts of all shards; write RUN/balance/thresholds.json, <list>.npy and counts/<list>.npy (uint64)."""
    run.stage(run.job("balance", _inputs), problems=_problems, work=_balance)


def _inputs(run: Run) -> Record:
    return {"match": artifacts.require_manifest(run.dir, "match")["digest"]}


def _balance(run: Run, job: Job) -> Result:
    config = run.section(BalanceConfig)
    entry_lists = run.section(MatchConfig).entry_lists
    lists, counts = _sum_counts(run)
    thresholds = choose_thresholds(counts, config, entry_lists)
    table = thresholds_record(counts, thresholds, config, entry_lists)
    warnings = find_warnings(counts, config, entry_lists)
    probs = {name: list_probs(counts[name], thresholds[name]) for name in lists}
    for name in lists:
        artifacts.write_array(layout.entry_probs(run.dir, name), probs[name])
        artifacts.write_array(layout.entry_counts(run.dir, name), counts[name])
    artifacts.write_json(layout.thresholds(run.dir), table)
    for warning in warnings:
        say("balance", warning)
    arrays = [path_of(run.dir, name) for path_of in (layout.entry_probs, layout.entry_counts) for name in lists]
    return Result(
        report={
            **table,
            "warnings": warnings,
            "curves": {name: head_tail_curve(counts[name], thresholds[name]) for name in lists},
            "top_entries": {name: _top_entries(run.dir, name, counts[name], probs[name]) for name in lists},
        },
        counts={"lists": len(lists), "matches": sum(row["num_matches"] for row in table["lists"].values())},
        outputs=[layout.thresholds(run.dir), job.folder / "sums", *arrays],
    )


def _problems(run: Run) -> Iterator[str]:
    """Yield that the rule lacks a threshold or matches, before an older result goes; else the work itself says it."""
    if run.above_is_done and artifacts.read_manifest(layout.stage_dir(run.dir, "balance")) is not None:
        yield from problems_of(_choose_thresholds, run)


def _choose_thresholds(run: Run) -> None:
    _, counts = _sum_counts(run)
    choose_thresholds(counts, run.section(BalanceConfig), run.section(MatchConfig).entry_lists)


def _sum_counts(run: Run) -> tuple[Mapping[str, int], dict[str, np.ndarray]]:
    """Return the number of entries of each list, and the matches of each entry, summed over all shards."""
    matched = artifacts.require_manifest(run.dir, "match")
    lists = matched["lists"]
    shards = counted_shards(run.dir, matched["counts"].get("shards"))
    return lists, sum_shards(
        lists, layout.all_match_counts(run.dir), shards, layout.stage_dir(run.dir, "balance") / "sums", run.executor
    )


def counted_shards(run_dir: Path, num_shards: int | None = None) -> list[str]:
    """Return the names of the shards that match has counted, sorted.  Raises UserError if there are not `num_shards`.

    A network folder may show new files late, and a sum over some of the shards would look like any other.
    """
    shards = layout.counted_shards(run_dir)
    if num_shards is not None and len(shards) != num_shards:
        raise UserError(
            f"{run_dir}/match/counts: {len(shards):,} files are visible, match wrote {num_shards:,}. If others write "
            f"to this folder, wait a minute and run again. Otherwise run: worldclip match {run_dir}"
        )
    return shards


def list_probs(counts: np.ndarray, threshold: int | None) -> np.ndarray:
    """Return entry_probs as saved, (num_entries,) float32; all 1 for a list without a match."""
    if threshold is None:
        return np.ones(len(counts), np.float32)
    return entry_probs(counts, threshold).astype(np.float32)


def head_tail_curve(counts: np.ndarray, threshold: int | None) -> Json:
    """Return matches by rank before and after balancing, at up to CURVE_POINTS ranks.

    balanced: min(count, threshold), the matches that an entry's own probability would leave.  Texts that other entries
    keep add to that.
    """
    descending = np.sort(counts[counts > 0])[::-1]
    balanced = np.minimum(descending, np.uint64(threshold or 1))
    last = max(1, len(descending))
    ranks = np.unique(np.geomspace(1, last, CURVE_POINTS).round().astype(np.int64))[: len(descending)]
    return {
        "rank": ranks.tolist(),
        "matches": descending[ranks - 1].tolist(),
        "balanced": balanced[ranks - 1].tolist(),
        "effective_entries": [effective_entries(descending), effective_entries(balanced)],
    }


def _top_entries(run_dir: Path, name: str, counts: np.ndarray, probs: np.ndarray) -> list[Json]:
    """Return the most frequent entries of a list; ties in the order of the list."""
    order = np.argsort(-counts.astype(np.int64), kind="stable")[:TOP_ENTRIES]
    order = order[counts[order] > 0]
    table = artifacts.read_table(layout.entries(run_dir, name), schemas.METADATA, ["entry", "source"])
    rows = table.take(order).to_pylist()
    return [
        {"entry": row["entry"], "source": row["source"], "matches": int(counts[i]), "prob": float(probs[i])}
        for row, i in zip(rows, order, strict=True)
    ]
