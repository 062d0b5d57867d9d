"""Images inside Parquet files, read by place: `offset` of a pool's index is a leaf column and a row.

A single row cannot be read: pages are compressed, and only row groups have known places.  So readers ask for many rows
at once, and each row group is read once per call, as a stream of batches of bounded size.
"""

from __future__ import annotations

import functools
import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.core.arrow import one_array
from worldclip.core.errors import BadShard, Unreadable, is_no_memory
from worldclip.core.hub_errors import explain, explain_answer
from worldclip.core.inputs import Stamp, is_pinned, is_remote, stamp_of
from worldclip.core.parquet_size import check_parquet
from worldclip.pool.files import open_file
from worldclip.pool.texts import readable

ROW_BITS = 40  # low bits of `offset` hold the row; the column is above them
UNKNOWN_SIZE = -1  # `size` of an image: the footer does not have it
BATCH_BYTES = 32 * 2**20  # images in memory at once
READ_BYTES = 16 * 2**20  # bytes of a column read at once
FOOTERS_KEPT = 1024
CHANGED = "the file changed after it was indexed"
FAULTS = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError)  # what pyarrow raises

Image = bytes | BadShard
"""The bytes of an image, or why its row group cannot be read."""


def pack_places(column: int, rows: np.ndarray) -> np.ndarray:
    """Return the offsets (n,) int64 of rows of a leaf column."""
    return (column << ROW_BITS) + rows.astype(np.int64)


