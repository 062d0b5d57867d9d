"""Formats whose shards are read as Arrow tables: one row is one pair, with one text or a list of texts.

Texts stay in Arrow buffers: no Python object is made per text.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts.schemas import POOL_INDEX
from worldclip.core.arrow import byte_buffers, one_array
from worldclip.core.errors import BadShard
from worldclip.core.execute import Report, Shard
from worldclip.core.inputs import is_remote
from worldclip.pool import texts as pool_texts
from worldclip.pool.columns import (
    ROW,
    WrongColumns,
    check_key,
    choose_columns,
    conditions,
    missing_column,
    rows_where,
)
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats.base import PoolFormat
from worldclip.pool.picture_files import picture_path, read_picture, size_of_picture
from worldclip.pool.texts import PairKeys, PoolTexts, find_bad_utf8, row_names


class Rows(NamedTuple):
    """The pairs of a table."""

    table: pa.Table
    numbers: np.ndarray
    """(num_rows,) int64: the row's number in the shard."""
    bad: list[str]
    """Why the last rows of the table, all null, cannot be read."""
    num_left_out: int
    """Rows that pool.where leaves out."""


class ColumnsFormat(PoolFormat):
    """A format that gives a table of columns."""

    @abstractmethod
    def read_columns(self, shard: Shard, config: PoolConfig, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
        """Return (the columns `names`, why each of the rows that are missing from them cannot be read)."""

    def count_rows(self, shard: Shard, config: PoolConfig) -> int:
        """Return the number of rows, each of which is a pair unless pool.where leaves it out."""
        table, bad = self.read_columns(shard, config, self.field_names(shard, config)[:1])
        return int(table.num_rows + len(bad))

    def read_texts(self, shard: Shard, config: PoolConfig) -> PoolTexts:
        names = self.field_names(shard, config)
        key, columns = choose_columns(names, config)
        lang = None if config.lang is None else bare(config.lang)
        paths = self.path_column(shard, config)
        more = [name for name in (lang, paths) if name is not None and name in names]
        rows = self._rows(shard, config, (key, *columns, *more))
        table = rows.table
        keys = _keys_of(shard, key, rows, paths)
        pair_of_text, place, texts = _flatten(table, columns, keys.has_key)
        values, offsets = _buffers(texts)
        is_null = _is_null(texts)
        is_bad = find_bad_utf8(values, offsets) & ~is_null
        details = dict.fromkeys(np.flatnonzero(is_bad).tolist(), "its text is not UTF-8")
        first_text = np.searchsorted(pair_of_text, list(keys.problems))
        details |= dict(zip(first_text.tolist(), keys.problems.values(), strict=True))
        return pool_texts.pool_texts(
            keys,
            pair_of_text,
            pool_texts.large_strings(values, offsets, is_bad | is_null),
            details,
            lang=None if lang is None else _languages(lang, table.column(lang), keys.has_key, pair_of_text),
            place=place,
        )

    def read_keys(self, shard: Shard, config: PoolConfig) -> PairKeys:
        return self.pairs_of(shard, config)[0]

    def check_columns(self, shard: Shard, config: PoolConfig, *, is_key_only: bool = False) -> None:
        def check_places() -> None:
            (check_key if is_key_only else choose_columns)(self.field_names(shard, config), config)

        problems: list[str] = []
        for check in (check_places, lambda: self.image_column(shard, config)):
            try:
                check()
            except WrongColumns as error:
                problems += error.problems
        if problems:
            raise WrongColumns(problems)

    def holds_images(self, shard: Shard, config: PoolConfig) -> bool:
        return self.image_column(shard, config) is not None

    def image_column(self, shard: Shard, config: PoolConfig) -> str | None:
        """Return the column of images or of their paths; None for a table without one.

        Raises WrongColumns for a column that is not there, and for paths in a table at a URL: they are of this machine.
        """
        column = config.image_field
        if column is None:
            return None
        if column not in (names := self.field_names(shard, config)):
            raise WrongColumns(missing_column("pool.image_field", column, names))
        if is_remote(shard.path):
            raise WrongColumns(f"pool.image_field: {column!r} holds paths; copy the table and its images here")
        return column

    def path_column(self, shard: Shard, config: PoolConfig) -> str | None:
        """Return the column of the images' paths; None where the images are in the shard, or there are none."""
        return None if config.image_field is None else self.image_column(shard, config)

    def plain_columns(self, shard: Shard, config: PoolConfig) -> Sequence[str]:
        """Return the columns whose values JSON can hold."""
        return self.field_names(shard, config)

    def index_images(self, shard: Shard, config: PoolConfig) -> tuple[pa.Table, Report]:
        names = self.field_names(shard, config)
        num_left_out = 0
        index = POOL_INDEX.empty_table()
        if (paths := self.path_column(shard, config)) is not None:
            pairs, rows = self.pairs_of(shard, config)
            num_pairs, num_left_out = len(pairs.keys), rows.num_left_out
            taken = pa.array(np.flatnonzero(pairs.has_key & ~pool_texts.find_duplicates(pairs.keys, pairs.has_key)))
            members = _as_binary(paths, rows.table.column(paths)).take(taken)
            sizes = [size_of_picture(shard.path, path) for path in members.to_pylist()]
            num_bytes = np.array(
                [size if isinstance(size, int) else 0 for size in sizes], np.int64
            )  # 0: gone meanwhile
            columns = [pairs.keys.take(taken), members.cast(pa.large_string()), -1 - np.arange(len(taken)), num_bytes]
            index = pa.table(columns, names=POOL_INDEX.names)
        elif where := conditions(names, config):
            rows = self._rows(shard, config, [where[0][0]])
            num_pairs, num_left_out = rows.table.num_rows, rows.num_left_out
        else:
            num_pairs = self.count_rows(shard, config)
        counts = {"pairs": num_pairs, "images": len(index), "ignored_members": 0, "left_out": num_left_out}
        return index, counts

    def read_images(self, shard: Shard, config: PoolConfig) -> tuple[pa.Table, Iterator[bytes]]:
        index, _ = self.index_images(shard, config)
        places = zip(index["member"].to_pylist(), index["size"].to_pylist(), strict=True)
        return index, (read_picture(picture_path(shard.path, member), size) for member, size in places)

    def pairs_of(self, shard: Shard, config: PoolConfig) -> tuple[PairKeys, Rows]:
        """Return the identity of each pair, and the pairs with one column."""
        key = bare(config.key)
        names = self.field_names(shard, config)
        check_key(names, config)
        column = key if key in names else next(iter(self.plain_columns(shard, config)), names[0])
        paths = self.path_column(shard, config)
        rows = self._rows(shard, config, [column, *([] if paths is None else [paths])])
        return _keys_of(shard, key, rows, paths), rows

    def _rows(self, shard: Shard, config: PoolConfig, names: Sequence[str]) -> Rows:
        """Return the pairs with the columns `names`: rows that pool.where keeps, and rows that cannot be read."""
        all_names = self.field_names(shard, config)
        names = [name for name in names if name != ROW or name in all_names]
        where = conditions(all_names, config)
        compared = [name for name, *_ in where]
        if missing := [missing_column("pool.where", name, all_names) for name in compared if name not in all_names]:
            raise WrongColumns(missing)
        if repeated := sorted({name for name in (*names, *compared) if list(all_names).count(name) > 1}):
            raise BadShard(f"has several columns of one name: {', '.join(repeated)}")
        table, bad = self.read_columns(shard, config, list(dict.fromkeys([*names, *compared])))
        numbers, num_left_out = np.arange(table.num_rows + len(bad)), 0
        if where:
            kept = rows_where(table.select(list(dict.fromkeys(compared))), where)
            numbers = np.concatenate([kept, numbers[table.num_rows :]])
            num_left_out = table.num_rows - len(kept)
            table = table.take(pa.array(kept))
        table = table.select(list(dict.fromkeys(names)))
        if bad:
            nulls = [pa.nulls(len(bad), kind) for kind in table.schema.types]
            table = pa.concat_tables([table, pa.table(nulls, schema=table.schema)])
        return Rows(table, numbers, bad, num_left_out)


def _keys_of(shard: Shard, name: str, rows: Rows, paths: str | None) -> PairKeys:
    """Return the identity of each pair; name: the column of the key, or ROW.  paths: of the paths of images, if any."""
    first_bad = rows.table.num_rows - len(rows.bad)
    unreadable = {first_bad + number: reason for number, reason in enumerate(rows.bad)}
    if paths is not None:
        pictures = _as_binary(paths, rows.table.column(paths)).to_pylist()
        sizes = enumerate(size_of_picture(shard.path, picture) for picture in pictures)
        unreadable = {row: reason for row, reason in sizes if isinstance(reason, str)} | unreadable
    if name == ROW and name not in rows.table.column_names:
        has_key = np.ones(rows.table.num_rows, bool)
        has_key[list(unreadable)] = False
        return PairKeys(row_names(shard.name, rows.numbers), has_key, dict(sorted(unreadable.items())))
    column = rows.table.column(name)
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    values, offsets = _buffers(_as_binary(name, column))
    is_null = _is_null(column)
    is_bad = find_bad_utf8(values, offsets)
    is_empty = (np.diff(offsets) == 0) & ~is_null
    problems = {
        **dict.fromkeys(np.flatnonzero(is_null).tolist(), f"no key: {name} is null"),
        **dict.fromkeys(np.flatnonzero(is_empty).tolist(), f"no key: {name} is empty"),
        **dict.fromkeys(np.flatnonzero(is_bad).tolist(), f"no key: {name} is not UTF-8"),
    }
    has_key = ~(is_bad | is_null | is_empty)
    problems |= unreadable
    keys = pool_texts.readable(values, offsets, is_bad)
    if problems:
        names = row_names(shard.name, rows.numbers[~has_key])
        keys = pool_texts.replace_where(keys, ~has_key, names.to_pylist())
    has_key[list(unreadable)] = False
    return PairKeys(keys, has_key, dict(sorted(problems.items())))


def _flatten(table: pa.Table, columns: Sequence[str], has_key: np.ndarray) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Return (row of each text ascending, position of its column, texts large_binary): the columns of a row in order.

    A row without any text is one null.  A null in place of a list is one null text, an empty list is no text.  A row
    without a key is one null.
    """
    num_rows = table.num_rows
    rows, places, texts = [], [], []
    for position, name in enumerate(columns):
        row_of_text, texts_of_column = _texts_of_column(name, table.column(name))
        kept = np.flatnonzero(has_key[row_of_text])
        rows.append(row_of_text[kept])
        places.append(np.full(len(kept), position, np.int16))
        texts.append(texts_of_column.take(pa.array(kept)))
    num_texts = np.bincount(np.concatenate(rows), minlength=num_rows) if rows else np.zeros(num_rows, np.int64)
    without_text = np.flatnonzero(num_texts == 0)
    row = np.concatenate([*rows, without_text])
    place = np.concatenate([*places, np.zeros(len(without_text), np.int16)])
    all_texts = pa.concat_arrays([*texts, pa.nulls(len(without_text), pa.large_binary())])
    order = np.argsort(row, kind="stable")  # stable: the columns of a row stay in order
    return row[order], place[order], all_texts.take(pa.array(order))


def _texts_of_column(name: str, column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return (row of each text, texts large_binary) of a column of texts or of lists of texts."""
    if not _is_list(column.type):
        return np.arange(len(column)), _as_binary(name, column)
    lists = one_array(column)
    texts = _as_binary(name, pa.chunked_array([pc.list_flatten(lists)]))
    is_null = _is_null(column)  # list_flatten skips null lists, also those that have values
    parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    null_rows = np.flatnonzero(is_null)
    row = np.concatenate([parents[~is_null[parents]], null_rows])
    all_texts = pa.concat_arrays([texts, pa.nulls(len(null_rows), pa.large_binary())])
    order = np.argsort(row, kind="stable")
    return row[order], all_texts.take(pa.array(order))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _as_binary(name: str, column: pa.ChunkedArray) -> pa.Array:
    """Return a column of texts as large_binary, which may hold bytes that are not UTF-8."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if not any(is_kind(kind) for is_kind in (*is_text, *is_bytes)):
        raise BadShard(f"column {name} is {column.type}; it must hold texts or lists of texts")
    plain = column.cast(kind) if pa.types.is_dictionary(column.type) else column
    return one_array(plain.cast(pa.large_binary()))


def _is_null(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.is_null(column))


def _buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (values uint8, offsets int64 from 0) of a large_binary array; null is empty."""
    data, offsets = byte_buffers(texts, fill_nulls=True)
    return data[offsets[0] : offsets[-1]], offsets - offsets[0]


def _languages(name: str, column: pa.ChunkedArray, has_key: np.ndarray, pair_of_text: np.ndarray) -> pa.StringArray:
    """Return the label of each text: the row's label, or the one at the text's position in the row's list."""
    if _is_list(column.type):
        row_of_label, _, labels = _flatten(pa.table({name: column}), (name,), has_key)
        if not np.array_equal(row_of_label, pair_of_text):
            raise BadShard(
                f"column {name} (pool.lang) must hold one label per row, or lists as long as those of the texts"
            )
    else:
        labels = _as_binary(name, column).take(pa.array(pair_of_text))
    try:
        strings = labels.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise BadShard(f"column {name} (pool.lang) is not UTF-8") from error
    return pc.if_else(pc.equal(strings, ""), None, strings)  # CSV and TSV have no null
