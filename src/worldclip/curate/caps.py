"""Caps: at most so many kept pairs of a language, the same ones for any number of workers and order of shards.

A pair is kept where its coin u is below its probability p, so among the kept u / p is uniform on [0, 1) whatever p is.
A cap of N keeps the N with the smallest u / p: the language is thinned evenly, as if each p were multiplied by one
factor.  Pairs left out count as `excluded`.  Equal numbers (a key that stands in two shards) go together, so that a cap
is never exceeded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.core import artifacts
from worldclip.core.arrow import codes_of, names_of
from worldclip.core.execute import Executor, Report, Shard, repeatable
from worldclip.curate.candidates import Candidates
from worldclip.curate.config import CurateConfig

MERGED_AT_ONCE = 1 << 20  # numbers, at least, that wait before the smallest are taken of them

DecideShard = Callable[[Shard], tuple[Candidates, np.ndarray, np.ndarray]]


def find_bounds(
    config: CurateConfig, folder: Path, shards: Sequence[Shard], executor: Executor, decide: DecideShard, key: Any
) -> dict[str, float]:
    """{language over its cap: the number u / p below which its pairs stay}, from all shards.

    decide: a shard's (candidates, keep_prob, kept); key: what decides its answer besides the shard.  Each shard's
    numbers stand in `folder`/<shard>.parquet on the way.
    """
    reports = executor.map(
        functools.partial(_write_numbers, config=config, folder=folder, decide=decide),
        shards,
        label="caps",
        done_dir=folder / "done",
        key=key,
    )
    kept = add_up(report["kept"] for report in reports)
    paths = [_numbers_path(folder, shard) for shard in shards]
    bounds = {}
    for lang, num_kept in kept.items():
        cap = config.cap_of(lang)
        if cap is not None and num_kept > cap:
            bounds[lang] = bound_of((_read_numbers(path, lang) for path in paths), cap)
    return bounds


def bound_of(parts: Iterable[np.ndarray], cap: int) -> float:
    """The (cap + 1)-th smallest of all numbers: those below it are at most `cap`.  Memory: a few times `cap`."""
    smallest, waiting, num_waiting = np.empty(0), [], 0
    for part in parts:
        waiting.append(part)
        num_waiting += len(part)
        if num_waiting > max(cap, MERGED_AT_ONCE):
            smallest, waiting, num_waiting = _smallest([smallest, *waiting], cap + 1), [], 0
    return float(_smallest([smallest, *waiting], cap + 1).max())


def _smallest(parts: Sequence[np.ndarray], number: int) -> np.ndarray:
    whole = np.concatenate(parts)
    return np.partition(whole, number - 1)[:number] if len(whole) > number else whole


def read_bounds(run_dir: Path, config: CurateConfig) -> dict[str, float]:
    """What find_bounds found in epoch 0, for other epochs too, which a language then fills to about its cap.

    Raises UserError where there are caps and the stage curate is not finished: they are about all shards.
    """
    if config.max_pairs is None:
        return {}
    artifacts.require_manifest(run_dir, "curate")
    report = artifacts.read_json(run_dir / "curate" / "report.json")
    return {lang: row["bound"] for lang, row in report["caps"].items()}


def is_over(
    candidates: Candidates,
    keep_prob: np.ndarray,
    kept: np.ndarray,
    config: CurateConfig,
    bounds: Mapping[str, float],
    epoch: int = 0,
) -> np.ndarray:
    """(T,) bool: the kept texts that a cap leaves out."""
    over = np.zeros(len(kept), np.bool_)
    if not bounds:
        return over
    limit = np.array([bounds.get(name, np.inf) for name in candidates.lang_names])
    rows = np.flatnonzero(kept)
    over[rows] = candidates.coins_T(config, epoch)[rows] / keep_prob[rows] >= limit[candidates.lang_T[rows]]
    return over


def add_up(tallies: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for tally in tallies:
        for name, number in tally.items():
            total[name] = total.get(name, 0) + number
    return total


# one shard


def _numbers_path(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}.parquet"


@repeatable
def _write_numbers(shard: Shard, *, config: CurateConfig, folder: Path, decide: DecideShard) -> Report:
    """u / p of the shard's kept texts in languages with a cap, caps aside."""
    candidates, keep_prob, kept = decide(shard)
    has_cap = np.array([config.cap_of(name) is not None for name in candidates.lang_names], np.bool_)
    rows = np.flatnonzero(kept & has_cap[candidates.lang_T])
    lang = candidates.lang_T[rows]
    table = pa.table(
        {"lang": names_of(lang, candidates.lang_names), "number": candidates.coins_T(config)[rows] / keep_prob[rows]}
    )
    artifacts.write_table(_numbers_path(folder, shard), table, artifacts.CAP_NUMBERS)
    counts = np.bincount(lang, minlength=len(candidates.lang_names))
    by_lang = {name: int(n) for name, n in zip(candidates.lang_names, counts, strict=True) if n}
    return {"pairs": len(kept), "kept": by_lang}


def _read_numbers(path: Path, lang: str) -> np.ndarray:
    table = artifacts.read_table(path, artifacts.CAP_NUMBERS)
    code, names = codes_of(table.column("lang"))
    return table.column("number").to_numpy()[code == names.index(lang)] if lang in names else np.empty(0)
