"""Read Arrow columns as the numpy arrays that compiled loops take, without a Python object per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_CHUNK_BYTES = 256 << 20

Strings: TypeAlias = Sequence[str] | np.ndarray | pa.Array | pa.ChunkedArray


def seal(array: np.ndarray) -> np.ndarray:
    """Make `array` read-only and return it.

    numba compiles a function again for each mix of read-only and writable arguments, and Arrow's memory is read-only.
    """
    array.flags.writeable = False
    return array


NO_BYTES = seal(np.zeros(0, np.uint8))
_OFFSETS_OF_NO_ROW = seal(np.zeros(1, np.int64))


def byte_buffers(array: pa.Array, *, fill_nulls: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return (bytes uint8, offsets (n + 1,) int64) of a string or binary array, read-only.

    Row i is bytes[offsets[i] : offsets[i + 1]].  The bytes are Arrow's own memory, and so are the offsets of the large
    types.  Arrow leaves open which bytes a null row spans; with fill_nulls it spans none.
    """
    is_text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    if fill_nulls and array.null_count:
        array = pc.fill_null(array, "" if is_text else b"")
    if len(array) == 0:
        return NO_BYTES, _OFFSETS_OF_NO_ROW
    _, offset_buffer, byte_buffer = array.buffers()
    is_large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    dtype = np.dtype(np.int64 if is_large else np.int32)
    offsets = np.frombuffer(offset_buffer, dtype, len(array) + 1, array.offset * dtype.itemsize)
    data = np.frombuffer(byte_buffer, np.uint8) if byte_buffer else NO_BYTES
    return seal(data), seal(offsets.astype(np.int64, copy=False))


def string_buffers(strings: Strings) -> tuple[np.ndarray, np.ndarray]:
    """Return `byte_buffers` of the UTF-8 of keys.

    Raises TypeError for a single key, whose letters are none, and ValueError for a null and for a string that is not
    valid Unicode (a lone surrogate).
    """
    if isinstance(strings, str | bytes):
        raise TypeError(f"expected many keys, got one: {strings!r:.60}; give a list")
    if not isinstance(strings, pa.Array | pa.ChunkedArray):
        strings = pa.array(strings, pa.large_string())
    array = one_array(strings)
    if array.type not in (pa.string(), pa.large_string()):
        array = array.cast(pa.large_string())
    if array.null_count:
        raise ValueError(f"{array.null_count} of {len(array)} keys are null; a key is a string")
    return byte_buffers(array)


def binary_array(data: np.ndarray, offsets: np.ndarray) -> pa.LargeBinaryArray:
    """Return the byte strings data[offsets[i] : offsets[i + 1]] as an array over the same memory."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece; strings that together exceed 2 GiB become large_string."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    elif pa.types.is_string(column.type) and column.nbytes >= 2**31:
        column = column.cast(pa.large_string())
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def narrow_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a large_string column as string, in chunks of at most MAX_CHUNK_BYTES (one text may have more).

    The 32-bit offsets of a string array end at 2 GiB, which the keys of a shard, once per text, can exceed.
    """
    pieces = []
    for chunk in column.chunks:
        _, offsets = byte_buffers(chunk)
        start = 0
        while start < len(chunk):
            stop = int(np.searchsorted(offsets, offsets[start] + MAX_CHUNK_BYTES, side="right")) - 1
            stop = max(stop, start + 1)
            # Concatenated, the slice has offsets of its own: a cast looks at the last offset, not at the difference.
            pieces.append(pa.concat_arrays([chunk.slice(start, stop - start)]).cast(pa.string()))
            start = stop
    return pa.chunked_array(pieces, pa.string())


def codes_of(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Return a dictionary column as (codes (n,) int32, the sorted names that they index)."""
    whole = one_array(column)
    names = whole.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int32)
    rank[order] = np.arange(len(names))
    return rank[whole.indices.to_numpy(zero_copy_only=False)], [names[i] for i in order]


def names_of(codes: np.ndarray, names: Sequence[str]) -> pa.Array:
    """Return the strings names[codes]."""
    return pa.array(names, pa.string()).take(pa.array(codes, pa.int64()))


def list_buffers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return (values, offsets (n + 1,) int64) of a large_list column; row i is values[offsets[i] : offsets[i + 1]]."""
    whole = one_array(column)
    return whole.values.to_numpy(), whole.offsets.to_numpy()
