"""Pools of rows: Parquet with any column names, one text or a list of texts a row; and JSONL, one object a line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.core.arrow import byte_buffers
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.pool.files import open_file, read_bytes
from worldclip.pool.records import TRUTH_FIELD, Record, keys_of_records, parse_record, texts_of_records
from worldclip.pool.texts import PoolTexts, find_bad_utf8, large_strings, pool_texts, readable, replace_where

# JSONL


def read_lines(shard: Shard) -> list[Record]:
    """One record a line; lines of blanks alone are none.  Raises BadShard for a cut or damaged .gz."""
    content = read_bytes(shard.path).tobytes()
    if shard.name.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadShard(f"its gzip is cut off or damaged ({error})") from error
    return [parse_record(line) for line in content.split(b"\n") if line.strip()]


def texts_of_lines(shard: Shard, key: str, columns: tuple[str, ...], lang: str | None = None) -> PoolTexts:
    records = read_lines(shard)
    keys, has_key, problems = keys_of_records(records, key, _row_names(shard, len(records)))
    return texts_of_records(records, keys, has_key, problems, columns, read_txt=_no_txt, lang_field=lang)


def keys_of_lines(shard: Shard, key: str) -> tuple[pa.StringArray, np.ndarray]:
    """(identity of each line, bool where it has one)."""
    records = read_lines(shard)
    return keys_of_records(records, key, _row_names(shard, len(records)))[:2]


def _no_txt(pair: int) -> None:
    return None


def _row_names(shard: Shard, num_rows: int) -> pa.StringArray:
    """What is shown for a row without an identity: `<shard>#<row>`."""
    return pa.array([f"{shard.name}#{row}" for row in range(num_rows)], pa.string())


# Parquet


def read_schema(shard: Shard) -> pa.Schema:
    with open_file(shard.path) as file:
        return _opened(file).schema_arrow


def count_rows(shard: Shard) -> int:
    with open_file(shard.path) as file:
        return int(_opened(file).metadata.num_rows)


def _opened(file: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadShard(f"not a Parquet file, or damaged ({error})") from error


def texts_of_parquet(shard: Shard, key: str, columns: tuple[str, ...], lang: str | None = None) -> PoolTexts:
    """Texts of all rows, without a Python object per text.  Raises BadShard for a column of another kind."""
    has_truth = TRUTH_FIELD in read_schema(shard).names
    more = ([TRUTH_FIELD] if has_truth else []) + ([lang] if lang is not None else [])
    table = _read_columns(shard, [*dict.fromkeys((key, *columns, *more))])
    keys, has_key, problems = _keys_of_column(shard, key, table.column(key))
    pair_of_text, texts = _flatten(table, columns, has_key)
    values, offsets = _buffers(texts)
    is_bad = find_bad_utf8(values, offsets) & ~_is_null(texts)
    text = large_strings(values, offsets, is_bad | _is_null(texts))
    details = dict.fromkeys(np.flatnonzero(is_bad).tolist(), "its text is not UTF-8")
    first = np.searchsorted(pair_of_text, list(problems))
    details |= dict(zip(first.tolist(), problems.values(), strict=True))
    truth = _truth(table.column(TRUTH_FIELD), pair_of_text) if has_truth else None
    given = None if lang is None else _languages(lang, table.column(lang), has_key, pair_of_text)
    return pool_texts(keys, has_key, pair_of_text, text, details, truth, given)


def keys_of_parquet(shard: Shard, key: str) -> tuple[pa.StringArray, np.ndarray]:
    """(identity of each row, bool where it has one); reads no other column."""
    return _keys_of_column(shard, key, _read_columns(shard, [key]).column(key))[:2]


def _read_columns(shard: Shard, names: Sequence[str]) -> pa.Table:
    with open_file(shard.path) as file:
        try:
            return _opened(file).read(columns=list(names))
        except (pa.ArrowInvalid, OSError) as error:
            raise BadShard(f"its Parquet is damaged ({error})") from error


def _keys_of_column(
    shard: Shard, name: str, column: pa.ChunkedArray
) -> tuple[pa.StringArray, np.ndarray, dict[int, str]]:
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    values, offsets = _buffers(_as_binary(name, column))
    is_bad, is_null = find_bad_utf8(values, offsets), _is_null(column)
    is_empty = (np.diff(offsets) == 0) & ~is_null
    problems = {
        **dict.fromkeys(np.flatnonzero(is_null).tolist(), f"it has no identity: {name} is null"),
        **dict.fromkeys(np.flatnonzero(is_empty).tolist(), f"it has no identity: {name} is empty"),
        **dict.fromkeys(np.flatnonzero(is_bad).tolist(), f"its identity, {name}, is not UTF-8"),
    }
    has_key = ~(is_bad | is_null | is_empty)
    keys = readable(values, offsets, is_bad)
    if problems:
        names = _row_names(shard, len(keys)).filter(pa.array(~has_key))
        keys = replace_where(keys, ~has_key, names.to_pylist())
    return keys, has_key, dict(sorted(problems.items()))


def _flatten(table: pa.Table, columns: Sequence[str], has_key: np.ndarray) -> tuple[np.ndarray, pa.Array]:
    """(row of each text ascending, texts large_binary): each row's columns in order, a null where a row has no text.

    A null in place of a list is an empty text, an empty list is none.  A row without identity is one null.
    """
    all_rows = np.arange(table.num_rows)
    rows, texts = [], []
    for name in columns:
        row, text = _texts_of_column(name, table.column(name))
        rows.append(row)
        texts.append(text)
    counts = np.bincount(np.concatenate(rows), minlength=len(all_rows)) if rows else np.zeros(len(all_rows), np.int64)
    without = all_rows[(counts == 0) | ~has_key]
    keep = [np.flatnonzero(has_key[row]) for row in rows]
    flat = [text.take(pa.array(kept)) for text, kept in zip(texts, keep, strict=True)]
    row = np.concatenate([*(row[kept] for row, kept in zip(rows, keep, strict=True)), without])
    together = pa.concat_arrays([*flat, pa.nulls(len(without), pa.large_binary())])
    order = np.argsort(row, kind="stable")  # columns stay in order within a row
    return row[order], together.take(pa.array(order))


def _texts_of_column(name: str, column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """(row of each text, texts large_binary) of a column of texts or of lists of texts."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list:
        return np.arange(len(column)), _as_binary(name, column)
    lists = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    texts = _as_binary(name, pa.chunked_array([pc.list_flatten(lists)]))
    nulls = np.flatnonzero(_is_null(column))
    whole = pa.concat_arrays([texts, pa.nulls(len(nulls), pa.large_binary())])
    row = np.concatenate([rows, nulls])
    order = np.argsort(row, kind="stable")
    return row[order], whole.take(pa.array(order))


