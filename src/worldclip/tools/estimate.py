"""What other thresholds would keep, per language, from the match files: nothing is written.

Expected pairs are sums of keep probabilities, so exact up to the sampling itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.balance.config import BalanceConfig
from worldclip.balance.formulas import tail_fraction
from worldclip.balance.stage import choose_thresholds, find_warnings, list_probs
from worldclip.balance.sums import counted_shards, sum_counts
from worldclip.core import artifacts, keys
from worldclip.core.errors import UserError
from worldclip.core.execute import Report
from worldclip.core.job import Run
from worldclip.curate.accounting import report_shard, total_report
from worldclip.curate.candidates import find_candidates, matched_shards, text_probs
from worldclip.curate.config import CurateConfig
from worldclip.language.entry_lists import EntryLists
from worldclip.match.config import MatchConfig
from worldclip.pool.config import PoolConfig
from worldclip.report.balance import SizeCurve, size_svg

GRID = 9  # candidates of one pass over the match files when solving for a number of pairs
CLOSE = 0.001  # a solution this near, relatively, is near enough
MAX_PASSES = 8
NUM_VALUES = 27  # of a curve: three passes
_COLUMNS = ["key", "text_idx", "lang", "entries_lang", "entry_ids"]


def estimate(
    run: str | Path,
    thresholds: Sequence[int] = (),
    tail_fractions: Sequence[float] = (),
    pairs: float | None = None,
) -> dict[str, Any]:
    """What each English threshold and each tail fraction would keep; with `pairs`, which of them keeps that many.

    run: a folder whose stage match is finished.  Without any of the three, what the recipe itself keeps.
    Returns {text_policy, candidates: [{english_threshold, tail_fraction, warnings, total, languages: {lang: {pairs_in,
    pairs_matched, expected_pairs, threshold, tail_fraction}}}]}, pairs counted as in curate's report.  `pairs` solves
    for the key that the recipe sets, english_threshold or tail_fraction.  Raises UserError for values out of range.
    """
    world = _World.open(Path(run))
    configs = [
        *(_with(world.balance, english_threshold=int(threshold)) for threshold in thresholds),
        *(_with(world.balance, tail_fraction=float(fraction)) for fraction in tail_fractions),
    ]
    problems = [problem for config in configs for problem in config.problems()]
    if pairs is not None and pairs <= 0:
        problems.append(f"--pairs is {pairs}; it is how many pairs to keep and must be above 0")
    if problems:
        raise UserError(problems)
    if pairs is None and not configs:
        configs = [world.balance]
    candidates = world.expect(configs)
    if pairs is not None:
        candidates.append(_solve(world, pairs))
    return {"text_policy": world.curate.text_policy, "candidates": candidates}


def _with(config: BalanceConfig, **values: Any) -> BalanceConfig:
    """The recipe's balance under another english_threshold or tail_fraction; its floor and overrides stay."""
    cleared = {"english_threshold": None, "tail_fraction": None, "thresholds": None}
    keeps_rule = config.rule == "same_threshold" and "english_threshold" in values
    rule = config.rule if keeps_rule else "tail_fraction"
    return dataclasses.replace(config, **{**cleared, "rule": rule, **values})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _World:
    """A run after match: its recipe and the summed counts."""

    run_dir: Path
    balance: BalanceConfig
    curate: CurateConfig
    pool: PoolConfig
    entry_lists: EntryLists
    counts: Mapping[str, np.ndarray]
    list_of_lang: Mapping[str, str]

    @classmethod
    def open(cls, run_dir: Path) -> _World:
        run = Run.open(run_dir)
        entry_lists = run.section(MatchConfig).entry_lists
        manifest = artifacts.require_manifest(run_dir, "match")
        return cls(
            run_dir=run_dir,
            balance=run.section(BalanceConfig),
            curate=run.section(CurateConfig),
            pool=run.section(PoolConfig),
            entry_lists=entry_lists,
            counts=sum_counts(manifest["lists"], counted_shards(run_dir)),
            list_of_lang={lang: entry_lists.list_of(lang) for lang in manifest["languages"]},
        )

    @property
    def largest_count(self) -> int:
        """Matches of the most frequent entry, at least 1: a threshold above it keeps all."""
        return max((int(counts.max(initial=0)) for counts in self.counts.values()), default=0) or 1

    def expect(self, configs: Sequence[BalanceConfig]) -> list[dict[str, Any]]:
        """One row a config, in one pass over the match files."""
        chosen = [choose_thresholds(self.counts, config, self.entry_lists) for config in configs]
        probs = [{name: list_probs(counts, row[name]) for name, counts in self.counts.items()} for row in chosen]
        reports = self._sum_reports(probs)
        return [self._candidate(*parts) for parts in zip(configs, chosen, reports, strict=True)]

    def _sum_reports(self, probs: Sequence[Mapping[str, np.ndarray]]) -> list[Report]:
        """Curate's report under each candidate's entry probabilities, summed over the shards."""
        config, key_lists = self.curate, keys.key_lists(self.pool.valid_keys, self.pool.deny_keys)
        sums: list[Report] = [{} for _ in probs]
        for shard, path in matched_shards(self.run_dir):
            table = artifacts.read_table(path, artifacts.MATCH_TEXTS, _COLUMNS)
            candidates = find_candidates(table, config, key_lists, shard)
            for entry_probs, total in zip(probs, sums, strict=True):
                keep_prob = text_probs(table, entry_probs.__getitem__)
                for lang, row in report_shard(candidates, keep_prob, config).items():
                    mine = total.setdefault(lang, dict.fromkeys(row, 0))
                    for column, value in row.items():
                        mine[column] += value
        match_report = artifacts.read_json(self.run_dir / "match" / "report.json")
        return [total_report(match_report, [{"languages": languages}], config) for languages in sums]

    def _candidate(self, config: BalanceConfig, thresholds: Mapping[str, int | None], report: Report) -> dict[str, Any]:
        rows = {lang: _columns(row) for lang, row in report["languages"].items()}
        for lang in rows.keys() & self.list_of_lang.keys():
            name = self.list_of_lang[lang]
            share = tail_fraction(self.counts[name], thresholds[name] or 1)
            rows[lang] |= {"threshold": thresholds[name], "tail_fraction": share}
        return {
            "english_threshold": config.english_threshold,
            "tail_fraction": config.tail_fraction,
            "warnings": find_warnings(self.counts, config, self.entry_lists),
            "total": _columns(report["total"]),
            "languages": rows,
        }


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """pairs_matched: what may be kept, of pairs_in."""
    matched = row["sampled_out"] + row["pairs_out"]
    return {"pairs_in": row["pairs_in"], "pairs_matched": matched, "expected_pairs": row["expected_pairs"]}


