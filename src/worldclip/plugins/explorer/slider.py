"""The effect of 41 values of the balance key: the numbers that `worldclip estimate` gives for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.contracts.entry_counts import effective_entries
from worldclip.core.job import Report
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
    no_pairs: Report = {"expected_pairs": 0.0}
    totals: list[float] = []
    expected: dict[str, list[float]] = {lang: [] for lang in languages}
    thresholds: dict[str, list[int | None]] = {name: [None] * len(values) for name in lists}
    for number, candidate in enumerate(candidates):
        totals.append(candidate["total"]["expected_pairs"])
        for lang in languages:
            row = candidate["languages"].get(lang, no_pairs)
            expected[lang].append(row["expected_pairs"])
            list_name = matched.list_of_lang.get(lang)
            if list_name in thresholds:
                thresholds[list_name][number] = row.get("threshold")
    effective: dict[str, list[float]] = {name: [] for name in lists}
    for name in lists:
        counts = matched.counts[name]
        positive = counts[counts > 0]
        for threshold in thresholds[name]:
            balanced = np.minimum(positive, np.uint64(threshold)) if threshold else positive
            effective[name].append(effective_entries(balanced))
    return {
        "key": matched.key,
        "values": values.tolist(),
        "own": int(np.searchsorted(values, own_value)) if own_value else None,
        "total": totals,
        "expected": list(expected.values()),
        "thresholds": list(thresholds.values()),
        "effective": list(effective.values()),
    }
