"""Parquet shards: one row is one pair, under any column names, with one text or a list of texts per row.

A column may hold the images: a struct of `bytes` and `path`, as `datasets` writes it, or binary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.arrow import byte_buffers, one_array
from worldclip.core.errors import BadShard
from worldclip.core.execute import Report, Shard
from worldclip.pool.columns import WrongColumns
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.columns_format import ColumnsFormat
from worldclip.pool.records import KeyedRecords
from worldclip.pool.row_groups import UNKNOWN_SIZE, leaf_batches, open_parquet, pack_places, read_rows
from worldclip.pool.texts import find_bad_utf8, find_duplicates, readable

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

    def plain_columns(self, shard: Shard, config: PoolConfig) -> Sequence[str]:
        schema = _read(shard, lambda file: file.schema_arrow)
        return [field.name for field in schema if not _holds_bytes(field.type)]

    def image_column(self, shard: Shard, config: PoolConfig) -> str | None:
        """Return the column of images: the one that `pool.image_field` names, else the only one; None if there is none.

        Raises WrongColumns for a column that holds neither images nor paths, and for several columns of images.
        """
        schema = _read(shard, lambda file: file.schema_arrow)
        if config.image_field is not None:
            return config.image_field if _is_named(schema, config) else super().image_column(shard, config)
        features = _features(schema)
        columns = [field.name for field in schema if _holds_images(field, features)]
        if len(columns) > 1:
            raise WrongColumns(
                f"pool.image_field is not set and several columns hold images; set it to one of: {', '.join(columns)}"
            )
        return columns[0] if columns else None

    def path_column(self, shard: Shard, config: PoolConfig) -> str | None:
        column = super().path_column(shard, config)
        has_images = column is not None and _is_named(_read(shard, lambda file: file.schema_arrow), config)
        return None if has_images else column

    def index_images(self, shard: Shard, config: PoolConfig) -> tuple[pa.Table, Report]:
        column = self.image_column(shard, config)
        if column is None or self.path_column(shard, config) is not None:
            return super().index_images(shard, config)
        (keys, has_key, _), rows = self.pairs_of(shard, config)
        with open_parquet(shard.path) as file:
            leaf = _leaf_of(file, column)
            has_image, members = _has_image(file, leaf), _paths(file, column)
        is_indexed = has_key & ~find_duplicates(keys, has_key)
        num_rows = len(keys) - len(rows.bad)
        is_indexed[num_rows:] = False
        is_indexed[:num_rows] &= has_image[rows.numbers[:num_rows]]
        chosen = np.flatnonzero(is_indexed)
        numbers = rows.numbers[chosen]
        index = {
            "key": keys.take(pa.array(chosen)),
            "member": members.take(pa.array(numbers)),
            "offset": pack_places(leaf, numbers),
            "size": np.full(len(chosen), UNKNOWN_SIZE, np.int64),
        }
        counts = {"pairs": len(keys), "images": len(chosen), "ignored_members": 0, "left_out": rows.num_left_out}
        return pa.table(index), counts

    def read_images(self, shard: Shard, config: PoolConfig) -> tuple[pa.Table, Iterator[bytes]]:
        if self.path_column(shard, config) is not None:
            return super().read_images(shard, config)
        index, _ = self.index_images(shard, config)
        return index, _whole(read_rows(shard.path, index["offset"].to_numpy()))

    def read_records(self, shard: Shard, config: PoolConfig) -> KeyedRecords:
        (keys, _, _), _ = self.pairs_of(shard, config)
        table = self._rows(shard, config, self.plain_columns(shard, config)).table
        return keys.to_pylist(), table.to_pylist() if table.num_columns else [{}] * len(keys)


class Footers(ParquetFormat):
    """Parquet without its rows: reading texts then only checks which columns there are, and their types."""

    def read_columns(self, shard: Shard, config: PoolConfig, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
        return _read(shard, lambda file: file.schema_arrow.empty_table().select(list(names))), []


PARQUET = ParquetFormat()
_IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image")  # binary columns; img2dataset names them by the images' format


def _read(shard: Shard, read: Callable[[pq.ParquetFile], T]) -> T:
    with open_parquet(shard.path) as file:
        return read(file)


def _whole(images: Iterator[bytes | BadShard]) -> Iterator[bytes]:
    for image in images:
        if isinstance(image, BadShard):
            raise image
        yield image


# --- which column holds images ----------------------------------------------------------------------------------------


def _is_named(schema: pa.Schema, config: PoolConfig) -> bool:
    """Return whether the column that pool.image_field names holds images; False: paths, or it is not there."""
    if config.image_field not in schema.names:
        return False
    kind = schema.field(config.image_field).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return False
    if not (_is_bytes(kind) or _is_file(kind)):
        named = f"pool.image_field: column {config.image_field!r} is {kind}"
        raise WrongColumns(f"{named}; images are binary or a struct with `bytes`, paths are texts")
    return True


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """Return what `datasets` says of the columns in the schema's metadata; empty where it says nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _holds_images(field: pa.Field, features: Mapping[str, Any]) -> bool:
    feature = features.get(field.name)
    if isinstance(feature, dict) and "_type" in feature:  # sounds and videos are structs of bytes and path, too
        return feature["_type"] == "Image" and (_is_file(field.type) or _is_bytes(field.type))
    has_path = _is_file(field.type) and field.type.get_field_index("path") >= 0
    return has_path or (_is_bytes(field.type) and field.name.lower() in _IMAGE_COLUMNS)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_file(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether there are bytes anywhere in the values of a type."""
    children = [kind.field(i).type for i in range(kind.num_fields)]
    return _is_bytes(kind) or pa.types.is_fixed_size_binary(kind) or any(map(_holds_bytes, children))


# --- where images are -------------------------------------------------------------------------------------------------


def _leaf_of(file: pq.ParquetFile, column: str) -> int:
    """Return the position of the images' bytes among the leaf columns of the file."""
    schema = file.metadata.schema
    paths = [schema.column(leaf).path for leaf in range(len(schema))]
    name = column if _is_bytes(file.schema_arrow.field(column).type) else f"{column}.bytes"
    return paths.index(name)


def _has_image(file: pq.ParquetFile, leaf: int) -> np.ndarray:
    """Return (num_rows,) bool: the row's bytes are not null.

    The footer counts the nulls of a row group; its images are read only where some but not all are null.
    """
    parts = [np.zeros(0, bool)]
    for group in range(file.num_row_groups):
        facts = file.metadata.row_group(group)
        statistics = facts.column(leaf).statistics
        num_nulls = statistics.null_count if statistics is not None and statistics.has_null_count else None
        if num_nulls in (0, facts.num_rows):
            parts.append(np.full(facts.num_rows, num_nulls == 0))
        else:
            parts += [values.is_valid().to_numpy(zero_copy_only=False) for values in leaf_batches(file, leaf, group)]
    return np.concatenate(parts)


def _paths(file: pq.ParquetFile, column: str) -> pa.Array:
    """Return (num_rows,) the name that each image had, "" for none.  It is never opened."""
    kind = file.schema_arrow.field(column).type
    place = kind.get_field_index("path") if pa.types.is_struct(kind) else -1
    if place < 0 or not (
        pa.types.is_string(kind.field(place).type) or pa.types.is_large_string(kind.field(place).type)
    ):
        return pa.array([""] * file.metadata.num_rows, pa.string())
    structs = one_array(file.read(columns=[f"{column}.path"]).column(0))
    values, offsets = byte_buffers(structs.field(0).cast(pa.large_binary()), fill_nulls=True)
    return readable(values, offsets, find_bad_utf8(values, offsets))
