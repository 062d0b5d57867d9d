"""The effect of 41 values of the balance key: the numbers that `worldclip estimate` gives for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.contracts.entry_counts import effective_entries
from worldclip.tools.estimate import MatchedRun

NUM_VALUES = 41


def slider_record(run_dir: Path, languages: Sequence[str], lists: Sequence[str]) -> dict[str, Any]:
    """Return, for each value: expected pairs in total and by language; threshold and effective entries by list.

    The recipe's own value takes the place of the nearest of the NUM_VALUES, at position `own`.
    """
    matched = MatchedRun.open(run_dir)
    own_value = getattr(matched.balance, matched.key)
    values = matched.values_over_range(NUM_VALUES)
    if own_value:  # a tail fraction of 0 has no place on a logarithmic slider
        values[np.argmin(np.abs(values - own_value))] = own_value
    values = np.sort(values)
    candidates = matched.estimate_values(values)
    none = {"pairs_in": 0, "pairs_matched": 0, "expected_pairs": 0.0}
    list_of_lang = matched.list_of_lang
    thresholds: dict[str, list[int | None]] = {
        list_of_lang[lang]: [candidate["languages"].get(lang, none).get("threshold") for candidate in candidates]
        for lang in languages
        if lang in list_of_lang
    }
    no_thresholds: list[int | None] = [None] * len(values)
    return {
        "key": matched.key,
        "values": values.tolist(),
        "own": int(np.searchsorted(values, own_value)) if own_value else None,
        "total": [candidate["total"]["expected_pairs"] for candidate in candidates],
        "expected": [
            [candidate["languages"].get(lang, none)["expected_pairs"] for candidate in candidates] for lang in languages
        ],
        "thresholds": [thresholds.get(name, no_thresholds) for name in lists],
        "effective": [
            _effective(matched.counts[name], thresholds.get(name, no_thresholds)) for name in lists
        ],
    }  # fmt: skip


def _effective(counts: np.ndarray, thresholds: Sequence[int | None]) -> list[float]:
    """Return the effective entries of a list after balancing, per threshold."""
    positive = counts[counts > 0]
    return [
        effective_entries(np.minimum(positive, np.uint64(threshold)) if threshold else positive)
        for threshold in thresholds
    ]
