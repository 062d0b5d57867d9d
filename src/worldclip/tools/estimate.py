"""Estimate what other thresholds would keep, per language, from the match files; write nothing.

Expected pairs are sums of keep probabilities, so they are exact up to the sampling itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np

from worldclip.balance.config import BalanceConfig
from worldclip.balance.formulas import tail_fraction
from worldclip.balance.stage import counted_shards, list_probs
from worldclip.balance.thresholds import choose_thresholds, find_warnings
from worldclip.contracts import layout
from worldclip.contracts.entry_counts import sum_counts
from worldclip.contracts.records import PairCounts, SizeCurve, read_accounting
from worldclip.core import artifacts, keys
from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.job import RunLock
from worldclip.core.marks import Commas, Metavar
from worldclip.curate import accounting
from worldclip.curate.candidates import decide_on, find_candidates, read_matched, text_probs
from worldclip.curate.config import CurateConfig
from worldclip.language.config import open_run
from worldclip.match.config import EntryLists, MatchConfig
from worldclip.pool.config import PoolConfig
from worldclip.report import write_report
from worldclip.report.balance import size_svg

GRID = 9  # values of the balance key tried in one pass over the match files when solving for a number of pairs
CLOSE = 0.001  # relative error at which a solution is accepted
MAX_PASSES = 8
NUM_VALUES = 27  # values per curve: three passes


class LanguageEstimate(TypedDict):
    """The expected counts of one language, or of all."""

    pairs_in: int
    pairs_matched: int
    """Pairs that may be kept."""
    expected_pairs: float
    threshold: NotRequired[int | None]
    tail_fraction: NotRequired[float]


class Candidate(TypedDict):
    """The expected result of one value of a balance key."""

    english_threshold: int | None
    tail_fraction: float | None
    warnings: list[str]
    total: LanguageEstimate
    languages: dict[str, LanguageEstimate]
    asked_pairs: NotRequired[float]


class Estimate(TypedDict):
    """The expected result of each value, in the unit of the text policy."""

    text_policy: str
    candidates: list[Candidate]


def estimate(
    run: str | Path, thresholds: Sequence[int] = (), tail_fractions: Sequence[float] = (), pairs: float | None = None
) -> Estimate:
    """Estimate what each English threshold and each tail fraction would keep.

    run: a folder whose stage match is finished.  pairs: also solve for the value that keeps this many, of the key that
    the recipe sets (english_threshold or tail_fraction).  Without any of the three, estimate the recipe itself.
    Raises UserError for values out of range.
    """
    matched = MatchedRun.open(Path(run))
    configs = [
        *(_with(matched.balance, english_threshold=int(threshold)) for threshold in thresholds),
        *(_with(matched.balance, tail_fraction=float(fraction)) for fraction in tail_fractions),
    ]
    problems = [problem for config in configs for problem in config.problems()]
    if pairs is not None and pairs <= 0:
        problems.append(f"--pairs = {pairs}: must be above 0 (the number of pairs to keep)")
    if problems:
        raise UserError(problems)
    if pairs is None and not configs:
        configs = [matched.balance]
    candidates = matched.estimate(configs)
    if pairs is not None:
        candidates.append(_solve(matched, pairs))
    return {"text_policy": matched.curate.text_policy, "candidates": candidates}


def _with(config: BalanceConfig, **values: Any) -> BalanceConfig:
    """Return the recipe's balance with another english_threshold or tail_fraction; floor and overrides stay."""
    cleared = {"english_threshold": None, "tail_fraction": None, "thresholds": None}
    keeps_rule = config.rule == "same_threshold" and "english_threshold" in values
    rule = config.rule if keeps_rule else "tail_fraction"
    return dataclasses.replace(config, **{**cleared, "rule": rule, **values})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MatchedRun:
    """A run after match: its recipe and the summed counts."""

    run_dir: Path
    balance: BalanceConfig
    curate: CurateConfig
    pool: PoolConfig
    entry_lists: EntryLists
    counts: Mapping[str, np.ndarray]
    list_of_lang: Mapping[str, str]

    @classmethod
    def open(cls, run_dir: Path) -> MatchedRun:
        run = open_run(run_dir)
        entry_lists = run.section(MatchConfig).entry_lists
        manifest = artifacts.require_manifest(run_dir, "match")
        return cls(
            run_dir=run_dir,
            balance=run.section(BalanceConfig),
            curate=run.section(CurateConfig),
            pool=run.section(PoolConfig),
            entry_lists=entry_lists,
            counts=sum_counts(
                manifest["lists"], (layout.match_counts(run_dir, shard) for shard in counted_shards(run_dir))
            ),
            list_of_lang={lang: entry_lists.list_of(lang) for lang in manifest["languages"]},
        )

    @property
    def key(self) -> str:
        """The balance key that the recipe sets, which `pairs` and curves vary."""
        return "tail_fraction" if self.balance.english_threshold is None else "english_threshold"

    @property
    def largest_count(self) -> int:
        """Matches of the most frequent entry, at least 1: a threshold above it keeps all."""
        return max((int(counts.max(initial=0)) for counts in self.counts.values()), default=0) or 1

    def values_over_range(self, num_values: int) -> np.ndarray:
        """Return up to `num_values` values of `key` over its whole range, ascending."""
        if self.key == "english_threshold":
            return _whole_numbers(1.0, self.largest_count + 1, num_values)
        return np.geomspace(0.001, 1.0, num_values).round(6)

    def estimate_values(self, values: np.ndarray) -> list[Candidate]:
        """Estimate these values of `key`, GRID of them in each pass over the match files."""
        configs = [_with(self.balance, **{self.key: value}) for value in values.tolist()]
        passes = [self.estimate(configs[start : start + GRID]) for start in range(0, len(configs), GRID)]
        return [candidate for candidates in passes for candidate in candidates]

    def estimate(self, configs: Sequence[BalanceConfig]) -> list[Candidate]:
        """Return one candidate per config, in one pass over the match files."""
        thresholds = [choose_thresholds(self.counts, config, self.entry_lists) for config in configs]
        probs = [{name: list_probs(counts, row[name]) for name, counts in self.counts.items()} for row in thresholds]
        candidates: list[Candidate] = []
        for config, by_list, (by_lang, total) in zip(configs, thresholds, self._count_pairs(probs), strict=True):
            rows = {lang: _columns(row) for lang, row in by_lang.items()}
            for lang, list_name in self.list_of_lang.items():
                if lang in rows:
                    threshold = by_list[list_name]
                    rows[lang]["threshold"] = threshold
                    rows[lang]["tail_fraction"] = tail_fraction(self.counts[list_name], threshold or 1)
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
        config = self.curate
        key_lists = keys.key_lists(self.pool.valid_keys, self.pool.deny_keys, layout.sorted_lists(self.run_dir))
        totals: list[accounting.LanguageCounts] = [{} for _ in probs]
        for shard in layout.matched_shards(self.run_dir):
            table = read_matched(self.run_dir, shard, self.pool.text_weights)
            candidates = find_candidates(table, config, key_lists, shard, self.pool.text_weights)
            for entry_probs, total in zip(probs, totals, strict=True):
                keep_prob = text_probs(table, entry_probs.__getitem__)
                decision = decide_on(candidates, keep_prob, config)
                counts = accounting.count_reasons(candidates, keep_prob, decision, config.text_policy)
                accounting.add_counts(total, counts)
        match = read_accounting(self.run_dir)
        return [accounting.account_for_all(match, total, config) for total in totals]


