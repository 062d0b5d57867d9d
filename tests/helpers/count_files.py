"""Files of sparse entry counts, as match writes them."""

from pathlib import Path

import pyarrow as pa

from worldclip.contracts import schemas
from worldclip.core import artifacts


def write_count_file(path: Path, rows: list[tuple[str, int, int]]) -> Path:
    """Write rows of (list, entry_id, count); return the path."""
    records = [dict(zip(schemas.MATCH_COUNTS.names, row, strict=True)) for row in rows]
    table = pa.Table.from_pylist(records, schemas.MATCH_COUNTS)
    artifacts.write_table(path, table, schemas.MATCH_COUNTS)
    return path