def _as_binary(name: str, column: pa.ChunkedArray) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if not any(is_kind(kind) for is_kind in (*is_text, *is_bytes)):
        raise BadShard(f"its column {name} is {column.type}; it must hold texts or lists of texts")
    plain = column.cast(kind) if pa.types.is_dictionary(column.type) else column
    whole = plain.cast(pa.large_binary())
    return whole.combine_chunks() if whole.num_chunks != 1 else whole.chunk(0)


def _is_null(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return pc.is_null(column).to_numpy(**({} if isinstance(column, pa.ChunkedArray) else {"zero_copy_only": False}))


def _buffers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(values, offsets) of a large_binary array; null rows may not hold bytes, so these are made empty."""
    data, bounds = byte_buffers(array, fill_nulls=True)
    return data[bounds[0] : bounds[-1]], bounds - bounds[0]


def _languages(name: str, column: pa.ChunkedArray, has_key: np.ndarray, pair_of_text: np.ndarray) -> pa.StringArray:
    """Each text's label: the row's, or the one at the text's place in the row's list."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        whole = column.cast(pa.string()).take(pa.array(pair_of_text))
        return pa.concat_arrays([*whole.chunks, pa.array([], pa.string())])
    of_row, labels = _flatten(pa.table({name: column}), (name,), has_key)
    if not np.array_equal(of_row, pair_of_text):
        raise BadShard(f"its column {name} (pool.lang) must hold a label a row, or lists as long as the texts'")
    try:
        return labels.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise BadShard(f"its column {name} (pool.lang) holds what is not UTF-8") from error


def _truth(column: pa.ChunkedArray, pair_of_text: np.ndarray) -> pa.StringArray | None:
    """lang_truth where it is one code a row."""
    if not pa.types.is_string(column.type):
        return None
    return column.take(pa.array(pair_of_text)).combine_chunks()