def _columns(row: PairCounts) -> LanguageEstimate:
    return {
        "pairs_in": row["pairs_in"],
        "pairs_matched": row["sampled_out"] + row["pairs_out"],
        "expected_pairs": row["expected_pairs"],
    }


def _solve(matched: MatchedRun, pairs: float) -> Candidate:
    """Return the candidate whose expected pairs are nearest to `pairs`, by a grid that narrows with each pass."""
    by_threshold = matched.key == "english_threshold"
    low, high = (1.0, float(matched.largest_count + 1)) if by_threshold else (0.0, 1.0)
    best: Candidate | None = None
    for _ in range(MAX_PASSES):
        grid = _whole_numbers(low, high, GRID) if by_threshold else np.linspace(low, high, GRID)
        candidates = matched.estimate_values(grid)
        sizes = np.array([candidate["total"]["expected_pairs"] for candidate in candidates])
        nearest = int(np.argmin(np.abs(sizes - pairs)))
        if best is None or abs(sizes[nearest] - pairs) < abs(best["total"]["expected_pairs"] - pairs):
            best = candidates[nearest]
        above = int(np.searchsorted(sizes, pairs))  # sizes ascend: a larger tail keeps more
        is_out_of_reach = above in (0, len(grid))
        is_close = abs(sizes[nearest] - pairs) <= CLOSE * pairs
        if is_close or is_out_of_reach or (by_threshold and high - low <= 1):
            break
        low, high = float(grid[above - 1]), float(grid[above])
    assert best is not None
    size = best["total"]["expected_pairs"]
    warnings = list(best["warnings"])
    if is_out_of_reach and abs(size - pairs) > CLOSE * pairs:
        limit = "most" if above else "fewest"
        warnings.append(f"{pairs:,.0f} are out of reach; {size:,.0f} are the {limit} that any value expects")
    return {**best, "warnings": warnings, "asked_pairs": pairs}


def _whole_numbers(low: float, high: float, num: int) -> np.ndarray:
    return np.unique(np.geomspace(low, high, num).round()).astype(np.int64)


