"""Sort and join more rows than fit in memory: a DuckDB database whose tables spill to a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

MEMORY = "600MB"  # of DuckDB's buffers: the process then takes less than 1 GiB
THREADS = 2  # each takes a share of the memory; on a large machine all cores together would not have enough
BATCH_ROWS = 2**16  # rows of a result in memory at once


@contextmanager
def open_database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database that spills to `folder`, which nobody else may use; the folder goes with it."""
    import duckdb

    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    folder.mkdir(parents=True)
    try:
        with duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "threads": THREADS,
                "temp_directory": str(folder),
                "preserve_insertion_order": False,  # queries state their order
            }
        ) as database:
            yield database
    finally:
        shutil.rmtree(folder, ignore_errors=True)
