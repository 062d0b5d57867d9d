"""JSONL shards: one JSON object per line is one pair."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence

from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.pool.columns import bare, check_fields, choose_columns
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import read_bytes
from worldclip.pool.formats.base import TableFormat
from worldclip.pool.records import (
    NUM_PROBED,
    KeyedRecords,
    Record,
    field_names,
    keys_of_records,
    parse_record,
    texts_of_records,
)
from worldclip.pool.texts import PairKeys, PoolTexts, row_names


class JsonlFormat(TableFormat):
    name = "jsonl"
    suffixes = (".jsonl", ".jsonl.gz")

    def read_texts(self, shard: Shard, config: PoolConfig) -> PoolTexts:
        records = read_lines(shard)
        keys = _keys(shard, records, config)
        lang = None if config.lang is None else bare(config.lang)
        return texts_of_records(records, keys, tuple(bare(name) for name in config.texts), _no_txt, lang)

    def read_keys(self, shard: Shard, config: PoolConfig) -> PairKeys:
        return _keys(shard, read_lines(shard), config)

    def read_records(self, shard: Shard, config: PoolConfig, fields: Sequence[str]) -> KeyedRecords:
        records = read_lines(shard)
        key = bare(config.key)
        return [str(record.get(key)) if isinstance(record, dict) else "" for record in records], records

    def field_names(self, shard: Shard) -> list[str]:
        return field_names(read_lines(shard)[:NUM_PROBED])

    def count_rows(self, shard: Shard) -> int:
        return len(read_lines(shard))

    def check_columns(self, shard: Shard, config: PoolConfig) -> None:
        names = self.field_names(shard)
        if config.key == "member":
            choose_columns(names, config)  # fails, and says which keys there are
        check_fields(names, config, config.texts)


JSONL = JsonlFormat()


def read_lines(shard: Shard) -> list[Record]:
    """Return one record per line; lines of whitespace are skipped.  Raises BadShard for a cut or damaged .gz."""
    content = read_bytes(shard.path).tobytes()
    if shard.name.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadShard(f"gzip data cut off or damaged ({error})") from error
    return [parse_record(line) for line in content.split(b"\n") if line.strip()]


def _keys(shard: Shard, records: Sequence[Record], config: PoolConfig) -> PairKeys:
    return keys_of_records(records, bare(config.key), row_names(shard.name, len(records)))


def _no_txt(pair: int) -> None:
    return None
