"""Counts of what happened to every pair, per language: texts under text_policy all, keys under one.

pairs_in = bad_pair + duplicate + no_text + no_language + no_match
           + not_valid + excluded + sampled_out + pairs_out
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from worldclip.contracts.reasons import MATCHED, Reason
from worldclip.contracts.records import MatchAccounting, PairCounts
from worldclip.curate.candidates import Candidates, Decision
from worldclip.curate.config import CurateConfig

COLUMNS = ("pairs_in", *(reason.column for reason in Reason), "expected_pairs")
SETTLED_HERE = (Reason.NOT_VALID, Reason.EXCLUDED, Reason.SAMPLED_OUT, Reason.KEPT)
LanguageCounts: TypeAlias = dict[str, dict[str, float]]
"""{language: {column of SETTLED_HERE: number, expected_pairs: sum}}."""


def count_reasons(
    candidates: Candidates, keep_prob: np.ndarray, decision: Decision, text_policy: str
) -> LanguageCounts:
    """Count the candidates of a shard by language and reason, in the unit of the policy.

    Under `one` a key counts under the language of its drawn text, else of its first matched text, and its expected
    pairs are the mean keep_prob of its drawable texts, weighted as they are drawn.
    """
    reason = decision.reason_T(candidates, text_policy)
    if text_policy == "all":
        expected = np.where(candidates.drawable_T, keep_prob, 0.0)
        return _count_by_language(candidates.lang_T, reason, expected, candidates.lang_names)
    rows = decision.decided_rows(candidates, text_policy)
    num_keys = len(rows)
    key_of_text = candidates.per_text(np.arange(num_keys))
    weight_K = np.bincount(key_of_text, candidates.draw_weight_T, num_keys)
    weighted_K = np.bincount(key_of_text, keep_prob * candidates.draw_weight_T, num_keys)
    expected_K = np.divide(weighted_K, weight_K, out=np.zeros(num_keys), where=weight_K > 0)
    return _count_by_language(candidates.lang_T[rows], reason[rows], expected_K, candidates.lang_names)


def _count_by_language(
    lang: np.ndarray, reason: np.ndarray, expected: np.ndarray, lang_names: list[str]
) -> LanguageCounts:
    """Return the counts per language; floats are added in the order of the rows, so that a sum is always the same."""
    shape = (len(lang_names), len(Reason))
    counts = np.bincount(lang * len(Reason) + reason, minlength=shape[0] * shape[1]).reshape(shape)
    sums = np.bincount(lang, expected, len(lang_names))
    by_language: LanguageCounts = {}
    for name, of_lang, expected_pairs in zip(lang_names, counts.tolist(), sums.tolist(), strict=True):
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