def _solve(world: _World, pairs: float) -> dict[str, Any]:
    """The candidate whose expected pairs are nearest to `pairs`: a grid that closes in, one pass a grid."""
    by_threshold = world.balance.english_threshold is not None
    low, high = (1.0, float(world.largest_count + 1)) if by_threshold else (0.0, 1.0)
    best: dict[str, Any] | None = None
    for _ in range(MAX_PASSES):
        grid = np.unique(np.geomspace(low, high, GRID).round()) if by_threshold else np.linspace(low, high, GRID)
        configs = [
            _with(world.balance, english_threshold=int(value))
            if by_threshold
            else _with(world.balance, tail_fraction=float(value))
            for value in grid
        ]
        found = world.expect(configs)
        sizes = np.array([candidate["total"]["expected_pairs"] for candidate in found])
        nearest = int(np.argmin(np.abs(sizes - pairs)))
        if best is None or abs(sizes[nearest] - pairs) < abs(best["total"]["expected_pairs"] - pairs):
            best = found[nearest]
        above = int(np.searchsorted(sizes, pairs))  # more tail keeps more
        if (
            abs(sizes[nearest] - pairs) <= CLOSE * pairs
            or above in (0, len(grid))
            or (by_threshold and high - low <= 1)
        ):
            break
        low, high = float(grid[above - 1]), float(grid[above])
    assert best is not None
    size, warnings = best["total"]["expected_pairs"], list(best["warnings"])
    if above in (0, len(grid)) and abs(size - pairs) > CLOSE * pairs:
        limit = "most" if above else "fewest"
        warnings.append(f"{pairs:,.0f} are out of reach; {size:,.0f} are the {limit} that any value expects")
    return {**best, "warnings": warnings, "asked_pairs": pairs}


def size_curve(run: str | Path, num_values: int = NUM_VALUES) -> SizeCurve:
    """Expected pairs over the whole range of the key that the recipe sets, for a plot.

    Returns {text_policy, key, values (num_values,) rising, total (num_values,), languages: {lang: (num_values,)},
    match: digest of the matches}.
    """
    world = _World.open(Path(run))
    by_threshold = world.balance.english_threshold is not None
    key = "english_threshold" if by_threshold else "tail_fraction"
    low, high = (1.0, world.largest_count + 1) if by_threshold else (0.001, 1.0)
    values = np.geomspace(low, high, num_values)
    values = np.unique(values.round()).astype(np.int64) if by_threshold else values.round(6)
    configs = [_with(world.balance, **{key: value}) for value in values.tolist()]
    found = [row for i in range(0, len(configs), GRID) for row in world.expect(configs[i : i + GRID])]
    languages = found[0]["languages"]
    return {
        "text_policy": world.curate.text_policy,
        "key": key,
        "values": values.tolist(),
        "total": [row["total"]["expected_pairs"] for row in found],
        "languages": {lang: [row["languages"][lang]["expected_pairs"] for row in found] for lang in languages},
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


def to_text(found: dict[str, Any], num_languages: int = 12) -> str:
    """An estimate for people: a line a candidate, then its largest languages (the rest as one line)."""
    unit = "images" if found["text_policy"] == "one" else "pairs"
    parts = []
    for candidate in found["candidates"]:
        key = "english_threshold" if candidate["english_threshold"] is not None else "tail_fraction"
        total = candidate["total"]
        parts.append(
            f"{key} = {candidate[key]:,.6g}: {total['expected_pairs']:,.0f} of {total['pairs_in']:,} {unit} expected "
            f"({total['pairs_matched']:,} with a match)"
        )
        parts += [f"  warning: {warning}" for warning in candidate["warnings"]]
        parts.append(f"  {'language':<10}{'in':>15}{'matched':>15}{'expected':>15}{'threshold':>12}{'tail':>8}")
        rows = sorted(candidate["languages"].items(), key=lambda item: (-item[1]["expected_pairs"], item[0]))
        parts += [_line(lang, row) for lang, row in rows[:num_languages]]
        if rest := [row for _, row in rows[num_languages:]]:
            keys = ("pairs_in", "pairs_matched", "expected_pairs")
            parts.append(_line(f"{len(rest)} more", {key: sum(row[key] for row in rest) for key in keys}))
    return "\n".join(parts)


def _line(name: str, row: Mapping[str, Any]) -> str:
    threshold = f"{row['threshold']:,}" if row.get("threshold") else ""
    tail = f"{row['tail_fraction']:.1%}" if threshold else ""
    counts = f"{row['pairs_in']:>15,}{row['pairs_matched']:>15,}{row['expected_pairs']:>15,.0f}"
    return f"  {name:<10}{counts}{threshold:>12}{tail:>8}"
