"""The formats of a pool's shards: ours, and those of other packages.

A new format is a `PoolFormat` in a module of its own (docs/plugins.md).
"""

from __future__ import annotations

import itertools

from worldclip.core.registry import Registry
from worldclip.pool.formats.base import PoolFormat

# img2dataset writes a Parquet file next to each tar with the same pairs but no images, so tars come first.
POOL_FORMATS = Registry(
    "pool format",
    "worldclip.pool_formats",
    {
        "tar": "worldclip.pool.formats.tar:TAR",
        "parquet": "worldclip.pool.formats.parquet:PARQUET",
        "jsonl": "worldclip.pool.formats.jsonl:JSONL",
        "csv": "worldclip.pool.formats.delimited:CSV",
        "tsv": "worldclip.pool.formats.delimited:TSV",
    },
)


def pool_formats() -> tuple[PoolFormat, ...]:
    """Return all formats in the order in which a folder is searched for shards."""
    return tuple(map(POOL_FORMATS.load, POOL_FORMATS.names()))


def pool_suffixes() -> tuple[str, ...]:
    """Return the suffixes of the shards of all formats, in the same order."""
    return tuple(itertools.chain.from_iterable(pool_format.suffixes for pool_format in pool_formats()))


def format_of(name: str) -> PoolFormat:
    """Return the format of a shard by the suffix of its name.  Raises ValueError for any other suffix."""
    for pool_format in pool_formats():
        if name.endswith(pool_format.suffixes):
            return pool_format
    raise ValueError(f"{name!r} is not a shard of a pool ({', '.join(pool_suffixes())})")
