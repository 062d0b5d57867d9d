"""Caps (curate.max_pairs): at most N kept pairs of a language, the same ones for any number of workers and any order.

A pair is kept if its coin u is below its probability p, so among kept pairs u / p is uniform on [0, 1) whatever p is.
A cap of N keeps the N pairs with the smallest u / p.  This thins the language evenly, as if each p were multiplied by
one factor.  Pairs over the cap count as `excluded`.  Equal ratios (a key in two shards) stay or go together, and a cap
is never exceeded.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.arrow import codes_of, names_of
from worldclip.core.execute import Executor, Report, Shard, repeatable
from worldclip.curate.candidates import CurateWork, decide_on
from worldclip.curate.config import CurateConfig

MERGED_AT_ONCE = 1 << 20  # ratios, at least, that wait before the smallest of them are taken


def find_bounds(
    work: CurateWork, folder: Path, shards: Sequence[Shard], executor: Executor, key: object
) -> dict[str, float]:
    """Return {language over its cap: the bound on u / p below which its pairs stay}, from all shards.

    key: what decides the kept pairs besides the shards.  The ratios of each shard go to `folder`/<shard>.parquet.
    """
    reports = executor.map(
        functools.partial(_write_ratios, work=work, folder=folder),
        shards,
        label="caps",
        done_dir=layout.done_dir(folder),
        key=key,
    )
    num_kept: Counter[str] = Counter()
    for report in reports:
        num_kept.update(report["kept"])
    paths = [folder / f"{shard.name}.parquet" for shard in shards]
    bounds = {}
    for lang, number in num_kept.items():
        cap = work.config.cap_of(lang)
        if cap is not None and number > cap:
            bounds[lang] = bound_of((_read_ratios(path, lang) for path in paths), cap)
    return bounds


def bound_of(parts: Iterable[np.ndarray], cap: int) -> float:
    """Return the (cap + 1)-th smallest of all numbers: at most `cap` are below it.  Memory: a few times `cap`."""
    smallest = np.empty(0)
    waiting: list[np.ndarray] = []
    num_waiting = 0
    for part in parts:
        waiting.append(part)
        num_waiting += len(part)
        if num_waiting > max(cap, MERGED_AT_ONCE):
            smallest = _smallest([smallest, *waiting], cap + 1)
            waiting = []
            num_waiting = 0
    return float(_smallest([smallest, *waiting], cap + 1).max())


def _smallest(parts: Sequence[np.ndarray], number: int) -> np.ndarray:
    values = np.concatenate(parts)
    return np.partition(values, number - 1)[:number] if len(values) > number else values


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


@repeatable
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


def _read_ratios(path: Path, lang: str) -> np.ndarray:
    table = artifacts.read_table(path, schemas.CAP_NUMBERS)
    code, names = codes_of(table.column("lang"))
    return table.column("number").to_numpy()[code == names.index(lang)] if lang in names else np.empty(0)
