"""JSONL shards: one JSON object per line is one pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from worldclip.contracts.schemas import POOL_INDEX
from worldclip.core.errors import BadShard
from worldclip.core.execute import Report, Shard
from worldclip.core.unpack import unpack_bytes
from worldclip.pool import records
from worldclip.pool.columns import NO_PAIR, WrongColumns, check_fields, check_key, rows_where
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.files import read_bytes
from worldclip.pool.formats.base import PoolFormat
from worldclip.pool.texts import PairKeys, PoolTexts, row_names


class JsonlFormat(PoolFormat):
    name = "jsonl"
    suffixes = (".jsonl", ".jsonl.gz")

    def read_texts(self, shard: Shard, config: PoolConfig) -> PoolTexts:
        rows, _ = _pairs(shard, config)
        keys = _keys(shard, rows, config)
        fields = tuple(bare(name) for name in config.texts)
        lang = None if config.lang is None else bare(config.lang)
        return records.texts_of_records(rows, keys, fields, lambda pair: None, lang)  # a line has no .txt

    def read_keys(self, shard: Shard, config: PoolConfig) -> PairKeys:
        return _keys(shard, _pairs(shard, config)[0], config)

    def field_names(self, shard: Shard, config: PoolConfig) -> list[str]:
        return records.field_names(read_lines(shard)[: records.NUM_PROBED])

    def index_images(self, shard: Shard, config: PoolConfig) -> tuple[pa.Table, Report]:
        rows, num_left_out = _pairs(shard, config)
        counts = {"pairs": len(rows), "images": 0, "ignored_members": 0, "left_out": num_left_out}
        return POOL_INDEX.empty_table(), counts

    def check_columns(self, shard: Shard, config: PoolConfig, *, is_key_only: bool = False) -> None:
        lines = read_lines(shard)[: records.NUM_PROBED]
        if not lines:
            raise BadShard(NO_PAIR)
        names = records.field_names(lines)
        if config.key == "member":
            check_key(names, config)  # fails, and says which keys there are
        check_fields(names, config, is_key_only=is_key_only)


JSONL = JsonlFormat()


def read_lines(shard: Shard) -> list[records.Record]:
    """Return one record per line; lines of whitespace are skipped.  Raises BadShard for a bad .gz."""
    content = unpack_bytes(read_bytes(shard.path), shard.name)
    return [records.parse_record(line) for line in content.split(b"\n") if line.strip()]


def _pairs(shard: Shard, config: PoolConfig) -> tuple[list[records.Record], int]:
    """Return (the records that are pairs, how many pool.where leaves out); an unreadable line is a bad pair."""
    lines = read_lines(shard)
    if not config.where:
        return lines, 0
    names = [str(name) for name, *_ in config.where]
    objects = [line if isinstance(line, dict) else {} for line in lines]
    try:
        table = pa.table({name: [row.get(name) for row in objects] for name in names})
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise WrongColumns(f"pool.where: a field holds values of several types ({error})") from error
    is_pair = np.array([isinstance(line, str) for line in lines], bool)
    is_pair[rows_where(table, config.where)] = True
    rows = [line for line, is_row in zip(lines, is_pair, strict=True) if is_row]
    return rows, len(lines) - len(rows)


def _keys(shard: Shard, rows: Sequence[records.Record], config: PoolConfig) -> PairKeys:
    return records.keys_of_records(rows, bare(config.key), row_names(shard.name, range(len(rows))))
