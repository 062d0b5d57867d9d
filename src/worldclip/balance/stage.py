"""Counts of matches per entry -> the threshold of each list -> the probability of each entry.

The sums over shards are exact (uint64), so neither the number of workers nor the order of shards changes anything.
A *list* is what entry ids refer to: a language's own entries, or `merged` or `en` under match.isolate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.balance.config import BalanceConfig
from worldclip.balance.formulas import entry_probs, tail_fraction, threshold_for
from worldclip.balance.sums import counted_shards, sum_shards
from worldclip.core import artifacts
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.job import Job, Result, Run
from worldclip.language.entry_lists import EntryLists
from worldclip.match.config import MatchConfig

CURVE_POINTS = 120  # of the head-tail curve in the report
TOP_ENTRIES = 20


def balance(run: Run) -> None:
    """Sum the counts of all shards; write RUN/balance/thresholds.json, <list>.npy and counts/<list>.npy (uint64)."""
    run.stage("balance", inputs=_inputs, work=_balance)


def _inputs(run: Run) -> dict[str, Any]:
    inputs: dict[str, Any] = {"match": artifacts.require_manifest(run.dir, "match")["digest"]}
    thresholds = run.section(BalanceConfig).thresholds
    if isinstance(thresholds, str):
        inputs["thresholds"] = threshold_table(thresholds)
    return inputs


def _balance(run: Run, job: Job) -> Result:
    config, entry_lists = run.section(BalanceConfig), run.section(MatchConfig).entry_lists
    matched = artifacts.require_manifest(run.dir, "match")
    lists = matched["lists"]  # name -> number of entries
    counts = sum_shards(lists, _all_shards(run.dir, matched["counts"]), job.folder / "sums", run.executor)
    thresholds = choose_thresholds(counts, config, entry_lists)
    table = thresholds_record(counts, thresholds, config, entry_lists)
    warnings = find_warnings(counts, config, entry_lists)
    probs = {name: list_probs(counts[name], thresholds[name]) for name in lists}
    for name in lists:
        artifacts.write_array(job.folder / f"{name}.npy", probs[name])
        artifacts.write_array(job.folder / "counts" / f"{name}.npy", counts[name])
    artifacts.write_json(job.folder / "thresholds.json", table)
    for warning in warnings:
        say("balance", warning)
    arrays = [f"{part}{name}.npy" for part in ("", "counts/") for name in lists]
    return Result(
        report={
            **table,
            "warnings": warnings,
            "curves": {name: head_tail_curve(counts[name], thresholds[name]) for name in lists},
            "top_entries": {name: _top_entries(run.dir, name, counts[name], probs[name]) for name in lists},
        },
        counts={"lists": len(lists), "matches": sum(row["num_matches"] for row in table["lists"].values())},
        outputs=[job.folder / name for name in ("thresholds.json", "sums", *arrays)],
    )


def choose_thresholds(
    counts: Mapping[str, np.ndarray], config: BalanceConfig, entry_lists: EntryLists
) -> dict[str, int | None]:
    """The threshold of each list by the rule of `config`; None where a list has no match.

    counts: matches of every entry, list by list.  entry_lists: under merged and english there is one list,
    and english_threshold is its own.  Raises UserError where the rule needs what is not there.
    """
    matched = [name for name in counts if counts[name].any()]
    table = threshold_table(config.thresholds) if config.thresholds is not None else {}
    missing = [name for name in matched if name not in table and name not in config.tail_fractions]
    if config.rule == "table" and missing:
        raise UserError(
            f"balance.thresholds has no threshold for {', '.join(missing)}, which have matches; add them, "
            "or choose another balance.rule"
        )
    fraction = _carried_fraction(counts, config, entry_lists)
    thresholds: dict[str, int | None] = dict.fromkeys(counts)
    for name in matched:
        if name in config.tail_fractions:
            threshold = threshold_for(counts[name], config.tail_fractions[name])
        elif config.rule == "table":
            threshold = table[name]
        elif fraction is None or (config.english_threshold is not None and name == entry_lists.english):
            assert config.english_threshold is not None  # BalanceConfig.problems
            threshold = config.english_threshold
        else:
            threshold = threshold_for(counts[name], fraction)
        thresholds[name] = max(threshold, config.min_threshold, 1)
    return thresholds


def _carried_fraction(counts: Mapping[str, np.ndarray], config: BalanceConfig, entry_lists: EntryLists) -> float | None:
    """The tail fraction that every list gets, p; None where the rule carries a threshold or a table instead."""
    if config.rule != "tail_fraction":
        return None
    if config.english_threshold is None:
        return config.tail_fraction
    if entry_lists.has_one:
        return None
    if "en" not in counts or not counts["en"].any():
        raise UserError(
            f"balance.english_threshold is {config.english_threshold}; it carries English's share of tail matches to "
            "every language, and no English entry has a match; set balance.tail_fraction instead (0.06 in the paper)"
        )
    return tail_fraction(counts["en"], config.english_threshold)


def threshold_table(source: dict[str, int] | str) -> dict[str, int]:
    """list -> threshold of a table in the recipe, or of the thresholds.json that it names.  Raises UserError."""
    if isinstance(source, dict):
        return source
    path = Path(source)
    try:
        record = artifacts.read_json(path)
        rows = record["lists"]
        return {name: int(row["threshold"]) for name, row in rows.items() if row["threshold"] is not None}
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise UserError(
        f"balance.thresholds is {source!r}, which is not a readable thresholds.json ({reason}); name RUN/balance/"
        "thresholds.json of a finished run, or write a table of list = threshold"
    )


def _all_shards(run_dir: Path, counts: Mapping[str, Any]) -> list[Path]:
    """The files of counts, as many as the manifest of match says: a network's folder may show new files late."""
    found = counted_shards(run_dir)
    if len(found) != counts.get("shards", len(found)):
        raise UserError(
            f"{run_dir / 'match' / 'counts'} shows {len(found):,} files, match wrote {counts['shards']:,}; if others "
            f"write to this folder, wait a minute and run again, else run: worldclip match {run_dir}"
        )
    return found


