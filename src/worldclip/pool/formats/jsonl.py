"""JSONL shards: one JSON object per line is one pair."""

from __future__ import annotations

from worldclip.core.execute import Shard
from worldclip.core.unpack import unpack_bytes
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import read_bytes
from worldclip.pool.formats.base import PoolFormat, ShardPairs
from worldclip.pool.formats.records import pairs_of_records, parse_record


def read(shard: Shard, config: PoolConfig) -> ShardPairs:
    """Return the pairs of a shard; an unreadable line is a bad pair, and lines of whitespace are skipped.

    Raises BadShard for a bad .gz.
    """
    content = unpack_bytes(read_bytes(shard.path), shard.name)
    return pairs_of_records([parse_record(line) for line in content.split(b"\n") if line.strip()], config)


JSONL = PoolFormat(name="jsonl", suffixes=(".jsonl", ".jsonl.gz"), read=read)
