"""Examples of each language and of each frequent entry: kept and dropped texts, chosen by hash over all shards.

Keys that are denied or not in the valid list are never shown.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.core import coin
from worldclip.core.arrow import codes_of, list_buffers, one_array
from worldclip.curate.candidates import CurateWork, decide_on

PER_REASON = 30  # examples per language: kept, sampled out, excluded
PER_ENTRY = 3  # kept, and as many dropped
TOP_ENTRIES = 60  # entries per list that have their own examples
MAX_CHARS = 1000  # characters per text


def choose_examples(work: CurateWork, top_entries: Mapping[str, np.ndarray]) -> pa.Table:
    """Return the examples of a run, rows of RUN/match/texts with keep_prob, coin, reason, shard and number.

    top_entries: list -> sorted ids of the entries that have examples of their own.  The smallest numbers, which are
    hashes, are chosen, so the examples of a union of shards are those of the shards' examples.
    """
    chosen: pa.Table | None = None
    for shard in layout.matched_shards(work.run_dir):
        table, candidates, keep_prob = work.read(shard, with_texts=True)
        decision = decide_on(candidates, keep_prob, work.config)
        reason = decision.reason_T
        columns = {
            "keep_prob": keep_prob,
            "coin": decision.coin_T,
            "reason": reason,
            "number": coin.sample_numbers(one_array(table.column("key")), candidates.text_idx_T),
            "shard": pa.array([shard]).take(pa.array(np.zeros(len(reason), np.int32))),
        }
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values))
        table = table.filter(pa.array((reason >= 0) & (reason != Reason.NOT_VALID)))
        table = _choose(table, top_entries)
        if chosen is not None:
            table = _choose(pa.concat_tables([chosen, table]).unify_dictionaries(), top_entries)
        chosen = table
    assert chosen is not None, "a curated run has a shard"
    return chosen.sort_by("number")


def _choose(table: pa.Table, top_entries: Mapping[str, np.ndarray]) -> pa.Table:
    """Return the rows among the first of their language and reason, or of a frequent entry."""
    reason = table.column("reason").to_numpy()
    number = table.column("number").to_numpy()
    lang, _ = codes_of(table.column("lang"))
    is_chosen = is_first(lang.astype(np.int64) * len(Reason) + reason, number, PER_REASON)
    list_code, list_names = codes_of(table.column("entries_lang"))
    entry_ids, offsets = list_buffers(table.column("entry_ids"))
    text_of_match = np.repeat(np.arange(len(table)), np.diff(offsets))
    entry_ids = entry_ids[offsets[0] : offsets[-1]]
    for code, name in enumerate(list_names):
        top = top_entries.get(name, np.zeros(0, np.int32))
        matches = np.flatnonzero((list_code[text_of_match] == code) & np.isin(entry_ids, top))
        texts = text_of_match[matches]
        is_kept = reason[texts] == Reason.KEPT
        group = 2 * np.searchsorted(top, entry_ids[matches]) + is_kept
        is_chosen[texts[is_first(group, number[texts], PER_ENTRY)]] = True
    return table.filter(pa.array(is_chosen))


def is_first(groups: np.ndarray, numbers: np.ndarray, limit: int) -> np.ndarray:
    """Return which rows are among the `limit` with the smallest numbers of their group, (n,) bool."""
    order = np.lexsort((numbers, groups))
    in_order = groups[order]
    starts = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]])) if len(order) else order
    sizes = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    mask = np.zeros(len(order), np.bool_)
    mask[order[rank < limit]] = True
    return mask
