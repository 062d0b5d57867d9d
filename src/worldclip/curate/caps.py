"""Caps (curate.max_pairs): at most N kept pairs of a language, the same ones for any number of workers and any order.

A pair is kept if its coin u is below its probability p, so among kept pairs u / p is uniform on [0, 1) whatever p is.
A cap of N keeps the N pairs with the smallest u / p.  This thins the language evenly, as if each p were multiplied by
one factor.  Pairs over the cap count as `excluded`.  Equal ratios (a key in two shards) stay or go together, and a cap
is never exceeded.
"""

from __future__ import annotations

import functools
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.arrow import codes_of, names_of
from worldclip.core.execute import Executor, FileGroups, Report, Shard, files_of, group_starts
from worldclip.curate.candidates import CurateWork, decide_on
from worldclip.curate.config import CurateConfig

GROUP_ROWS = 2**23  # ratios that one worker looks through
FIRST_WIDTH = 8  # standard deviations on each side of where the bound is expected
WIDER = 8  # times as wide, if it is not there
ABOVE_ALL = 2.0  # u / p is at most 1


def find_bounds(
    work: CurateWork, folder: Path, shards: Sequence[Shard], executor: Executor, key: object
) -> dict[str, float]:
    """Return {language over its cap: the bound on u / p below which its pairs stay}, from all shards.

    key: what decides the kept pairs besides the shards.  The ratios of each shard go to `folder`/<shard>.parquet, and
    one map over them finds all bounds: the ratios are uniform, so a bound is close to cap / number of pairs, and only
    the ratios in a narrow window around that are compared.  A window that misses its bound is widened.
    """
    reports = executor.map(
        functools.partial(_write_ratios, work=work, folder=folder),
        shards,
        label="caps",
        done_dir=layout.done_dir(folder),
        key=key,
    )
    num_kept: Counter[str] = Counter()
    num_rows = array("q")
    for report in reports:
        num_kept.update(report["kept"])
        num_rows.append(sum(report["kept"].values()))
    caps = {lang: cap for lang in sorted(num_kept) if (cap := work.config.cap_of(lang)) and num_kept[lang] > cap}
    groups = FileGroups(folder, [shard.name for shard in shards], ".parquet", group_starts(num_rows, GROUP_ROWS))
    bounds: dict[str, float] = {}
    width = FIRST_WIDTH
    while len(bounds) < len(caps):
        windows = {lang: window_of(cap, num_kept[lang], width) for lang, cap in caps.items() if lang not in bounds}
        bounds |= _bounds_in(windows, caps, groups, folder / ".windows", executor)
        width *= WIDER
    artifacts.remove(folder / ".windows")
    return {lang: bounds[lang] for lang in num_kept if lang in bounds}


def window_of(cap: int, number: int, width: float) -> tuple[float, float]:
    """Return the range [low, high) where the (cap + 1)-th smallest of `number` uniform ratios is expected.

    width: in standard deviations on each side.
    """
    share = (cap + 0.5) / number
    spread = width * (math.sqrt(max(0.0, share * (1 - share)) / number) + 1 / number)
    low, high = share - spread, share + spread
    return max(0.0, low), high if high < 1 else ABOVE_ALL


def _bounds_in(
    windows: Mapping[str, tuple[float, float]],
    caps: Mapping[str, int],
    groups: FileGroups,
    folder: Path,
    executor: Executor,
) -> dict[str, float]:
    """Return the (cap + 1)-th smallest ratio of each language whose window holds it: at most `cap` are below it."""
    look = functools.partial(_look_through, windows=windows, folder=folder)
    reports = executor.map(look, groups, label="bounds", done_dir=layout.done_dir(folder), key=windows)
    num_below: Counter[str] = Counter()
    inside: dict[str, list[np.ndarray]] = {lang: [np.empty(0)] for lang in windows}
    for name, report in zip(groups.unit_names(), reports, strict=True):
        num_below.update(report["below"])
        for lang, values in _ratios_by_lang(folder / f"{name}.parquet"):
            inside[lang].append(values)
    bounds = {}
    for lang, parts in inside.items():
        values = np.concatenate(parts)
        rank = caps[lang] - num_below[lang]
        if 0 <= rank < len(values):
            bounds[lang] = float(np.partition(values, rank)[rank])
    return bounds


def read_bounds(run_dir: Path, config: CurateConfig) -> dict[str, float]:
    """Return the bounds that the stage found for epoch 0; in other epochs a language then holds about its cap.

    Raises UserError if there are caps and the stage curate is not finished: caps are about all shards.
    """
    if config.max_pairs is None:
        return {}
    artifacts.require_manifest(run_dir, "curate")
    report = artifacts.read_json(layout.stage_report(run_dir, "curate"))
    return {lang: row["bound"] for lang, row in report["caps"].items()}


# one shard


def _write_ratios(shard: Shard, *, work: CurateWork, folder: Path) -> Report:
    """Write u / p of the shard's texts that are kept before caps, in languages with a cap."""
    _, candidates, keep_prob = work.read(shard.name)
    kept = decide_on(candidates, keep_prob, work.config).kept_T
    has_cap = np.array([work.config.cap_of(name) is not None for name in candidates.lang_names], np.bool_)
    rows = np.flatnonzero(kept & has_cap[candidates.lang_T])
    lang = candidates.lang_T[rows]
    ratios = candidates.coins_T(work.config.seed)[rows] / keep_prob[rows]
    table = pa.table({"lang": names_of(lang, candidates.lang_names), "number": ratios})
    artifacts.write_table(folder / f"{shard.name}.parquet", table, schemas.CAP_NUMBERS)
    num_kept = np.bincount(lang, minlength=len(candidates.lang_names)).tolist()
    by_lang = {name: number for name, number in zip(candidates.lang_names, num_kept, strict=True) if number}
    return {"pairs": len(kept), "kept": by_lang}


# one group of shards


def _look_through(group: Shard, *, windows: Mapping[str, tuple[float, float]], folder: Path) -> Report:
    """Write the ratios of a group that lie in their language's window; report how many lie below it."""
    below: Counter[str] = Counter()
    tables = []
    for path in files_of(group):
        table = artifacts.read_table(path, schemas.CAP_NUMBERS)
        code, names = codes_of(table.column("lang"))
        low, high = np.array([windows.get(name, (0.0, 0.0)) for name in names]).reshape(-1, 2)[code].T
        ratio = table.column("number").to_numpy()
        num_below = np.bincount(code[ratio < low], minlength=len(names)).tolist()
        below.update({name: number for name, number in zip(names, num_below, strict=True) if number})
        tables.append(table.filter(pa.array((ratio >= low) & (ratio < high))))
    artifacts.write_tables(folder / f"{group.name}.parquet", tables, schemas.CAP_NUMBERS)
    return {"pairs": sum(table.num_rows for table in tables), "below": dict(below)}


def _ratios_by_lang(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the languages of a file of ratios, each with its ratios."""
    table = artifacts.read_table(path, schemas.CAP_NUMBERS)
    code, names = codes_of(table.column("lang"))
    ratio = table.column("number").to_numpy()
    for i in np.unique(code).tolist():  # a dictionary may have names of no row
        yield names[i], ratio[code == i]
