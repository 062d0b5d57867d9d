"""Matched texts of a shard, written and read with the keys and texts of RUN/pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout, schemas
from worldclip.contracts.matched import OF_POOL, read_matched_texts
from worldclip.core import artifacts

COLUMNS = (*OF_POOL, "lang", "lang_prob", "entries_lang", "entry_ids")


def write_matched_texts(run_dir: Path, shard: str, table: pa.Table) -> None:
    """Write RUN/pool/pairs and RUN/match/texts of a shard whose texts all match; table: COLUMNS, place if need be."""
    number = len(table)
    columns: dict[str, Any] = dict(zip(table.column_names, table.columns, strict=True))
    pairs = {"row": np.arange(number), "place": np.zeros(number, np.int16), "reason": ["kept"] * number}
    pairs |= {name: pa.nulls(number, pa.string()) for name in ("lang", "detail")}
    pairs |= {name: columns[name] for name in OF_POOL if name in columns}
    artifacts.write_table(layout.pool_pairs(run_dir, shard), pa.table(pairs), schemas.POOL_PAIRS)
    matched = {"row": np.arange(number)} | {name: columns[name] for name in COLUMNS if name not in OF_POOL}
    artifacts.write_table(layout.match_texts(run_dir, shard), pa.table(matched), schemas.MATCH_TEXTS)


def read_matched(run_dir: Path, shard: str) -> pa.Table:
    """Return COLUMNS of the matched texts of a shard."""
    return read_matched_texts(run_dir, shard, COLUMNS)
