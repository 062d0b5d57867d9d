"""Parquet shards: one row is one pair, under any column names, with one text or a list of texts per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import open_file
from worldclip.pool.formats.columns_format import ColumnsFormat

T = TypeVar("T")


class ParquetFormat(ColumnsFormat):
    name = "parquet"
    suffixes = (".parquet",)

    def read_columns(self, shard: Shard, config: PoolConfig, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
        return _read(shard, lambda file: file.read(columns=list(names))), []

    def field_names(self, shard: Shard, config: PoolConfig) -> list[str]:
        return list(_read(shard, lambda file: file.schema_arrow.names))

    def count_rows(self, shard: Shard, config: PoolConfig) -> int:
        return int(_read(shard, lambda file: file.metadata.num_rows))

    def image_column(self, shard: Shard) -> str | None:
        """Return the column of images, as img2dataset (`jpg`) or datasets (`image`) write them, or None."""
        schema = _read(shard, lambda file: file.schema_arrow)
        return next((field.name for field in schema if _holds_images(field)), None)


PARQUET = ParquetFormat()
_IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image")


def _holds_images(field: pa.Field) -> bool:
    kind = field.type
    is_struct = pa.types.is_struct(kind) and {"bytes", "path"} <= {inner.name for inner in kind}
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return is_struct or (is_bytes and field.name.lower() in _IMAGE_COLUMNS)


def _read(shard: Shard, read: Callable[[pq.ParquetFile], T]) -> T:
    with open_file(shard.path) as file:
        try:
            return read(pq.ParquetFile(file))
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
            raise BadShard(f"not a Parquet file, or damaged ({error})") from error
