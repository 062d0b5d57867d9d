"""The threshold of each list of entries, by the rule of the recipe (arXiv:2507.22062, Alg. 1).

A *list* is what entry ids refer to: a language's own entries, or `merged` or `en` under match.isolate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldclip.balance.config import BalanceConfig
from worldclip.balance.formulas import tail_fraction, threshold_for
from worldclip.contracts.records import ListThreshold, Thresholds
from worldclip.core.errors import UserError
from worldclip.match.config import EntryLists


def choose_thresholds(
    counts: Mapping[str, np.ndarray], config: BalanceConfig, entry_lists: EntryLists
) -> dict[str, int | None]:
    """Return the threshold of each list; None for a list without a match.

    counts: matches of every entry of each list, (num_entries,) uint64.  Raises UserError if
    the rule needs a threshold or matches that are missing, and for a tail fraction of a list that the run has not.
    """
    unknown = [name for name in config.tail_fractions if name not in counts]
    if unknown:
        names = ", ".join(sorted(counts))
        raise UserError(f"balance.tail_fractions: the run has no list {', '.join(unknown)}; its lists are {names}")
    takes_english, shared_fraction = apply_english_threshold(counts, config, entry_lists)
    thresholds: dict[str, int | None] = dict.fromkeys(counts)
    for name, list_counts in counts.items():
        if not list_counts.any():
            continue
        threshold = config.english_threshold
        if threshold is None or name in config.tail_fractions or name not in takes_english:
            fraction = config.tail_fractions.get(name, shared_fraction)
            assert fraction is not None  # BalanceConfig.problems
            threshold = threshold_for(list_counts, fraction)
        thresholds[name] = max(threshold, config.min_threshold, 1)
    return thresholds


def apply_english_threshold(
    counts: Mapping[str, np.ndarray], config: BalanceConfig, entry_lists: EntryLists
) -> tuple[list[str], float | None]:
    """Return (lists that take balance.english_threshold itself, the tail fraction that other lists get).

    Under rule tail_fraction list `en` takes the threshold, and the other lists get the tail fraction that it gives
    English.  Under rule same_threshold every list takes it, and so does the only list of a run that has one.  The
    fraction is None where the rule has none.
    """
    if config.english_threshold is None:
        return [], config.tail_fraction
    if config.rule == "same_threshold" or entry_lists.isolate != "language":
        return list(counts), None
    if "en" not in counts or not counts["en"].any():
        raise UserError(
            f"balance.english_threshold = {config.english_threshold}: it gives every language English's tail "
            "fraction, but no English entry has a match; set balance.tail_fraction instead (0.06 in the paper)"
        )
    return ["en"], tail_fraction(counts["en"], config.english_threshold)


def find_warnings(counts: Mapping[str, np.ndarray], config: BalanceConfig, entry_lists: EntryLists) -> list[str]:
    """Return warnings about thresholds that are valid but probably not meant."""
    english = entry_lists.english
    largest = int(counts[english].max(initial=0)) if english in counts else 0
    if config.english_threshold is None or not 0 < largest < config.english_threshold:
        return []
    return [
        f"no entry of list {english} reaches balance.english_threshold = {config.english_threshold} (the largest has "
        f"{largest} matches), so all of it is tail; `worldclip estimate` shows what other thresholds would keep"
    ]


def thresholds_record(
    counts: Mapping[str, np.ndarray],
    thresholds: Mapping[str, int | None],
    config: BalanceConfig,
    entry_lists: EntryLists,
) -> Thresholds:
    """Return what thresholds.json holds: english_threshold and tail_fraction in effect, and one row per list."""
    lists: dict[str, ListThreshold] = {}
    for name, list_counts in counts.items():
        lists[name] = {
            "threshold": thresholds[name],
            "tail_fraction": tail_fraction(list_counts, thresholds[name] or 1),
            "num_entries": len(list_counts),
            "num_matched_entries": int(np.count_nonzero(list_counts)),
            "num_matches": int(list_counts.sum()),
        }
    english_threshold = config.english_threshold
    if english_threshold is None:
        english_threshold = thresholds.get("en")
    _, shared_fraction = apply_english_threshold(counts, config, entry_lists)
    return {"english_threshold": english_threshold, "tail_fraction": shared_fraction, "lists": lists}
