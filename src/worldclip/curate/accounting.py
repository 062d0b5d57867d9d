"""Counts of what happened to every pair, per language: texts under text_policy all, keys under one.

pairs_in = bad_pair + duplicate + no_text + no_language + no_match
           + not_valid + excluded + sampled_out + pairs_out
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from worldclip.contracts.reasons import MATCHED, Reason
from worldclip.contracts.records import MatchAccounting, PairCounts
from worldclip.curate.candidates import Decision
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
            row[name] += value


def account_for_all(
    match: MatchAccounting, settled: LanguageCounts, config: CurateConfig
) -> tuple[dict[str, PairCounts], PairCounts]:
    """Return (counts per language, their total) of all pairs of the pool.

    settled: the counts of all shards.  Of a language with a cap no more pairs than the cap are expected.
    """
    counts_keys = config.text_policy == "one"
    settled_by_match = match["keys" if counts_keys else "texts"]
    languages: dict[str, dict[str, float]] = {}
    for lang in sorted({*settled_by_match, *settled}):
        dropped = {name: number for name, number in settled_by_match.get(lang, {}).items() if name != MATCHED}
        row = {**dict.fromkeys(COLUMNS, 0), **dropped, **settled.get(lang, {})}
        row["pairs_in"] = sum(row[reason.column] for reason in Reason)
        cap = config.cap_of(lang)
        row["expected_pairs"] = float(row["expected_pairs"] if cap is None else min(cap, row["expected_pairs"]))
        if row["pairs_in"]:
            languages[lang] = row
    total = {name: sum(row[name] for row in languages.values()) for name in COLUMNS}
    num_in = match["num_keys" if counts_keys else "pairs"]
    assert total["pairs_in"] == num_in, f"{num_in} pairs went in, {total['pairs_in']} are accounted for"
    return languages, total  # type: ignore[return-value]
