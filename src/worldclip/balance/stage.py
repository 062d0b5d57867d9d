"""The stage: counts of matches per entry -> the threshold of each list -> the probability of each entry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.balance.config import BalanceConfig
from worldclip.balance.formulas import entry_probs
from worldclip.balance.thresholds import choose_thresholds, find_warnings, thresholds_record
from worldclip.contracts import layout, schemas
from worldclip.contracts.entry_counts import effective_entries, sum_shards
from worldclip.contracts.records import HeadTailCurve, MatchedEntry
from worldclip.core import artifacts
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.job import Job, Record, Result, Run
from worldclip.core.preflight import problems_of
from worldclip.core.printable import command_line
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
    counts = _sum_counts(run)
    thresholds = choose_thresholds(counts, config, entry_lists)
    table = thresholds_record(counts, thresholds, config, entry_lists)
    warnings = find_warnings(counts, config, entry_lists)
    artifacts.write_json(layout.thresholds(run.dir), table)
    for warning in warnings:
        say("balance", warning)
    outputs = [layout.thresholds(run.dir), job.folder / "sums"]
    digests = {}
    curves = {}
    top_entries = {}
    for name, list_counts in counts.items():
        probs = list_probs(list_counts, thresholds[name])
        digests[name] = hashlib.sha256(probs.data).hexdigest()[:32]
        artifacts.write_array(layout.entry_probs(run.dir, name), probs)
        artifacts.write_array(layout.entry_counts(run.dir, name), list_counts)
        outputs += [layout.entry_probs(run.dir, name), layout.entry_counts(run.dir, name)]
        curves[name] = head_tail_curve(list_counts, thresholds[name])
        most_first = np.argsort(-list_counts.astype(np.int64), kind="stable")  # ties in the order of the list
        top = most_first[: min(TOP_ENTRIES, np.count_nonzero(list_counts))]
        top_entries[name] = describe_entries(run.dir, name, top)
    return Result(
        report={**table, "warnings": warnings, "curves": curves, "top_entries": top_entries},
        counts={"lists": len(counts), "matches": sum(row["num_matches"] for row in table["lists"].values())},
        outputs=outputs,
        manifest={"digests": digests},
    )


def _problems(run: Run) -> Iterator[str]:
    """Yield that the rule lacks a threshold or matches, before an older result goes; else the work itself says it."""
    if run.above_is_done and artifacts.read_manifest(layout.stage_dir(run.dir, "balance")) is not None:
        config = run.section(BalanceConfig)
        entry_lists = run.section(MatchConfig).entry_lists
        yield from problems_of(lambda: choose_thresholds(_sum_counts(run), config, entry_lists))


def _sum_counts(run: Run) -> dict[str, np.ndarray]:
    """Return the matches of each entry of each list, summed over all shards.

    Raises UserError if shards are missing: a network folder may show new files late, and a sum over some of the shards
    would look like any other.
    """
    matched = artifacts.require_manifest(run.dir, "match")
    shards = layout.counted_shards(run.dir)
    num_shards = matched["counts"].get("shards", len(shards))
    if len(shards) != num_shards:
        raise UserError(
            f"{run.dir}/match/counts: {len(shards):,} files are visible, match wrote {num_shards:,}. If others write "
            f"to this folder, wait a minute and run again. Otherwise run: {command_line('match', run.dir)}"
        )
    sums = layout.stage_dir(run.dir, "balance") / "sums"
    return sum_shards(matched["lists"], layout.all_match_counts(run.dir), shards, sums, run.executor)


def list_probs(counts: np.ndarray, threshold: int | None) -> np.ndarray:
    """Return entry_probs as saved, (num_entries,) float32; all 1 for a list without a match."""
    if threshold is None:
        return np.ones(len(counts), np.float32)
    return entry_probs(counts, threshold).astype(np.float32)


def head_tail_curve(counts: np.ndarray, threshold: int | None) -> HeadTailCurve:
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


def describe_entries(run_dir: Path, list_name: str, ids: np.ndarray) -> list[MatchedEntry]:
    """Return entry, source, matches and prob of some entries of a list."""
    table = artifacts.read_table(layout.entries(run_dir, list_name), schemas.METADATA, ["entry", "source"])
    counts = np.load(layout.entry_counts(run_dir, list_name), mmap_mode="r", allow_pickle=False)
    probs = np.load(layout.entry_probs(run_dir, list_name), mmap_mode="r", allow_pickle=False)
    rows = table.take(pa.array(ids)).append_column("matches", pa.array(counts[ids]))
    entries: list[MatchedEntry] = rows.append_column("prob", pa.array(probs[ids])).to_pylist()
    return entries
