"""Pairs that are rows of a table: one row is one pair, with one text or a list of texts per column.

Texts stay in Arrow buffers: no Python object is made per text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.arrow import one_array
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.inputs import is_remote
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats.base import DEFAULT_PLACES, Images, ShardPairs, Values, WrongColumns, no_images
from worldclip.pool.picture_files import size_of_picture

IMG2DATASET = ("status", "error_message")  # columns of its tables, which list failed downloads too


def columns_to_read(names: Sequence[str], config: PoolConfig) -> list[str]:
    """Return the columns of a table that the recipe asks for, of those that there are.

    Raises BadShard for one of them whose name several columns have.
    """
    asked = [bare(config.key), *text_columns(names, config), *config.compared]
    asked += [bare(name) for name in (config.lang, config.image_field) if name is not None]
    if config.where is None and set(IMG2DATASET) <= set(names):
        asked.append("status")
    columns = [name for name in dict.fromkeys(asked) if name in names]
    if repeated := sorted(name for name in columns if list(names).count(name) > 1):
        raise BadShard(f"has several columns of one name: {', '.join(repeated)}")
    return columns


def text_columns(names: Sequence[str], config: PoolConfig) -> list[str]:
    """Return the columns of pool.texts, or the first default column that there is."""
    return [bare(name) for name in config.texts] or [name for name in DEFAULT_PLACES if name in names][:1]


def pairs_of_table(
    shard: Shard,
    table: pa.Table,
    names: Sequence[str],
    config: PoolConfig,
    *,
    unreadable: Mapping[int, str] = {},
    images: Images | None = None,
) -> ShardPairs:
    """Return the pairs of a table.

    table: the columns of `columns_to_read`.  names: of all columns.  unreadable: why each of the rows that are missing
    from the table cannot be read, by the row's number.  images: those within the shard; None: pool.image_field, if it
    is set, is a column of paths.
    """
    if unreadable:
        table = table.take(position_of_rows(unreadable, table.num_rows + len(unreadable)))  # null rows
    picture_problems: Mapping[int, str] = {}
    paths = config.image_field if images is None and config.image_field in names else None
    if paths is not None:
        if is_remote(shard.path):
            raise WrongColumns(f"pool.image_field: {paths!r} holds paths; copy the table and its images here")
        images, picture_problems = find_pictures(shard, as_binary(paths, table[paths]))
    compared = config.compared
    if config.where is None and set(IMG2DATASET) <= set(names):
        compared = ("status",)
    key = bare(config.key)
    lang = bare(config.lang or "")
    return ShardPairs(
        names=names,
        has_schema=True,
        row=np.arange(table.num_rows),
        keys=_keys(key, table) if key in table.column_names else None,
        texts=[
            values_of_column(name, table[name]) if name in table.column_names else None
            for name in text_columns(names, config)
        ],
        labels=values_of_column(lang, table[lang]) if lang in table.column_names else None,
        fields={name: table[name] for name in compared if name in table.column_names},
        images=images or no_images(),
        holds_images=images is not None,
        problems=unreadable,
        picture_problems=picture_problems,
    )


def position_of_rows(unreadable: Collection[int], num_rows: int) -> pa.Array:
    """Return (num_rows,) the position of each row in a table that lacks the unreadable ones, null for these."""
    is_missing = np.zeros(num_rows, bool)
    is_missing[list(unreadable)] = True
    return pa.array(np.cumsum(~is_missing) - 1, pa.int64(), mask=is_missing)


def _keys(name: str, table: pa.Table) -> pa.Array:
    column = table[name]
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    return as_binary(name, column)


def find_pictures(shard: Shard, paths: pa.LargeBinaryArray) -> tuple[Images, dict[int, str]]:
    """Return the images of pairs in files of their own, and why others cannot be used, by pair.

    paths: (P,) relative to the shard's folder, null for none.
    """
    problems: dict[int, str] = {}
    sizes = np.zeros(len(paths), np.int64)
    for row, path in enumerate(paths.to_pylist()):
        size = size_of_picture(shard.path, path)
        if isinstance(size, int):
            sizes[row] = size
        else:
            problems[row] = size
    usable = np.flatnonzero(~np.isin(np.arange(len(paths)), list(problems)))
    members = paths.take(pa.array(usable)).cast(pa.large_string())
    return Images(usable, members, -1 - usable, sizes[usable]), problems


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
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if not any(is_kind(kind) for is_kind in (*is_text, *is_bytes)):
        raise BadShard(f"column {name} is {column.type}; it must hold texts or lists of texts")
    plain = column.cast(kind) if pa.types.is_dictionary(column.type) else column
    return one_array(plain.cast(pa.large_binary()))
