"""JSONL shards: one JSON object per line is one pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldclip.core.execute import Shard
from worldclip.core.unpack import unpack_bytes
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import read_bytes
from worldclip.pool.formats.base import PoolFormat, ShardPairs
from worldclip.pool.formats.records import Record, pairs_of_records, parse_record


def read(shard: Shard, config: PoolConfig) -> ShardPairs:
    """Return the pairs of a shard; an unreadable line is a bad pair, and lines of whitespace are skipped.

    Raises BadShard for a bad .gz.
    """
    return pairs_of_records(_read_records(shard), config)


def read_rows(shard: Shard, config: PoolConfig, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return all fields of these pairs; none of a line that cannot be read."""
    records = _read_records(shard)
    fields: list[dict[str, Any]] = []
    for row in rows.tolist():
        record = records[row]
        fields.append(record if isinstance(record, dict) else {})
    return fields


def _read_records(shard: Shard) -> list[Record]:
    content = unpack_bytes(read_bytes(shard.path), shard.name)
    return [parse_record(line) for line in content.split(b"\n") if line.strip()]


JSONL = PoolFormat(name="jsonl", suffixes=(".jsonl", ".jsonl.gz"), read=read, read_rows=read_rows)
