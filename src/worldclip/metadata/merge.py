"""Merge all lists into one: in sorted code order, the first of equal entries with its source and score.

The entries of all lists are in memory with a hash table over them, about 80 bytes per entry; the other columns are read
list by list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.contracts.schemas import METADATA
from worldclip.core.artifacts import read_table, write_artifact
from worldclip.core.keys import KeyTable


def merge_lists(paths: Sequence[Path], merged: Path) -> dict[str, dict[str, int]]:
    """Write the entries of the tables `paths` (METADATA) to `merged`, each once.

    Returns {source: {in: entries read, kept: entries written}}.
    """
    is_first = _find_first(paths)
    went_in: Counter[str] = Counter()
    kept: Counter[str] = Counter()

    def write(aside: Path) -> None:
        row = 0
        first_id = 0
        with pq.ParquetWriter(aside, METADATA, compression="zstd") as writer:
            for path in paths:
                table = read_table(path, METADATA).combine_chunks()
                new = table.filter(pa.array(is_first[row : row + len(table)]))
                went_in.update(_by_source(table))
                kept.update(_by_source(new))
                entry_ids = pa.array(np.arange(first_id, first_id + len(new), dtype=np.int32))
                writer.write_table(new.set_column(0, METADATA.field("entry_id"), entry_ids).cast(METADATA))
                row += len(table)
                first_id += len(new)

    write_artifact(merged, write)
    return {source: {"in": went_in[source], "kept": kept[source]} for source in went_in}


def _find_first(paths: Sequence[Path]) -> np.ndarray:
    """Return which rows of all tables, one after the other, equal no earlier one, (n,) bool."""
    tables = [read_table(path, METADATA, ["entry"]) for path in paths]
    entries = pa.concat_tables(tables)["entry"]
    is_first: np.ndarray = KeyTable(entries).find(entries) == np.arange(len(entries))
    return is_first


def _by_source(table: pa.Table) -> dict[str, int]:
    counts = table["source"].cast(pa.string()).combine_chunks().value_counts()
    return {row["values"]: row["counts"] for row in counts.to_pylist()}
