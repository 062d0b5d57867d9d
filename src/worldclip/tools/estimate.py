"""Estimate what other thresholds would keep, per language, from the match files; write nothing.

Expected pairs are sums of keep probabilities, so they are exact up to the sampling itself: of n expected pairs the run
keeps n with a standard deviation of at most sqrt(n), and so does a larger pool of which this one is a sample.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from worldclip import pool
from worldclip.balance import formulas
from worldclip.balance.config import BalanceConfig
from worldclip.balance.stage import list_probs
from worldclip.balance.thresholds import choose_thresholds, find_warnings
from worldclip.contracts import layout
from worldclip.contracts.entry_counts import sum_counts
from worldclip.contracts.matched import read_matched_texts
from worldclip.contracts.records import PairCounts, read_accounting, read_cpu_time
from worldclip.contracts.summary import unit_of
from worldclip.core import artifacts, keys
from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.job import Report
from worldclip.core.marks import Commas, Metavar
from worldclip.core.printable import command_line, counted
from worldclip.curate import accounting
from worldclip.curate.candidates import DECIDING_COLUMNS, CurateWork, decide_on, text_probs
from worldclip.curate.config import CurateConfig
from worldclip.language.config import open_run
from worldclip.match.config import EntryLists, MatchConfig
from worldclip.pool.config import PoolConfig

CPU_LABELS = {"pool": ("pool",), "match": ("match", "count"), "curate": ("caps", "curate")}
"""Stage -> the labels of its maps over shards; copies (curate.write) are left out."""
AT_ONCE = 9  # values of the balance key estimated in one pass over the match files
FEW_PAIRS = 100  # fewer expected pairs may be off by more than 10%, 1 / sqrt(n)
# From pool to curate a shard takes 33 ms of CPU time whatever its size, and a pair 6.7 us (shards of 100 to 50,000
# captions; docs/scale.md): the former is a tenth of the time at 50,000 pairs, half of it at 5,000.
SMALL_SHARD = 50_000
NUM_ROUGH_NAMED = 10  # languages


def estimate(
    run: Path,
    *,
    threshold: Annotated[Sequence[int], Metavar("N"), Commas()] = (),
    tail_fraction: Annotated[Sequence[float], Metavar("FRACTION"), Commas()] = (),
) -> Report:
    """Estimate by language what other thresholds would keep; write nothing.

    Without values, estimate the recipe itself.  Also returns the CPU time that the run's stages took, see `cpu_time`.

    run: folder of a run whose stage match is finished.
    threshold: English thresholds to try, separated by commas or spaces: 20000,170000.
    tail_fraction: tail fractions to try, separated by commas or spaces: 0.03,0.06.

    Raises UserError for values out of range.

    Examples:
        worldclip estimate runs/my_images
        worldclip estimate runs/my_images --json
    """
    matched = MatchedRun.open(Path(run))
    configs = [_with(matched.balance, english_threshold=value) for value in threshold]
    configs += [_with(matched.balance, tail_fraction=value) for value in tail_fraction]
    problems: list[str] = []
    for config in configs:
        problems += config.problems()
    if problems:
        raise UserError(problems)
    candidates = matched.estimate(configs or [matched.balance])
    return {
        "text_policy": matched.work.config.text_policy,
        "candidates": candidates,
        "cpu_s_per_million_pairs": cpu_time(matched.work.run_dir),
        "cpu_sample": cpu_sample(matched.work.run_dir),
    }


def cpu_time(run_dir: Path) -> dict[str, float]:
    """Return the CPU seconds of the workers per million pairs of the pool, by stage, of stages that were measured.

    A shard takes the mean of those that this run has processed, without the first one of each worker, which loads and
    compiles code.
    """
    counts = artifacts.require_manifest(run_dir, "pool")["counts"]
    measured = read_cpu_time(run_dir)
    seconds = {}
    for stage, labels in CPU_LABELS.items():
        if labels[-1] not in measured and labels[0] not in measured:
            continue
        of_shard = sum(measured[label]["seconds"] / measured[label]["shards"] for label in labels if label in measured)
        seconds[stage] = of_shard * counts["shards"] / counts["pairs"] * 1e6
    return seconds


def cpu_sample(run_dir: Path) -> Report | None:
    """Return on what the CPU time was measured: shards (of the stage with the fewest) and mean pairs_per_shard."""
    measured = read_cpu_time(run_dir)
    shards: list[int] = []
    for labels in CPU_LABELS.values():
        shards += [measured[label]["shards"] for label in labels if label in measured]
    if not shards:
        return None
    counts = artifacts.require_manifest(run_dir, "pool")["counts"]
    return {"shards": min(shards), "pairs_per_shard": round(counts["pairs"] / counts["shards"])}


def _with(config: BalanceConfig, **values: Any) -> BalanceConfig:
    """Return the recipe's balance with another english_threshold or tail_fraction; floor and overrides stay."""
    rule = config.rule if "english_threshold" in values else "tail_fraction"
    return dataclasses.replace(config, **{"english_threshold": None, "tail_fraction": None, "rule": rule, **values})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MatchedRun:
    """A run after match: its recipe and the summed counts."""

    balance: BalanceConfig
    work: CurateWork
    """The inputs of curate's decision, without the probabilities of balance."""
    entry_lists: EntryLists
    counts: Mapping[str, np.ndarray]
    list_of_lang: Mapping[str, str]

    @classmethod
    def open(cls, run_dir: Path) -> MatchedRun:
        """Sum up the counts of match.  Raises UserError where match is not finished, or a list of keys has changed."""
        run = open_run(run_dir)
        entry_lists = run.section(MatchConfig).entry_lists
        manifest = artifacts.require_manifest(run_dir, "match")
        key_lists = pool.key_lists(run)
        changed = keys.changed_lists(key_lists, manifest["inputs"]["key_lists"])
        if changed:
            raise UserError(
                f"{layout.stage_dir(run_dir, 'match')} is out of date: new or changed: {', '.join(changed)}; "
                f"run first: {command_line('run', run_dir, '--until', 'match')}"
            )
        files = [layout.match_counts(run_dir, shard) for shard in layout.counted_shards(run_dir)]
        return cls(
            balance=run.section(BalanceConfig),
            work=CurateWork(
                run_dir=run_dir,
                config=run.section(CurateConfig),
                key_lists=key_lists,
                balance_digest="",
                text_weights=run.section(PoolConfig).text_weights,
            ),
            entry_lists=entry_lists,
            counts=sum_counts(manifest["lists"], files),
            list_of_lang={lang: entry_lists.list_of(lang) for lang in manifest["languages"]},
        )

    @property
    def key(self) -> str:
        """The balance key that the recipe sets, which the explorer's slider varies."""
        return "tail_fraction" if self.balance.english_threshold is None else "english_threshold"

    def values_over_range(self, num_values: int) -> np.ndarray:
        """Return up to `num_values` values of `key` over its whole range, ascending."""
        if self.key == "tail_fraction":
            return np.geomspace(0.001, 1.0, num_values).round(6)
        largest = 1
        for counts in self.counts.values():
            largest = max(largest, int(counts.max(initial=0)))
        thresholds = np.geomspace(1.0, largest + 1, num_values)  # one above all counts keeps all
        return np.unique(thresholds.round()).astype(np.int64)

    def estimate_values(self, values: np.ndarray) -> list[Report]:
        """Estimate these values of `key`, AT_ONCE of them in each pass over the match files."""
        configs = [_with(self.balance, **{self.key: value}) for value in values.tolist()]
        candidates = []
        for start in range(0, len(configs), AT_ONCE):
            candidates += self.estimate(configs[start : start + AT_ONCE])
        return candidates

    def estimate(self, configs: Sequence[BalanceConfig]) -> list[Report]:
        """Return one candidate per config, in one pass over the match files.

        Keys: english_threshold, tail_fraction, warnings, total and languages, by code: pairs_in, pairs_matched (that
        may be kept), expected_pairs, relative_error (1 / sqrt(expected_pairs)), of a language also threshold and
        tail_fraction.
        """
        thresholds = []
        probs = []
        for config in configs:
            by_list = choose_thresholds(self.counts, config, self.entry_lists)
            thresholds.append(by_list)
            probs.append({name: list_probs(counts, by_list[name]) for name, counts in self.counts.items()})
        candidates: list[Report] = []
        for config, by_list, (by_lang, total) in zip(configs, thresholds, self._count_pairs(probs), strict=True):
            rows = {lang: _columns(row) for lang, row in by_lang.items()}
            for lang, list_name in self.list_of_lang.items():
                if lang in rows:
                    threshold = by_list[list_name]
                    rows[lang]["threshold"] = threshold
                    rows[lang]["tail_fraction"] = formulas.tail_fraction(self.counts[list_name], threshold or 1)
            candidates.append(
                {
                    "english_threshold": config.english_threshold,
                    "tail_fraction": config.tail_fraction,
                    "warnings": find_warnings(self.counts, config, self.entry_lists),
                    "total": _columns(total),
                    "languages": rows,
                }
            )
        return candidates

    def _count_pairs(self, probs: Sequence[Mapping[str, np.ndarray]]) -> list[tuple[dict[str, PairCounts], PairCounts]]:
        """Return curate's (counts per language, total) under each of these entry probabilities, caps aside."""
        run_dir = self.work.run_dir
        config = self.work.config
        totals: list[accounting.LanguageCounts] = [{} for _ in probs]
        for shard in layout.matched_shards(run_dir):
            table = read_matched_texts(run_dir, shard, DECIDING_COLUMNS)
            candidates = self.work.candidates(table, shard)
            for entry_probs, total in zip(probs, totals, strict=True):
                keep_prob = text_probs(table, entry_probs.__getitem__)
                accounting.add_counts(total, accounting.count_reasons(decide_on(candidates, keep_prob, config)))
        match = read_accounting(run_dir)
        return [accounting.account_for_all(match, total, config) for total in totals]


