"""Counts of what happened to every pair, per language: texts under text_policy all, keys under one; and caps.

pairs_in = bad_pair + duplicate + no_text + no_language + no_match
           + not_valid + excluded + sampled_out + pairs_out
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from worldclip.contracts import layout
from worldclip.contracts.reasons import MATCHED, Reason
from worldclip.contracts.records import MatchAccounting, PairCounts
from worldclip.core import artifacts
from worldclip.core.execute import Executor, Report, Shard
from worldclip.curate.candidates import CurateWork, Decision, decide_on
from worldclip.curate.config import CurateConfig

COLUMNS = ("pairs_in", *(reason.column for reason in Reason), "expected_pairs")
SETTLED_HERE = (Reason.NOT_VALID, Reason.EXCLUDED, Reason.SAMPLED_OUT, Reason.KEPT)
LanguageCounts: TypeAlias = dict[str, dict[str, float]]
"""{language: {column of SETTLED_HERE: number, expected_pairs: sum}}."""


def count_reasons(decision: Decision) -> LanguageCounts:
    """Count the candidates of a shard by language and reason, in the unit of the policy.

    Under `one` a key counts under the language of its drawn text, else of its first matched text.  The expected pairs
    of a language are the keep_prob of its texts; under `one` each times its share of the draw among its key's texts.
    """
    candidates = decision.candidates
    rows = decision.decided_rows
    share = candidates.drawable_T.astype(np.float64)
    if decision.config.text_policy == "one":
        key_of_text = candidates.per_text(np.arange(len(candidates.hashes_K)))
        weight_K = np.bincount(key_of_text, candidates.draw_weight_T, len(candidates.hashes_K))
        weight_T = weight_K[key_of_text]
        share = np.divide(candidates.draw_weight_T, weight_T, out=np.zeros(len(weight_T)), where=weight_T > 0)
    num_langs = len(candidates.lang_names)
    cell = candidates.lang_T[rows] * len(Reason) + decision.reason_T[rows]
    counts = np.bincount(cell, minlength=num_langs * len(Reason)).reshape(num_langs, len(Reason))
    # in the order of the rows: always the same
    sums = np.bincount(candidates.lang_T, decision.keep_prob_T * share, num_langs)
    by_language: LanguageCounts = {}
    for name, of_lang, expected_pairs in zip(candidates.lang_names, counts.tolist(), sums.tolist(), strict=True):
        by_language[name] = {settled.column: of_lang[settled] for settled in SETTLED_HERE}
        by_language[name]["expected_pairs"] = expected_pairs
    return by_language


def add_counts(total: LanguageCounts, counts: LanguageCounts) -> None:
    """Add the counts of one shard to a total, in place."""
    for lang, columns in counts.items():
        row = total.setdefault(lang, dict.fromkeys(columns, 0))
        for name, value in columns.items():
            row[name] = row.get(name, 0) + value


def account_for_all(
    match: MatchAccounting, settled: LanguageCounts, config: CurateConfig
) -> tuple[dict[str, PairCounts], PairCounts]:
    """Return (counts per language, their total) of all pairs of the pool.

    settled: the counts of all shards.  A language with a cap is expected to have no more pairs than the cap.
    """
    settled_by_match = match["texts"]
    num_in = match["pairs"]
    if config.text_policy == "one":
        settled_by_match = match["keys"]
        num_in = match["num_keys"]
    languages: dict[str, dict[str, float]] = {}
    for lang in sorted({*settled_by_match, *settled}):
        row = {**dict.fromkeys(COLUMNS, 0), **settled_by_match.get(lang, {}), **settled.get(lang, {})}
        row.pop(MATCHED, None)  # what curate has settled
        row["pairs_in"] = sum(row[reason.column] for reason in Reason)
        cap = config.cap_of(lang)
        if cap is not None:
            row["expected_pairs"] = min(cap, row["expected_pairs"])
        row["expected_pairs"] = float(row["expected_pairs"])
        if row["pairs_in"]:
            languages[lang] = row
    total = {}
    for name in COLUMNS:
        total[name] = sum(row[name] for row in languages.values())
    assert total["pairs_in"] == num_in, f"{num_in} pairs went in, {total['pairs_in']} are accounted for"
    return languages, total  # type: ignore[return-value]


# --- caps (curate.max_pairs) ------------------------------------------------------------------------------------------

# p becomes p * min(1, cap / expected pairs), offline and online and in every epoch, so that a language is thinned
# evenly and has about as many pairs as its cap.


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
    factors = {}
    for lang, row in sorted(total.items()):
        cap = work.config.cap_of(lang)
        if cap is not None and cap < row["expected_pairs"]:
            factors[lang] = cap / row["expected_pairs"]
    return factors


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
