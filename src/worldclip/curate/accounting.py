"""What became of every pair, per language, in texts under text_policy all and in keys under one:

pairs_in = bad_pair + duplicate + no_text + no_language + no_match + not_valid + excluded + sampled_out + pairs_out
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldclip.core.execute import Report
from worldclip.curate.candidates import Candidates, Decision, decide_on
from worldclip.curate.config import CurateConfig

REASONS = (
    *("bad_pair", "duplicate", "no_text", "no_language", "no_match"),  # settled by match
    *("not_valid", "excluded", "sampled_out"),  # settled by curate
)
COLUMNS = ("pairs_in", *REASONS, "pairs_out", "expected_pairs")


def report_shard(candidates: Candidates, keep_prob: np.ndarray, config: CurateConfig) -> Report:
    """The report of a shard under other probabilities than the run's, caps aside."""
    kept, drawn = decide_on(candidates, keep_prob, config)
    decision = Decision(kept_T=kept, drawn_K=drawn, is_over_T=np.zeros(len(kept), np.bool_))
    return report_decision(candidates, keep_prob, decision, config.text_policy)


def report_decision(candidates: Candidates, keep_prob: np.ndarray, decision: Decision, text_policy: str) -> Report:
    """{language: {not_valid, excluded, sampled_out, pairs_out, expected_pairs}}, in the unit of the policy.

    expected_pairs leaves caps aside: they are about all shards together.
    """
    if text_policy == "one":
        return _report_keys(candidates, keep_prob, decision)
    return _report_texts(candidates, keep_prob, decision)


def _report_texts(candidates: Candidates, keep_prob: np.ndarray, decision: Decision) -> Report:
    """Per language, of its matched texts: how many ended for which reason, and how many are expected to be kept."""
    valid = np.repeat(candidates.is_valid_K, np.diff(candidates.starts_K1))
    kept, over = decision.kept_T, decision.is_over_T
    masks = {
        "not_valid": ~valid,
        "excluded": valid & (candidates.is_excluded_T | over),
        "sampled_out": candidates.drawable_T & ~kept & ~over,
        "pairs_out": kept,
    }
    expected = np.where(candidates.drawable_T, keep_prob, 0.0)
    return _tally(candidates.lang_T, masks, expected, candidates.lang_names)


def _report_keys(candidates: Candidates, keep_prob: np.ndarray, decision: Decision) -> Report:
    """As _report_texts, in keys: a key counts under the language of its drawn text, else of its first matched text."""
    drawn = decision.drawn_K
    has_draw = drawn >= 0
    row = np.where(has_draw, drawn, candidates.starts_K1[:-1])
    is_kept, is_over = has_draw & decision.kept_T[row], has_draw & decision.is_over_T[row]
    masks = {
        "not_valid": ~candidates.is_valid_K,
        "excluded": candidates.is_valid_K & (~has_draw | is_over),
        "sampled_out": has_draw & ~is_kept & ~is_over,
        "pairs_out": is_kept,
    }
    drawable, num_keys = candidates.drawable_T, len(drawn)
    key_of_text = np.repeat(np.arange(num_keys), np.diff(candidates.starts_K1))
    sums = np.bincount(key_of_text, np.where(drawable, keep_prob, 0.0), num_keys)
    expected = sums / np.maximum(np.bincount(key_of_text, drawable, num_keys), 1)
    return _tally(candidates.lang_T[row], masks, expected, candidates.lang_names)


def _tally(lang: np.ndarray, masks: dict[str, np.ndarray], expected: np.ndarray, lang_names: list[str]) -> Report:
    """{language: {reason: n, ..., expected_pairs: sum}}; the floats are added in the order of the rows."""
    size = len(lang_names)
    counts = {name: np.bincount(lang[mask], minlength=size) for name, mask in masks.items()}
    sums = np.bincount(lang, expected, size)
    return {
        lang_name: {**{name: int(counts[name][i]) for name in masks}, "expected_pairs": float(sums[i])}
        for i, lang_name in enumerate(lang_names)
    }


def total_report(match_report: Report, reports: Sequence[Report], config: CurateConfig) -> Report:
    """The shards' reports and the match's as one table: {languages: {language: COLUMNS}, total: COLUMNS}.

    Under a cap no more than it are expected of a language.
    """
    lost = match_report["keys" if config.text_policy == "one" else "texts"]
    rows: dict[str, dict[str, Any]] = {}
    for lang, reasons in lost.items():
        rows.setdefault(lang, dict.fromkeys(COLUMNS, 0)).update(
            {reason: n for reason, n in reasons.items() if reason != "matched"}
        )
    for report in reports:
        for lang, columns in report["languages"].items():
            row = rows.setdefault(lang, dict.fromkeys(COLUMNS, 0))
            for name, value in columns.items():
                row[name] += value
    for lang, row in rows.items():
        row["pairs_in"] = sum(row[reason] for reason in REASONS) + row["pairs_out"]
        cap = config.cap_of(lang)
        row["expected_pairs"] = float(row["expected_pairs"] if cap is None else min(cap, row["expected_pairs"]))
    languages = {lang: row for lang, row in sorted(rows.items()) if row["pairs_in"]}
    total = {name: sum(row[name] for row in languages.values()) for name in COLUMNS}
    whole = match_report["num_keys" if config.text_policy == "one" else "pairs"]
    assert total["pairs_in"] == whole, f"{whole} pairs went in, {total['pairs_in']} are accounted for"
    return {"text_policy": config.text_policy, "languages": languages, "total": total}
