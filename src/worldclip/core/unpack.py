"""Unpack .gz and .bz2 files that others made, within limits: a few bytes can stand for gigabytes."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from worldclip.core.errors import BadShard, is_no_memory
from worldclip.core.regular_file import open_regular

CHUNK_BYTES = 2**20  # unpacked at once
MAX_RATIO = 1000  # texts of every language have a ratio of 3 to 30
FREE_BYTES = 2**24  # any file may unpack to so many: a short file can repeat itself
# Limit for what the rows of a shard, a list, a table, or a record take in memory; MEMORY_RATIO: of larger files, as a
# multiple of their size.
MAX_MEMORY_BYTES = 2**30
MEMORY_RATIO = 500
# Upper bounds from measurements: a character of a string takes up to 4 bytes and exists twice for a moment; "[]," is a
# list of 56 bytes and a reference; "\n" is a row with its record, key and complaint.
MEMORY_PER_BYTE, MEMORY_PER_VALUE, MEMORY_PER_ROW = 8, 80, 500
_SEPARATORS = b",[{:\t"
MAX_LINE_BYTES = 2**26  # a line or an element; the longest page of a Wikipedia has 2 MiB


class TooLarge(BadShard):
    """A document that would not fit the memory."""

    def __init__(self, what: str) -> None:
        limit = f"{MAX_MEMORY_BYTES / 2**30:g} GiB of memory or {MEMORY_RATIO} times its size"
        super().__init__(f"{what} is too large for safety (above {limit}); if it is genuine, split it")


class Truncated(BadShard):
    """Compressed data that ends before its end mark."""

    def __init__(self) -> None:
        super().__init__("compressed data ends in the middle")


def max_memory(size: int) -> int:
    """Return how many bytes of memory the contents of a file of `size` bytes may take."""
    return max(MAX_MEMORY_BYTES, MEMORY_RATIO * size)


def memory_of(content: bytes) -> int:
    """Return an upper bound of the memory that the parsed `content` takes: JSON, or a table with separators."""
    num_values = len(content) - len(content.translate(None, _SEPARATORS))
    num_rows = content.count(b"\n")
    return len(content) * MEMORY_PER_BYTE + num_values * MEMORY_PER_VALUE + num_rows * MEMORY_PER_ROW


def check_document(content: bytes, what: str) -> None:
    """Raise BadShard if `content` would take too much memory once it is parsed; what: "line 3", a file."""
    if memory_of(content) > MAX_MEMORY_BYTES:
        raise TooLarge(what)


def is_packed(name: str) -> bool:
    """Return whether a file's name says that it is compressed."""
    return name.endswith((".gz", ".bz2"))


def unpack(file: BinaryIO, name: str, size: int | None = None) -> Iterator[bytes]:
    """Yield the contents of a .gz or .bz2 file in chunks; of another file its bytes.

    size: bytes of a file whose contents are held in memory, which it bounds; None: they are read as a stream.

    Raises BadShard for data that is cut off, damaged or too large.
    """
    if not is_packed(name):
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")
        return
    opened = bz2.BZ2File(file) if name.endswith(".bz2") else gzip.GzipFile(fileobj=file)
    num_bytes = memory = 0
    try:
        while chunk := opened.read1(CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > max(FREE_BYTES, MAX_RATIO * file.tell()):
                raise BadShard(f"unpacks to more than {MAX_RATIO:,} times its size, too large for safety")
            if size is not None:
                memory += memory_of(chunk)
                if memory > max_memory(size):
                    raise TooLarge("what it unpacks to")
            yield chunk
    except EOFError as error:
        raise Truncated from error
    except (zlib.error, ValueError, OSError) as error:
        # The bz2 module raises OSError for damaged data, without an errno.
        if is_no_memory(error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise BadShard(f"compressed data is damaged ({error})") from error


def unpack_bytes(content: bytes, name: str) -> bytes:
    """Return the contents of a .gz or .bz2 file that is in memory; of another file, `content`.  Raises BadShard."""
    if not is_packed(name):
        return content
    return b"".join(unpack(io.BytesIO(content), name, len(content)))


class _Chunks(io.RawIOBase):
    """Chunks as a file that is read once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._tail = b""  # of a chunk, not read yet

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._tail:
            self._tail = next(self._chunks, b"")
        taken = self._tail[: len(target)]
        target[: len(taken)] = taken
        self._tail = self._tail[len(taken) :]
        return len(taken)


def as_file(chunks: Iterator[bytes]) -> io.BufferedReader:
    """Return chunks as a file that is read once, such as line by line."""
    return io.BufferedReader(_Chunks(chunks), CHUNK_BYTES)


def iter_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, plain or packed, with their line ends; the caller holds them all.

    Raises BadShard for data that is cut off, damaged or too large, and OSError for a file that cannot be read.
    """
    with open_regular(path) as file:
        yield from as_file(unpack(file, path.name, path.stat().st_size))
