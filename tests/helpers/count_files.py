"""Files of sparse entry counts, as match writes them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from worldclip.contracts import schemas
from worldclip.core import artifacts


def write_count_file(path: Path, rows: list[tuple[str, int, int]]) -> Path:
    """Write rows of (list, entry_id, count); return the path."""
    names, ids, counts = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        {
            "entries_lang": pa.array(names, pa.string()),
            "entry_id": pa.array(ids, pa.int32()),
            "count": pa.array(counts, pa.uint64()),
        }
    )
    artifacts.write_table(path, table, schemas.MATCH_COUNTS)
    return path
