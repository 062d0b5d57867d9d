"""RUN/match/counts: how many texts of valid keys each entry occurs in, derived from the matched texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from worldclip.core import artifacts, keys
from worldclip.core.entry_counts import count_entries
from worldclip.core.execute import Report, Shard, repeatable


def table_path(folder: Path, part: str, shard: Shard) -> Path:
    """Return the path of a shard's table under RUN/match; part: texts or counts."""
    return folder / part / f"{shard.name}.parquet"


@repeatable
def count_shard(shard: Shard, *, run_dir: Path, key_lists: Sequence[keys.KeyList]) -> Report:
    """Write RUN/match/counts/<shard>.parquet: how many texts of valid keys each entry occurs in, without zeros."""
    folder = run_dir / "match"
    columns = ["entries_lang", "entry_ids", *(["key"] if key_lists else [])]
    table = artifacts.read_table(table_path(folder, "texts", shard), artifacts.MATCH_TEXTS, columns)
    if key_lists:
        table = table.filter(pa.array(keys.is_valid(table.column("key"), key_lists, shard.name)))
    artifacts.write_table(table_path(folder, "counts", shard), count_entries(table), artifacts.MATCH_COUNTS)
    return {"pairs": table.num_rows}