def size_curve(run: str | Path, num_values: int = NUM_VALUES) -> SizeCurve:
    """Return the expected pairs over the whole range of the key that the recipe sets, for a plot."""
    matched = MatchedRun.open(Path(run))
    values = matched.values_over_range(num_values)
    candidates = matched.estimate_values(values)
    languages = candidates[0]["languages"]
    return {
        "text_policy": matched.curate.text_policy,
        "key": matched.key,
        "values": values.tolist(),
        "total": [row["total"]["expected_pairs"] for row in candidates],
        "languages": {lang: [row["languages"][lang]["expected_pairs"] for row in candidates] for lang in languages},
        "match": artifacts.require_manifest(Path(run), "match")["digest"],
    }


def check_plot_path(path: Path) -> None:
    """Raise UserError unless a plot can be written to `path`."""
    if path.suffix != ".svg":
        raise UserError(f"--plot {str(path)!r}: plots are SVG; give the file the suffix .svg")


def plot(sizes: SizeCurve, path: Path) -> None:
    """Draw a size_curve into the .svg file `path`."""
    check_plot_path(path)
    artifacts.write_text(path, size_svg(sizes))


def to_text(estimated: Estimate, num_languages: int = 12) -> str:
    """Return an estimate as text: a line per candidate, then its largest languages (the others as one line)."""
    unit = "images" if estimated["text_policy"] == "one" else "pairs"
    lines = []
    for candidate in estimated["candidates"]:
        if candidate["english_threshold"] is not None:
            setting = f"english_threshold = {candidate['english_threshold']:,.6g}"
        elif candidate["tail_fraction"] is not None:
            setting = f"tail_fraction = {candidate['tail_fraction']:,.6g}"
        else:
            setting = "balance.thresholds of the recipe"
        total = candidate["total"]
        lines.append(
            f"{setting}: {total['expected_pairs']:,.0f} of {total['pairs_in']:,} {unit} expected "
            f"({total['pairs_matched']:,} with a match)"
        )
        lines += [f"  warning: {warning}" for warning in candidate["warnings"]]
        lines.append(f"  {'language':<10}{'in':>15}{'matched':>15}{'expected':>15}{'threshold':>12}{'tail':>8}")
        rows = sorted(candidate["languages"].items(), key=lambda item: (-item[1]["expected_pairs"], item[0]))
        lines += [_line(lang, row) for lang, row in rows[:num_languages]]
        others: list[Mapping[str, Any]] = [row for _, row in rows[num_languages:]]
        if others:
            columns = ("pairs_in", "pairs_matched", "expected_pairs")
            lines.append(_line(f"{len(others)} more", {name: sum(row[name] for row in others) for name in columns}))
    return "\n".join(lines)


def _line(name: str, row: Mapping[str, Any]) -> str:
    threshold = f"{row['threshold']:,}" if row.get("threshold") else ""
    tail = f"{row['tail_fraction']:.1%}" if threshold else ""
    counts = f"{row['pairs_in']:>15,}{row['pairs_matched']:>15,}{row['expected_pairs']:>15,.0f}"
    return f"  {name:<10}{counts}{threshold:>12}{tail:>8}"


@Command
def estimate_run(
    run: Path,
    *,
    threshold: Annotated[Sequence[str], Metavar("N"), Commas()] = (),
    tail_fraction: Annotated[Sequence[str], Metavar("FRACTION"), Commas()] = (),
    pairs: str | None = None,
    plot: Annotated[Path | None, Metavar("FILE")] = None,
) -> tuple[Any, str]:
    """Estimate by language what other thresholds would keep; write nothing.

    run: folder of a run whose stage match is finished.
    threshold: English thresholds to try, separated by commas or spaces: 20000,170K.
    tail_fraction: tail fractions to try, separated by commas or spaces: 0.03,0.06.
    pairs: number of pairs to keep (10000, 10M, 1.5B); solves for the threshold or tail fraction that the recipe sets.
    plot: also plot size against threshold into this .svg file and into the run's report.html.

    Examples:
        worldclip estimate runs/my_images
        worldclip estimate runs/my_images --json
    """
    if plot is not None:
        check_plot_path(plot)
    thresholds = [int(_read_count("--threshold", text)) for text in threshold]
    fractions = [_read_count("--tail-fraction", text) for text in tail_fraction]
    size = None if pairs is None else _read_count("--pairs", pairs)
    report = estimate(run, thresholds=thresholds, tail_fractions=fractions, pairs=size)
    if plot is not None:
        _plot_sizes(run, plot)
    return report, to_text(report)


def _plot_sizes(run_dir: Path, path: Path) -> None:
    """Write the size curve as a plot, as RUN/estimate.json, and into the run's report."""
    with RunLock(run_dir):
        sizes = size_curve(run_dir)
        plot(sizes, path)
        artifacts.write_json(layout.estimates(run_dir), sizes)
        write_report(run_dir)


def _read_count(flag: str, text: str) -> float:
    """Return 10000, 10M, 1.5B as a number.  Raises UserError."""
    factor = {"K": 1e3, "M": 1e6, "B": 1e9}.get(text[-1:].upper())
    try:
        number = float(text) if factor is None else float(text[:-1]) * factor
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{flag} {text!r}: must be a number, optionally with K, M or B, for example 10M")
    return number
