"""How many texts each entry occurs in: a shard's file of counts, made from its matched texts and the valid keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.core import artifacts, keys
from worldclip.core.arrow import codes_of, list_buffers, names_of
from worldclip.core.execute import Report, Shard, repeatable


def table_path(folder: Path, part: str, shard: Shard) -> Path:
    """Where a shard's table is: `texts` or `counts` under RUN/match."""
    return folder / part / f"{shard.name}.parquet"


@repeatable
def count_shard(shard: Shard, *, run_dir: Path, key_lists: Sequence[keys.KeyList]) -> Report:
    """Write RUN/match/counts/<shard>.parquet: how many texts of valid keys each entry occurs in; zeros left out."""
    folder = run_dir / "match"
    columns = ["entries_lang", "entry_ids", *(["key"] if key_lists else [])]
    table = artifacts.read_table(table_path(folder, "texts", shard), artifacts.MATCH_TEXTS, columns)
    if key_lists:
        table = table.filter(pa.array(keys.is_valid(table.column("key"), key_lists, shard.name)))
    counts = count_entries(table)
    artifacts.write_table(table_path(folder, "counts", shard), counts, artifacts.MATCH_COUNTS)
    return {"pairs": table.num_rows}


def count_entries(table: pa.Table) -> pa.Table:
    """Sparse counts of rows of (entries_lang, entry_ids): entries_lang, entry_id, count, sorted by list and id."""
    codes, list_names = codes_of(table.column("entries_lang"))
    entry_ids, offsets = list_buffers(table.column("entry_ids"))
    list_of_match = np.repeat(codes, np.diff(offsets))
    entry_ids = entry_ids[offsets[0] : offsets[-1]]
    found, counts = [], []
    for i in range(len(list_names)):
        ids, n = _count_ids(entry_ids[list_of_match == i] if len(list_names) > 1 else entry_ids)
        found.append(ids)
        counts.append(n)
    list_of_count = np.repeat(np.arange(len(found)), [len(ids) for ids in found])
    return pa.table(
        {
            "entries_lang": names_of(list_of_count, list_names),
            "entry_id": np.concatenate([np.zeros(0, np.int32), *found]),
            "count": np.concatenate([np.zeros(0, np.uint64), *counts]),
        }
    )


def _count_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(unique ids int32, ascending; how often each, uint64); one tally per possible id where ids are dense."""
    if not len(ids) or ids.max() > 16 * len(ids):
        unique, counts = np.unique(ids, return_counts=True)
        return unique, counts.astype(np.uint64)
    tally = np.bincount(ids)
    unique = np.flatnonzero(tally)
    return unique.astype(np.int32), tally[unique].astype(np.uint64)