def _columns(row: PairCounts) -> Report:
    expected = row["expected_pairs"]
    return {
        "pairs_in": row["pairs_in"],
        "pairs_matched": row["sampled_out"] + row["pairs_out"],
        "expected_pairs": expected,
        "relative_error": 1 / math.sqrt(expected) if expected else None,
    }


def to_text(estimated: Report, num_languages: int = 12) -> str:
    """Return an estimate as text: a line per candidate, then its largest languages (the others as one line)."""
    unit = unit_of(estimated["text_policy"])
    lines = []
    for candidate in estimated["candidates"]:
        if candidate["english_threshold"] is not None:
            setting = f"english_threshold = {candidate['english_threshold']:,.6g}"
        else:
            setting = f"tail_fraction = {candidate['tail_fraction']:,.6g}"
        total = candidate["total"]
        lines.append(
            f"{setting}: {total['expected_pairs']:,.0f} of {total['pairs_in']:,} {unit} expected "
            f"({total['pairs_matched']:,} with a match)"
        )
        lines += [f"  warning: {warning}" for warning in candidate["warnings"]]
        lines.append(f"  {'language':<10}{'in':>15}{'matched':>15}{'expected':>15}{'threshold':>12}{'tail':>8}")
        rows = sorted(candidate["languages"].items(), key=lambda item: (-item[1]["expected_pairs"], item[0]))
        lines += [_line(lang, row) for lang, row in rows[:num_languages]]
        sums: Counter[str] = Counter()
        for _, row in rows[num_languages:]:
            for name in ("pairs_in", "pairs_matched", "expected_pairs"):
                sums[name] += row[name]
        if sums:
            lines.append(_line(f"{len(rows) - num_languages} more", sums))
        rough = [lang for lang, row in rows if 0 < row["expected_pairs"] < FEW_PAIRS]
        if rough:
            named = ", ".join(rough[:NUM_ROUGH_NAMED])
            if len(rough) > NUM_ROUGH_NAMED:
                named += f" and {len(rough) - NUM_ROUGH_NAMED} more"
            lines.append(
                f"  rough: {named}, with fewer than {FEW_PAIRS} pairs each; a number n may be off by 1 / sqrt(n), "
                f"which is over {1 / math.sqrt(FEW_PAIRS):.0%}"
            )
    return "\n".join([*lines, *_cpu_lines(estimated)])


