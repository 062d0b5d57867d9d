"""Parquet shards: one row is one pair, under any column names, with one text or a list of texts per row.

A column may hold the images: a struct of `bytes` and `path`, as `datasets` writes it, or binary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.core.arrow import one_array
from worldclip.core.execute import Shard
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.base import PoolFormat, ShardPairs, WrongColumns
from worldclip.pool.formats.table import columns_to_read, pairs_of_table
from worldclip.pool.row_groups import find_images, is_bytes, is_text, open_parquet, rows_by_group
from worldclip.pool.texts import readable


def read(shard: Shard, config: PoolConfig) -> ShardPairs:
    """Return the pairs of a shard, and where their images are if a column holds them."""
    with open_parquet(shard.path, shard.fingerprint.get("size")) as file:
        schema = file.schema_arrow
        names = schema.names
        image_column = _image_column(schema, config)
        columns = columns_to_read(names, config)
        if image_column in columns and image_column not in config.compared:
            columns.remove(image_column)
        table = file.read(columns=columns)
        if not columns:  # Arrow forgets the number of rows of a table without columns
            table = pa.table({"": pa.nulls(file.metadata.num_rows)})
        images = None if image_column is None else find_images(file, image_column)
    return pairs_of_table(shard, table, names, config, images=images)


def read_rows(shard: Shard, config: PoolConfig, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return the columns of these rows whose values JSON can hold."""
    with open_parquet(shard.path) as file:
        names = [field.name for field in file.schema_arrow if not _holds_bytes(field.type)]
        records: list[dict[str, Any]] = []
        for group, group_rows in rows_by_group(file.metadata, rows):
            table = file.read_row_group(group, names).take(pa.array(group_rows))
            columns = list(map(_to_values, table.columns))
            rows_of_group = zip(*columns, strict=True) if columns else [()] * len(group_rows)
            records += [dict(zip(table.column_names, row, strict=True)) for row in rows_of_group]
    return records


def _to_values(column: pa.ChunkedArray) -> list[Any]:
    """Return values as JSON can hold them: texts that are not UTF-8 with escapes; nulls for a column of such lists."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        if not is_text(column.type):
            return [None] * len(column)
        return list(readable(one_array(column.cast(pa.large_binary()))).to_pylist())


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
    if name not in schema.names or is_text(schema.field(name).type):
        return None
    kind = schema.field(name).type
    if not (is_bytes(kind) or _is_file(kind)):
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
        return feature["_type"] == "Image" and (_is_file(field.type) or is_bytes(field.type))
    has_path = _is_file(field.type) and field.type.get_field_index("path") >= 0
    return has_path or (is_bytes(field.type) and field.name.lower() in _IMAGE_COLUMNS)


def _is_file(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether there are bytes anywhere in the values of a type."""
    children = [kind.field(i).type for i in range(kind.num_fields)]
    return is_bytes(kind) or pa.types.is_fixed_size_binary(kind) or any(map(_holds_bytes, children))
