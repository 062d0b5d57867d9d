"""Arrow columns as the numpy arrays that compiled loops read, without a Python object per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

Strings: TypeAlias = Sequence[str] | np.ndarray | pa.Array | pa.ChunkedArray


def string_buffers(strings: Strings) -> tuple[np.ndarray, np.ndarray]:
    """(bytes uint8, offsets (n + 1,) int32 or int64) of UTF-8 strings, without a copy for Arrow arrays.

    Raises ValueError for a null and for a string that is not valid Unicode (a lone surrogate).
    """
    array = strings if isinstance(strings, pa.Array | pa.ChunkedArray) else pa.array(strings, pa.large_string())
    array = one_array(array)
    if array.type not in (pa.string(), pa.large_string()):
        array = array.cast(pa.large_string())
    if array.null_count:
        raise ValueError(f"{array.null_count} of {len(array)} keys are null; a key is a string")
    if len(array) == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offset_buffer, byte_buffer = array.buffers()
    offset_type = np.dtype(np.int32 if array.type == pa.string() else np.int64)
    offsets = np.frombuffer(offset_buffer, offset_type, len(array) + 1, array.offset * offset_type.itemsize)
    data = np.frombuffer(byte_buffer, np.uint8) if byte_buffer else np.zeros(0, np.uint8)
    return data, offsets


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column in one piece; strings that together pass 2 GiB become large_string."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    elif pa.types.is_string(column.type) and column.nbytes >= 2**31:
        column = column.cast(pa.large_string())
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def codes_of(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """A dictionary column as (codes (n,) int32, the sorted names that they index)."""
    whole = one_array(column)
    names = whole.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int32)
    rank[order] = np.arange(len(names))
    codes = whole.indices.to_numpy(zero_copy_only=False)
    return (rank[codes] if len(codes) else np.zeros(0, np.int32)), [names[i] for i in order]


def names_of(codes: np.ndarray, names: Sequence[str]) -> pa.Array:
    """The strings names[codes]."""
    return pa.array(names, pa.string()).take(pa.array(codes, pa.int64()))


def list_buffers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(values, offsets (n + 1,) int64) of a large_list column; row i is values[offsets[i] : offsets[i + 1]]."""
    whole = one_array(column)
    return whole.values.to_numpy(), whole.offsets.to_numpy()
