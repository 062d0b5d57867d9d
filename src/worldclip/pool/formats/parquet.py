"""Parquet shards: one row is one pair, under any column names, with one text or a list of texts per row.

A column may hold the images: a struct of `bytes` and `path`, as `datasets` writes it, or binary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.arrow import byte_buffers, one_array
from worldclip.core.execute import Shard
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.base import Images, PoolFormat, ShardPairs, WrongColumns
from worldclip.pool.formats.table import columns_to_read, pairs_of_table
from worldclip.pool.row_groups import UNKNOWN_SIZE, leaf_batches, open_parquet, pack_places, rows_by_group
from worldclip.pool.texts import find_bad_utf8, readable


def read(shard: Shard, config: PoolConfig) -> ShardPairs:
    """Return the pairs of a shard, and where their images are if a column holds them."""
    with open_parquet(shard.path, shard.fingerprint.get("size")) as file:
        schema = file.schema_arrow
        image_column = _image_column(schema, config)
        columns = [
            name for name in columns_to_read(schema.names, config) if name != image_column or name in config.compared
        ]
        table = file.read(columns=columns)
        if not columns:  # Arrow forgets the number of rows of a table without columns
            table = pa.table({"": pa.nulls(file.metadata.num_rows)})
        images = None if image_column is None else _images(file, image_column)
    return pairs_of_table(shard, table, schema.names, config, images=images)


def read_rows(shard: Shard, config: PoolConfig, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return the columns of these rows whose values JSON can hold."""
    with open_parquet(shard.path) as file:
        names = [field.name for field in file.schema_arrow if not _holds_bytes(field.type)]
        fields: list[dict[str, Any]] = []
        for group, group_rows in rows_by_group(file.metadata, rows):
            table = file.read_row_group(group, names).take(pa.array(group_rows))
            fields += _to_records(table) if names else [{}] * len(group_rows)
    return fields


def _to_records(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as dicts; a column with texts that are not UTF-8 shows them as escapes, if it is of texts."""
    columns = []
    for column in table.columns:
        try:
            columns.append(column.to_pylist())
        except UnicodeDecodeError:
            is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            values = column.cast(pa.large_binary()).to_pylist() if is_text else [None] * len(column)
            columns.append([None if value is None else value.decode("utf-8", "backslashreplace") for value in values])
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


PARQUET = PoolFormat(name="parquet", suffixes=(".parquet",), read=read, read_rows=read_rows)
_IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image")  # binary columns; img2dataset names them by the images' format


# --- which column holds images ----------------------------------------------------------------------------------------


def _image_column(schema: pa.Schema, config: PoolConfig) -> str | None:
    """Return the column of images: the one that `pool.image_field` names, else the only one; None if there is none.

    Raises WrongColumns for a column that holds neither images nor paths, and for several columns of images.
    """
    name = config.image_field
    if name is None:
        features = _features(schema)
        columns = [field.name for field in schema if _holds_images(field, features)]
        if len(columns) > 1:
            raise WrongColumns(
                f"pool.image_field is not set and several columns hold images; set it to one of: {', '.join(columns)}"
            )
        return columns[0] if columns else None
    if name not in schema.names:
        return None
    kind = schema.field(name).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return None
    if not (_is_bytes(kind) or _is_file(kind)):
        raise WrongColumns(
            f"pool.image_field: column {name!r} is {kind}; images are binary or a struct with `bytes`, paths are texts"
        )
    return name


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


def _images(file: pq.ParquetFile, column: str) -> Images:
    """Return where the images of a column are."""
    leaf = _leaf_of(file, column)
    rows = np.flatnonzero(_has_image(file, leaf))
    members = _paths(file, column).take(pa.array(rows))
    return Images(rows, members, pack_places(leaf, rows), np.full(len(rows), UNKNOWN_SIZE, np.int64))


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
