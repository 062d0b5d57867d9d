"""Refuse a small Parquet file that stands for gigabytes, before its columns are read.

Repeated values take no room in a file: a dictionary holds a value once, and run lengths say how often it occurs.  The
footer counts the dictionary only, so the values are counted here, still encoded.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.core import unpack

MAX_MEMORY_BYTES = 2**30  # limit for the columns of a small file
MEMORY_PER_ROW, MEMORY_PER_VALUE = 400, 16
COPIES = 4  # copies of values at once: as read, cast, gathered and packed
_BATCH_ROWS = 2**16


def check_parquet(source: Any, size: int, footer: pq.FileMetaData | None = None) -> None:
    """Raise BadShard if the columns of a Parquet file would take more memory than a small file may.

    source: path or open file.  size: of the file in bytes; of larger files only the footer is checked.  footer: where
    it is read.  Raises ArrowException or OSError for a footer whose columns Arrow cannot describe.
    """
    footer = footer or pq.read_metadata(source)
    _check_columns(footer, size)
    if size >= unpack.SMALL_FILE_BYTES:
        return
    chunks = [
        footer.row_group(group).column(leaf)
        for group in range(footer.num_row_groups)
        for leaf in range(footer.num_columns)
    ]
    memory = footer.num_rows * MEMORY_PER_ROW
    memory += sum(chunk.num_values * MEMORY_PER_VALUE + chunk.total_uncompressed_size for chunk in chunks)
    if memory > MAX_MEMORY_BYTES:
        raise unpack.TooLarge("what it unpacks to")
    repeated = {
        chunk.path_in_schema
        for chunk in chunks
        if chunk.physical_type == "BYTE_ARRAY"
        and chunk.num_values * chunk.total_uncompressed_size * COPIES > MAX_MEMORY_BYTES
    }
    if not repeated:
        return
    with pq.ParquetFile(source, pre_buffer=False, read_dictionary=sorted(repeated)) as file:
        for path in sorted(repeated):
            for num_bytes in _bytes_of_batches(file, path):
                memory += num_bytes * COPIES
                if memory > MAX_MEMORY_BYTES:
                    raise unpack.TooLarge("what it unpacks to")


class _BeginsToReadError(Exception):
    """The columns are described, and their data would be read next."""


class _NoData(io.BytesIO):
    """A file of `size` bytes that is never read."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset + (self._size if whence == io.SEEK_END else 0))

    def read(self, size: int | None = -1) -> bytes:
        raise _BeginsToReadError


def _check_columns(footer: pq.FileMetaData, size: int) -> None:
    """Raise as a reader does for columns that Arrow cannot describe: `RowGroupMetaData.column` ends the process."""
    file = pq.ParquetFile(_NoData(size), metadata=footer, buffer_size=1, pre_buffer=False)
    for group in range(footer.num_row_groups):
        with contextlib.suppress(_BeginsToReadError):
            next(file.iter_batches(1, row_groups=[group], use_threads=False), None)


def _bytes_of_batches(file: pq.ParquetFile, path: str) -> Iterator[int]:
    """Yield the bytes of the values of a leaf column, batch by batch, without decoding its dictionary."""
    for batch in file.iter_batches(_BATCH_ROWS, columns=[path]):
        values = batch.column(0)
        while not pa.types.is_dictionary(values.type) and values.type.num_fields:
            is_struct = pa.types.is_struct(values.type)
            values = pc.struct_field(values, [0]) if is_struct else pc.list_flatten(values)
        if pa.types.is_dictionary(values.type):
            sizes = pc.binary_length(values.dictionary).cast(pa.int64())
            yield pc.sum(sizes.take(values.indices)).as_py() or 0
        else:
            yield values.nbytes
