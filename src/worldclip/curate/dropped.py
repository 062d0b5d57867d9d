"""The list of why: the pairs of a shard that are not kept, each with its reason.  No Python object per pair."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts import layout, schemas
from worldclip.contracts.reasons import REASONS, Reason
from worldclip.core import artifacts, keys
from worldclip.core.arrow import codes_of, list_buffers, names_of, one_array
from worldclip.curate.candidates import CurateWork, Decision
from worldclip.kernels.compiled import compiled


def write_dropped(shard: str, table: pa.Table, decision: Decision, work: CurateWork) -> None:
    """Write RUN/curate/dropped/<shard>.parquet.  table: RUN/match/texts of the shard."""
    of_match = artifacts.read_table(layout.match_dropped(work.run_dir, shard), schemas.MATCH_DROPPED)
    if work.config.text_policy == "one":
        of_match = of_match.filter(of_match["is_of_key"])
    is_valid = pa.array(keys.is_valid(of_match["key"], work.key_lists, shard))
    of_match = of_match.set_column(0, "key", pc.if_else(is_valid, of_match["key"], None))
    candidates = decision.candidates
    rows = decision.decided_rows
    rows = rows[decision.reason_T[rows] != Reason.KEPT]
    reason = decision.reason_T[rows]
    is_sampled = reason == Reason.SAMPLED_OUT
    # `coin 0.8312 >= 0.0342; entries 3, least frequent 12345` of each text that is sampled out.
    sampled = rows[is_sampled]
    code, list_names = codes_of(table["entries_lang"])
    entry_ids, offsets = list_buffers(table["entry_ids"])
    least = np.zeros(len(sampled), np.uint64)
    for i, name in enumerate(list_names):
        counts = np.load(layout.entry_counts(work.run_dir, name), mmap_mode="r", allow_pickle=False)
        _find_least(entry_ids, offsets, sampled, np.flatnonzero(code[sampled] == i), np.asarray(counts), least)
    numbers = (decision.coin_T[sampled].round(4), decision.keep_prob_T[sampled].round(4), np.diff(offsets)[sampled])
    coin, prob, num_entries, matches = (pa.array(values).cast(pa.string()) for values in (*numbers, least))
    parts = ("coin ", coin, " >= ", prob, "; entries ", num_entries, ", least frequent ", matches)
    details = pc.binary_join_element_wise(*parts, "")
    of_curate = {
        "key": pc.if_else(pa.array(reason != Reason.NOT_VALID), one_array(table["key"]).take(pa.array(rows)), None),
        "text_idx": candidates.text_idx_T[rows],
        "lang": names_of(candidates.lang_T[rows], candidates.lang_names),
        "reason": names_of(reason, [reason.label for reason in REASONS]),
        "detail": pc.replace_with_mask(pa.nulls(len(rows), pa.string()), pa.array(is_sampled), details),
    }
    artifacts.write_tables(layout.dropped(work.run_dir, shard), (of_match, pa.table(of_curate)), schemas.DROPPED)


@compiled
def _find_least(entry_ids, offsets, rows, of_list, counts, least):
    """Set least[i] to the smallest count among the entries of text rows[i], for each i in `of_list`."""
    for i in of_list:
        smallest = np.uint64(2**63)
        for m in range(offsets[rows[i]], offsets[rows[i] + 1]):
            smallest = min(smallest, counts[entry_ids[m]])
        least[i] = smallest
