"""Refuse a small Parquet file that stands for gigabytes, before its columns are read.

Repeated values take no room in a file: a dictionary holds a value once, and run lengths say how often it occurs.  The
footer counts the dictionary only, so the values are counted here, still encoded.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.core import unpack

SMALL_FILE_BYTES = 2**22  # texts of a larger file are not counted
MEMORY_PER_CELL = 16  # a value that is not in a list
SORTED_ROW_BYTES = 16  # a row that is not held: its two hashes
COPIES = 4  # copies of values at once: as read, cast, gathered and packed
_BATCH_ROWS = 2**16
_BATCH_BYTES = 2**26


def check_parquet(
    source: Any, size: int, footer: pq.FileMetaData | None = None, *, held_rows: int | None = None
) -> None:
    """Raise BadShard if the columns of a Parquet file would take more memory than `unpack.max_memory` of its size.

    source: path or open file.  size: its bytes; of larger files only the footer is checked.  footer: the footer, if it
    is read already.  held_rows: rows in memory at once, None for all.  Raises ArrowException or OSError for a footer
    whose columns Arrow cannot describe.
    """
    footer = footer or pq.read_metadata(source)
    # A reader raises for columns that Arrow cannot describe, where `RowGroupMetaData.column` would end the process.
    file = pq.ParquetFile(_NoData(size), metadata=footer, buffer_size=1, pre_buffer=False)
    for group in range(footer.num_row_groups):
        with contextlib.suppress(_BeginsToReadError):
            next(file.iter_batches(1, row_groups=[group], use_threads=False), None)
    memory = _memory_of(footer, held_rows)
    limit = unpack.max_memory(size)
    if memory > limit:
        raise unpack.TooLarge("what it unpacks to")
    if size < SMALL_FILE_BYTES:
        _check_texts(source, footer, memory, limit)


def _chunks(footer: pq.FileMetaData) -> Iterator[tuple[pq.ColumnSchema, pq.ColumnChunkMetaData]]:
    """Yield each column of each row group, with its chunk."""
    for group, leaf in itertools.product(range(footer.num_row_groups), range(footer.num_columns)):
        yield footer.schema.column(leaf), footer.row_group(group).column(leaf)


def _memory_of(footer: pq.FileMetaData, held_rows: int | None) -> int:
    """Return an upper bound of the memory of all columns, as if each text stood once in the file."""
    num_cells = num_bytes = 0
    num_items: Counter[str] = Counter()  # of each column of lists
    for column, chunk in _chunks(footer):
        num_bytes += chunk.total_uncompressed_size
        if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
            num_bytes += chunk.num_values * column.length
        if column.max_repetition_level:
            num_items[column.path] += chunk.num_values
        else:
            num_cells += chunk.num_values
    num_items["of a fixed size"] = _num_slots(footer, max(num_items.values(), default=0))
    of_rows: int = footer.num_rows * unpack.MEMORY_PER_ROW + num_cells * MEMORY_PER_CELL
    of_rows += num_items.total() * unpack.MEMORY_PER_VALUE
    if held_rows is not None and held_rows < footer.num_rows:
        of_rows = of_rows * held_rows // footer.num_rows + footer.num_rows * SORTED_ROW_BYTES
    return num_bytes + of_rows


def _check_texts(source: Any, footer: pq.FileMetaData, memory: int, limit: int) -> None:
    """Raise TooLarge if the texts, with those that stand once for many values, take more than `limit` with `memory`."""
    most_bytes: Counter[str] = Counter()  # of each column, if each value were as long as its encoded chunk
    longest: Counter[str] = Counter()  # of each column whose values may state only their difference from the last one
    for column, chunk in _chunks(footer):
        if chunk.physical_type != "BYTE_ARRAY":
            continue
        num_bytes = chunk.num_values * chunk.total_uncompressed_size * COPIES
        most_bytes[column.path] += num_bytes
        if any("DELTA" in encoding for encoding in chunk.encodings):
            longest[column.path] = max(longest[column.path], chunk.total_uncompressed_size)
            if column.max_repetition_level:  # one row may hold all of them
                memory += num_bytes
    if memory > limit:
        raise unpack.TooLarge("what it unpacks to")
    repeated = sorted(path for path, num_bytes in most_bytes.items() if memory + num_bytes > limit)
    if not repeated:
        return
    with pq.ParquetFile(source, pre_buffer=False, read_dictionary=[p for p in repeated if p not in longest]) as file:
        for path in repeated:
            num_rows = max(1, _BATCH_BYTES // longest[path]) if path in longest else _BATCH_ROWS
            for num_bytes in _bytes_of_batches(file, path, num_rows):
                memory += num_bytes * COPIES
                if memory > limit:
                    raise unpack.TooLarge("what it unpacks to")


def _num_slots(footer: pq.FileMetaData, most_items: int) -> int:
    """Return how many values the lists of a fixed size have: a null list has them too, and no bytes in the file.

    most_items: of a column, at least the number of lists that lie within its lists.
    """
    num_slots = 0
    types = [(field.type, footer.num_rows) for field in footer.schema.to_arrow_schema()]
    while types:
        kind, num_lists = types.pop()
        kind = getattr(kind, "storage_type", kind)
        if pa.types.is_fixed_size_list(kind):
            num_lists *= kind.list_size
            num_slots += num_lists
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
            num_lists = most_items
        types += [(kind.field(child).type, num_lists) for child in range(kind.num_fields)]
    return num_slots


class _BeginsToReadError(Exception):
    """The columns are described, and their data would be read next."""


class _NoData(io.BytesIO):
    """A file of `size` bytes that is never read."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += self._size
        return super().seek(offset)

    def read(self, size: int | None = -1) -> bytes:
        raise _BeginsToReadError


def _bytes_of_batches(file: pq.ParquetFile, path: str, num_rows: int) -> Iterator[int]:
    """Yield the bytes of the values of a leaf column, batch by batch, without decoding its dictionary."""
    for batch in file.iter_batches(num_rows, columns=[path]):
        values = batch.column(0)
        while not pa.types.is_dictionary(values.type) and values.type.num_fields:
            if pa.types.is_struct(values.type):
                values = pc.struct_field(values, [0])
            else:
                values = pc.list_flatten(values)
        if pa.types.is_dictionary(values.type):
            sizes = pc.binary_length(values.dictionary).cast(pa.int64())
            yield pc.sum(sizes.take(values.indices)).as_py() or 0
        else:
            yield values.nbytes
