"""Pairs that are rows of a table: one row is one pair, with one text or a list of texts per column.

Texts stay in Arrow buffers: no Python object is made per text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.arrow import one_array
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.inputs import is_remote
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats.base import DEFAULT_PLACES, ShardPairs, Values, WrongColumns
from worldclip.pool.picture_files import find_pictures

IMG2DATASET = ("status", "error_message")  # columns of its tables, which list failed downloads too


def columns_to_read(names: Sequence[str], config: PoolConfig) -> list[str]:
    """Return the columns of a table that the recipe asks for, of those that there are.

    Raises BadShard for one of them whose name several columns have.
    """
    asked = [bare(config.key), *text_columns(names, config), *compared_columns(names, config)]
    asked += [bare(name) for name in (config.lang, config.image_field) if name is not None]
    columns = [name for name in dict.fromkeys(asked) if name in names]
    repeated = sorted(name for name in columns if list(names).count(name) > 1)
    if repeated:
        raise BadShard(f"has several columns of one name: {', '.join(repeated)}")
    return columns


def text_columns(names: Sequence[str], config: PoolConfig) -> list[str]:
    """Return the columns of pool.texts, or the first default column that there is."""
    return list(map(bare, config.texts)) or [name for name in DEFAULT_PLACES if name in names][:1]


def compared_columns(names: Sequence[str], config: PoolConfig) -> Sequence[str]:
    """Return the columns that pool.where compares; unset, `status` of img2dataset's tables."""
    if config.where is None and set(IMG2DATASET) <= set(names):
        return ["status"]
    return config.compared


def pairs_of_table(
    shard: Shard,
    table: pa.Table,
    names: Sequence[str],
    config: PoolConfig,
    *,
    unreadable: Mapping[int, str] = {},
    images: pa.Table | None = None,
) -> ShardPairs:
    """Return the pairs of a table.

    table: the columns of `columns_to_read`.  names: of all columns.  unreadable: why each row of nulls could not be
    read, by its number.  images: those within the shard, as ShardPairs has them; None: pool.image_field, if it is set,
    is a column of paths.
    """
    problems: Mapping[int, str] = {}
    paths = config.image_field
    if images is None and paths is not None and paths in names:
        if is_remote(shard.path):
            raise WrongColumns(f"pool.image_field: {paths!r} holds paths; copy the table and its images here")
        images, problems = find_pictures(shard, as_binary(paths, table[paths]))
    fields = {name: table[name] for name in table.column_names}
    key = bare(config.key)
    keys = None
    if key in fields:
        column = fields[key]
        if pa.types.is_integer(column.type):
            column = column.cast(pa.string())
        keys = as_binary(key, column)
    texts = []
    for place, name in enumerate(text_columns(names, config)):
        if name in fields:
            texts.append(values_of_column(name, fields[name])._replace(place=place))
    lang = bare(config.lang or "")
    labels = values_of_column(lang, fields[lang]) if lang in fields else None
    return ShardPairs(
        names=names,
        has_schema=True,
        num_pairs=table.num_rows,
        keys=keys,
        texts=texts,
        labels=labels,
        fields={name: fields[name] for name in compared_columns(names, config) if name in fields},
        images=images,
        unreadable=unreadable,
        problems=problems,
    )


def values_of_column(name: str, column: pa.ChunkedArray) -> Values:
    """Return the values of a column of texts or of lists of texts; a null in place of a list is one null."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return Values(np.arange(len(column)), as_binary(name, column), np.zeros(len(column), bool))
    lists = one_array(column)
    values = as_binary(name, pa.chunked_array([pc.list_flatten(lists)]))
    is_null = np.asarray(pc.is_null(column))  # list_flatten skips null lists, also those that have values
    parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    null_rows = np.flatnonzero(is_null)
    row = np.concatenate([parents[~is_null[parents]], null_rows])
    order = np.argsort(row, kind="stable")
    values = pa.concat_arrays([values, pa.nulls(len(null_rows), pa.large_binary())])
    return Values(row[order], values.take(pa.array(order)), ~is_null)


def as_binary(name: str, column: pa.ChunkedArray) -> pa.Array:
    """Return a column of texts as large_binary, which may hold bytes that are not UTF-8.  Raises BadShard."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if not any(is_kind(kind) for is_kind in (*is_text, *is_bytes)):
        raise BadShard(
            f"column {name} is {column.type}; it must hold texts or lists of texts: name another column, or rewrite "
            "this one"
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(kind)
    return one_array(column.cast(pa.large_binary()))
