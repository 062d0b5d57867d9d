"""Caps (curate.max_pairs): a factor on the probabilities of a language of which more pairs are expected than its cap.

p becomes p * min(1, cap / expected pairs), offline and online and in every epoch, so that a language is thinned evenly
and has about as many pairs as its cap.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.execute import Executor, Report, Shard
from worldclip.curate.accounting import LanguageCounts, add_counts, count_reasons
from worldclip.curate.candidates import CurateWork, decide_on
from worldclip.curate.config import CurateConfig


def find_factors(
    work: CurateWork, folder: Path, shards: Sequence[Shard], executor: Executor, key: object
) -> dict[str, float]:
    """Return {language over its cap: its factor}, from the pairs that all shards are expected to keep.

    key: what decides the kept pairs besides the shards.
    """
    expect = functools.partial(_expect_pairs, work=work)
    total: LanguageCounts = {}
    for report in executor.map(expect, shards, label="caps", done_dir=layout.done_dir(folder), key=key):
        add_counts(total, report["languages"])
    expected = {lang: row["expected_pairs"] for lang, row in sorted(total.items())}
    caps = {lang: work.config.cap_of(lang) for lang in expected}
    return {lang: cap / expected[lang] for lang, cap in caps.items() if cap is not None and cap < expected[lang]}


def _expect_pairs(shard: Shard, *, work: CurateWork) -> Report:
    table, candidates, keep_prob = work.read(shard.name)
    return {"pairs": table.num_rows, "languages": count_reasons(decide_on(candidates, keep_prob, work.config))}


def read_factors(run_dir: Path, config: CurateConfig) -> dict[str, float]:
    """Return the factors that the stage found.

    Raises UserError if there are caps and the stage curate is not finished: caps are about all shards.
    """
    if config.max_pairs is None:
        return {}
    artifacts.require_manifest(run_dir, "curate")
    report = artifacts.read_json(layout.stage_report(run_dir, "curate"))
    return {lang: row["factor"] for lang, row in report["caps"].items()}
