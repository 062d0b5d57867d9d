"""JSONL shards: one JSON object per line is one pair."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence

from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.pool import records
from worldclip.pool.columns import bare, check_fields, choose_columns
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import read_bytes
from worldclip.pool.formats.base import TableFormat
from worldclip.pool.texts import PairKeys, PoolTexts, row_names


class JsonlFormat(TableFormat):
    name = "jsonl"
    suffixes = (".jsonl", ".jsonl.gz")

    def read_texts(self, shard: Shard, config: PoolConfig) -> PoolTexts:
        rows = read_lines(shard)
        keys = _keys(shard, rows, config)
        fields = tuple(bare(name) for name in config.texts)
        lang = None if config.lang is None else bare(config.lang)
        return records.texts_of_records(rows, keys, fields, lambda pair: None, lang)  # a line has no .txt

    def read_keys(self, shard: Shard, config: PoolConfig) -> PairKeys:
        return _keys(shard, read_lines(shard), config)

    def read_records(self, shard: Shard, config: PoolConfig, fields: Sequence[str]) -> records.KeyedRecords:
        rows = read_lines(shard)
        key = bare(config.key)
        return [str(row.get(key)) if isinstance(row, dict) else "" for row in rows], rows

    def field_names(self, shard: Shard) -> list[str]:
        return records.field_names(read_lines(shard)[: records.NUM_PROBED])

    def count_rows(self, shard: Shard) -> int:
        return len(read_lines(shard))

    def check_columns(self, shard: Shard, config: PoolConfig) -> None:
        names = self.field_names(shard)
        if config.key == "member":
            choose_columns(names, config)  # fails, and says which keys there are
        check_fields(names, config, config.texts)


JSONL = JsonlFormat()


def read_lines(shard: Shard) -> list[records.Record]:
    """Return one record per line; lines of whitespace are skipped.  Raises BadShard for a cut or damaged .gz."""
    content = read_bytes(shard.path)
    if shard.name.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadShard(f"gzip data cut off or damaged ({error})") from error
    return [records.parse_record(line) for line in content.split(b"\n") if line.strip()]


def _keys(shard: Shard, rows: Sequence[records.Record], config: PoolConfig) -> PairKeys:
    return records.keys_of_records(rows, bare(config.key), row_names(shard.name, len(rows)))