@contextmanager
def open_parquet(path: str, size: int | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file whose columns are read by range.  Raises BadShard for another file, and for damage that is met.

    size: as in `open_file`.
    """
    with open_file(path, reads_ahead=False, size=size) as file, _saying_damage():
        is_fixed = is_pinned(path) or not is_remote(path)  # a remote file has no stamp that says it changed
        footer = read_footer(path, stamp_of(path)) if is_fixed else None
        table = pq.ParquetFile(file, metadata=footer, buffer_size=READ_BYTES)
        if footer is None:
            check_parquet(file, file.seek(0, io.SEEK_END), table.metadata)
        yield table


@contextmanager
def _saying_damage() -> Iterator[None]:
    """Raise BadShard for what pyarrow cannot read."""
    try:
        yield
    except FAULTS as error:
        if is_no_memory(error):
            raise
        is_of_system = isinstance(error, OSError) and error.errno is not None  # Arrow's own errors have no number
        refusal = explain(error) if is_of_system else explain_answer(error)
        if refusal is not None:
            raise Unreadable(f"cannot be read ({refusal})") from error
        raise BadShard(f"not a Parquet file, or damaged ({error})") from error


@functools.lru_cache(maxsize=FOOTERS_KEPT)
def read_footer(path: str, stamp: Stamp) -> pq.FileMetaData:
    """Read a footer once per process; the stamp is an argument so that a changed file is read again."""
    with open_file(path, reads_ahead=False) as file, _saying_damage():
        footer = pq.read_metadata(file)
        check_parquet(file, file.seek(0, io.SEEK_END), footer)
        return footer


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether values of an Arrow type are bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of an Arrow type are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def find_images(file: pq.ParquetFile, name: str) -> pa.Table:
    """Return where the images of a column are, as ShardPairs has them.  name: a column of bytes or structs."""
    kind = file.schema_arrow.field(name).type
    schema = file.metadata.schema
    leaves = [schema.column(leaf).path for leaf in range(len(schema))]
    leaf = leaves.index(name if is_bytes(kind) else f"{name}.bytes")
    parts = [np.zeros(0, bool)]
    for group in range(file.num_row_groups):
        facts = file.metadata.row_group(group)
        statistics = facts.column(leaf).statistics
        num_nulls = statistics.null_count if statistics is not None and statistics.has_null_count else None
        if num_nulls in (0, facts.num_rows):
            parts.append(np.full(facts.num_rows, num_nulls == 0))
        else:  # the images of a row group are read only where some but not all are null
            parts += [values.is_valid().to_numpy(zero_copy_only=False) for values in leaf_batches(file, leaf, group)]
    row = np.flatnonzero(np.concatenate(parts))
    members = pa.array([""] * file.metadata.num_rows, pa.string())  # the name that each image had; it is never opened
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 and is_text(kind.field("path").type):
        paths = one_array(file.read(columns=[f"{name}.path"]).column(0)).field(0).cast(pa.large_binary())
        members = pc.fill_null(readable(paths), "")
    size = np.full(len(row), UNKNOWN_SIZE, np.int64)
    return pa.table({"row": row, "member": members.take(pa.array(row)), "offset": pack_places(leaf, row), "size": size})


def rows_by_group(footer: pq.FileMetaData, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row group, (n,) rows within it) of ascending rows of a file.  Raises BadShard for a row that it lacks."""
    starts = np.cumsum([0, *(footer.row_group(group).num_rows for group in range(footer.num_row_groups))])
    if len(rows) and rows[-1] >= starts[-1]:
        raise BadShard(f"lacks row {rows[-1]:,}; {CHANGED}")
    firsts = np.searchsorted(rows, starts)
    for group in np.flatnonzero(np.diff(firsts)).tolist():
        yield group, rows[firsts[group] : firsts[group + 1]] - starts[group]


def _column_and_rows(footer: pq.FileMetaData, offsets: np.ndarray) -> tuple[int, np.ndarray]:
    """Return (leaf column, rows) of the offsets of a file's images.  Raises BadShard for those of another file."""
    columns = offsets >> ROW_BITS
    column = int(columns[0])
    if column < 0 or column >= footer.num_columns or (columns != column).any():
        raise BadShard(f"lacks the column of images; {CHANGED}")
    return column, offsets & ((1 << ROW_BITS) - 1)


def read_rows(path: str, offsets: np.ndarray) -> Iterator[Image]:
    """Yield the image at each of the ascending `offsets`, in that order.  Raises BadShard for a file without a footer.

    A damaged page spoils the rest of its row group and nothing else.
    """
    with open_parquet(path) as file:
        column, rows = _column_and_rows(file.metadata, offsets)
        for group, group_rows in rows_by_group(file.metadata, rows):
            yield from read_group(file, column, group, group_rows)


class RowGroups:
    """Decoded row groups that stay in memory: a shuffled order comes back to them in the next batches.

    Safe to call from several threads.  Two calls at once for one file read its row groups twice.
    """

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of all images that are kept.  A row group above a quarter of that is streamed and not kept."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._groups: OrderedDict[tuple[str, Stamp, int, int], dict[int, Image]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, offsets: np.ndarray) -> list[Image]:
        """Return the image at each of the ascending `offsets`, or why it cannot be read."""
        images: list[Image] = []
        try:
            stamp = stamp_of(path)
            footer = read_footer(path, stamp)
            column, rows = _column_and_rows(footer, offsets)
            with ExitStack() as opened:
                file: pq.ParquetFile | None = None  # opened only where a row group is missing
                for group, group_rows in rows_by_group(footer, rows):
                    key = (path, stamp, column, group)
                    with self._lock:
                        image_of_row = self._groups.get(key)
                        if image_of_row is not None:
                            self._groups.move_to_end(key)
                    if image_of_row is None:
                        file = file or opened.enter_context(open_parquet(path))
                        image_of_row = self._read_group(file, key, group_rows)
                    images += [image_of_row[row] for row in group_rows.tolist()]
        except BadShard as error:
            return [error] * len(offsets)
        return images

    def _read_group(self, file: pq.ParquetFile, key: tuple[str, Stamp, int, int], rows: np.ndarray) -> dict[int, Image]:
        """Return images by row: of the whole row group if it is small enough to keep, else of `rows`."""
        _, _, column, group = key
        facts = file.metadata.row_group(group)
        is_kept = facts.column(column).total_uncompressed_size <= self._max_bytes // 4
        wanted = np.arange(facts.num_rows) if is_kept else np.unique(rows)
        images = dict(zip(wanted.tolist(), read_group(file, column, group, wanted), strict=True))
        if is_kept:
            with self._lock:
                if key not in self._groups:
                    self._num_bytes += _num_bytes(images)
                self._groups[key] = images
                while self._num_bytes > self._max_bytes:
                    self._num_bytes -= _num_bytes(self._groups.popitem(last=False)[1])
        return images


def _num_bytes(images: dict[int, Image]) -> int:
    return sum(len(image) for image in images.values() if isinstance(image, bytes))


def read_group(file: pq.ParquetFile, column: int, group: int, rows: np.ndarray) -> Iterator[Image]:
    """Yield the images in ascending `rows` of a row group; a null, or a row behind damage, is a BadShard."""
    place = 0
    start = 0
    try:
        for leaf in leaf_batches(file, column, group):
            while place < len(rows) and rows[place] < start + len(leaf):
                image = leaf[int(rows[place]) - start].as_py()
                place += 1
                yield BadShard(f"no image in this row; {CHANGED}") if image is None else image
            start += len(leaf)
            if place == len(rows):
                return  # the pages behind are not read
        fault: Exception = ValueError("it has fewer rows than its footer says")
    except FAULTS as error:
        if is_no_memory(error):
            raise
        fault = error
    for _ in range(len(rows) - place):
        yield BadShard(f"row group {group}, column {file.metadata.schema.column(column).path}: damaged ({fault})")


def leaf_batches(file: pq.ParquetFile, column: int, group: int) -> Iterator[pa.Array]:
    """Yield the values of a leaf column of a row group, BATCH_BYTES at a time."""
    facts = file.metadata.row_group(group)
    bytes_per_row = facts.column(column).total_uncompressed_size / max(1, facts.num_rows)
    batch_size = int(np.clip(BATCH_BYTES / max(1, bytes_per_row), 1, 4096))
    name = file.metadata.schema.column(column).path
    for batch in file.iter_batches(batch_size, row_groups=[group], columns=[name]):
        values = batch.column(0)
        while pa.types.is_struct(values.type):
            values = pc.struct_field(values, [0])
        yield values