def _cpu_lines(estimated: Report) -> list[str]:
    """Return the CPU time per million pairs, and of a billion, and on how many shards of which size it was measured."""
    seconds: Mapping[str, float] = estimated["cpu_s_per_million_pairs"]
    if not seconds:
        return ["CPU time: not measured (the first shard of each worker, which loads compiled code, does not count)"]
    total = sum(seconds.values())
    parts = []
    for stage in CPU_LABELS:
        time = f"{seconds[stage]:,.1f}" if stage in seconds else "not measured"
        parts.append(f"{stage} {time}")
    hours = total * 1000 / 3600
    sample = estimated["cpu_sample"]
    lines = [
        f"CPU time: {total:,.1f} s per million pairs ({', '.join(parts)}); {hours:,.1f} core-hours per billion",
        f"measured on {counted(sample['shards'], 'shard')} of {sample['pairs_per_shard']:,} pairs",
    ]
    if sample["pairs_per_shard"] < SMALL_SHARD:
        lines[-1] += f"; rough: below {SMALL_SHARD:,} a shard's own cost counts, and larger shards take less per pair"
    return lines


def _line(name: str, row: Mapping[str, Any]) -> str:
    threshold = ""
    tail = ""
    if row.get("threshold"):
        threshold = f"{row['threshold']:,}"
        tail = f"{row['tail_fraction']:.1%}"
    counts = f"{row['pairs_in']:>15,}{row['pairs_matched']:>15,}{row['expected_pairs']:>15,.0f}"
    return f"  {name:<10}{counts}{threshold:>12}{tail:>8}"


ESTIMATE = Command(estimate, lambda estimated, flags: to_text(estimated))
"""Estimate by language what other thresholds would keep; write nothing."""
