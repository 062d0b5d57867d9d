"""The formats of a pool's shards.

A new format subclasses `PoolFormat` (`TableFormat` without images) in a module of its own and is added to FORMATS.
"""

from __future__ import annotations

from worldclip.pool.formats.base import PoolFormat
from worldclip.pool.formats.delimited import CSV, TSV
from worldclip.pool.formats.jsonl import JSONL
from worldclip.pool.formats.parquet import PARQUET
from worldclip.pool.formats.tar import TAR

# The order in which `pool.format = "auto"` looks for shards.  img2dataset writes a Parquet file beside each tar, which
# holds the same pairs without their images, so tars come first.
FORMATS: tuple[PoolFormat, ...] = (TAR, PARQUET, JSONL, CSV, TSV)


def format_of(name: str) -> PoolFormat:
    """Return the format of a shard by the suffix of its name.  Raises ValueError for any other suffix."""
    for pool_format in FORMATS:
        if name.endswith(pool_format.suffixes):
            return pool_format
    raise ValueError(
        f"{name!r} is not a shard of a pool (.tar, .parquet, .jsonl, .csv, .tsv, or .gz of the last three)"
    )