def find_warnings(counts: Mapping[str, np.ndarray], config: BalanceConfig, entry_lists: EntryLists) -> list[str]:
    """What a person should know about thresholds that are valid and probably not meant."""
    english = entry_lists.english
    largest = int(counts[english].max(initial=0)) if english in counts else 0
    if config.english_threshold is None or not 0 < largest < config.english_threshold:
        return []
    return [
        f"no entry of list {english} reaches balance.english_threshold = {config.english_threshold} (the largest has "
        f"{largest} matches), so all of it is tail; `worldclip estimate` shows what other thresholds would keep"
    ]


def list_probs(counts: np.ndarray, threshold: int | None) -> np.ndarray:
    """entry_probs as saved: float32; all 1 for a list without a match."""
    if threshold is None:
        return np.ones(len(counts), np.float32)
    return entry_probs(counts, threshold).astype(np.float32)


def thresholds_record(
    counts: Mapping[str, np.ndarray],
    thresholds: Mapping[str, int | None],
    config: BalanceConfig,
    entry_lists: EntryLists,
) -> dict[str, Any]:
    """What thresholds.json holds: english_threshold and tail_fraction in effect, and one row a list."""
    lists = {
        name: {
            "threshold": thresholds[name],
            "tail_fraction": tail_fraction(list_counts, thresholds[name] or 1),
            "num_entries": len(list_counts),
            "num_matched_entries": int(np.count_nonzero(list_counts)),
            "num_matches": int(list_counts.sum()),
        }
        for name, list_counts in counts.items()
    }
    return {
        "english_threshold": thresholds.get("en") if config.english_threshold is None else config.english_threshold,
        "tail_fraction": _carried_fraction(counts, config, entry_lists),
        "lists": lists,
    }


def head_tail_curve(counts: np.ndarray, threshold: int | None) -> dict[str, Any]:
    """Matches by rank before and after balancing, at up to CURVE_POINTS ranks (1 = the most frequent entry).

    balanced: what an entry's own coin would leave of its matches, min(count, threshold); other entries of the same
    texts add to that.  effective_entries: exp of the entropy of the matches over entries, before and after.
    """
    falling = np.sort(counts[counts > 0])[::-1]
    balanced = np.minimum(falling, np.uint64(threshold or 1))
    last = max(1, len(falling))
    ranks = np.unique(np.geomspace(1, last, CURVE_POINTS).round().astype(np.int64))[: len(falling)]
    return {
        "rank": ranks.tolist(),
        "matches": falling[ranks - 1].tolist(),
        "balanced": balanced[ranks - 1].tolist(),
        "effective_entries": [effective_entries(falling), effective_entries(balanced)],
    }


def effective_entries(counts: np.ndarray) -> float:
    """exp(entropy): how many equally frequent entries would be as varied as these; 0.0 without a match."""
    positive = counts[counts > 0].astype(np.float64)
    if not len(positive):
        return 0.0
    share = positive / positive.sum()
    return round(float(np.exp(-(share * np.log(share)).sum())), 3)


def _top_entries(run_dir: Path, name: str, counts: np.ndarray, probs: np.ndarray) -> list[dict[str, Any]]:
    """The most frequent entries; ties in the list's order."""
    order = np.argsort(-counts.astype(np.int64), kind="stable")[:TOP_ENTRIES]
    order = order[counts[order] > 0]
    table = artifacts.read_table(run_dir / "metadata" / f"{name}.parquet", artifacts.METADATA, ["entry", "source"])
    rows = table.take(order).to_pylist()
    return [{**row, "matches": int(counts[i]), "prob": float(probs[i])} for row, i in zip(rows, order, strict=True)]
