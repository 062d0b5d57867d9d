"""Unpack .gz and .bz2 files that others made, within limits: a few bytes can stand for gigabytes.

- A file unpacks to at most MAX_RATIO times its size.  Texts of every language have a ratio of 3 to 30.
- A document (a table read whole, a record, a line) takes at most MAX_DOCUMENT_BYTES of memory if its file is smaller
  than SMALL_FILE_BYTES.  The memory is estimated from bytes and separators, before a parser makes objects of them.

Both limits are read from the environment: WORLDCLIP_MAX_RATIO and WORLDCLIP_MAX_DOCUMENT_BYTES.
"""

from __future__ import annotations

import bz2
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from worldclip.core.errors import BadShard, UserError, is_no_memory
from worldclip.core.regular_file import open_regular

CHUNK_BYTES = 2**20  # read and unpacked at once
FREE_BYTES = 2**24  # any file may unpack to so many: a short file can repeat itself
SMALL_FILE_BYTES = 2**22
MAX_LINE_BYTES = 2**26  # a line or an element; the longest page of a Wikipedia has 2 MiB
# Upper bounds of what Python's objects take, from measurements: a character of a string takes up to 4 bytes and exists
# twice for a moment; "[]," makes a list of 56 bytes and a reference; "\n" a row with its record, key and complaint.
MEMORY_PER_BYTE, MEMORY_PER_VALUE, MEMORY_PER_LINE = 8, 80, 400
_SEPARATORS = (b",", b"[", b"{", b":", b"\t")


def _limit(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise UserError(f"environment variable {name} = {text!r}: must be a whole number above 0 (default {default})")
    return int(text)


def max_ratio() -> int:
    """Return how many times its size a compressed file may unpack to."""
    return _limit("WORLDCLIP_MAX_RATIO", 1000)


def max_document_bytes() -> int:
    """Return how much memory the contents of a small file, a record or a line may take."""
    return _limit("WORLDCLIP_MAX_DOCUMENT_BYTES", 2**30)


def memory_of(content: bytes) -> int:
    """Return an upper bound of the memory that the parsed `content` takes: JSON, or a table with separators."""
    num_values = sum(content.count(separator) for separator in _SEPARATORS)
    lines = content.count(b"\n") * MEMORY_PER_LINE
    return len(content) * MEMORY_PER_BYTE + num_values * MEMORY_PER_VALUE + lines


def check_document(content: bytes, what: str) -> None:
    """Raise BadShard if the parsed `content` would take more memory than one document may; what: "line 3", a file."""
    limit = max_document_bytes()
    if len(content) * MEMORY_PER_BYTE > limit or memory_of(content) > limit:
        raise TooLarge(what)


class TooLarge(BadShard):
    """A document that would not fit the memory."""

    def __init__(self, what: str) -> None:
        limit = max_document_bytes() / 2**30
        super().__init__(
            f"{what} would take more than {limit:.3g} GiB of memory; if it is genuine, raise"
            " WORLDCLIP_MAX_DOCUMENT_BYTES"
        )


def check_ratio(num_unpacked: int, num_read: int, ratio: int) -> None:
    """Raise BadShard if the first `num_read` bytes of a compressed file unpack to more than `ratio` times as many."""
    if num_unpacked > max(FREE_BYTES, ratio * num_read):
        raise BadShard(f"unpacks to more than {ratio:,} times its size; if it is genuine, raise WORLDCLIP_MAX_RATIO")


def is_packed(name: str) -> bool:
    """Return whether a file's name says that it is compressed."""
    return name.endswith((".gz", ".bz2"))


class Truncated(BadShard):
    """Compressed data that ends before its end mark."""

    def __init__(self) -> None:
        super().__init__("compressed data ends in the middle")


class _Stream:
    """One gzip member or bzip2 stream after the other, unpacked CHUNK_BYTES at a time."""

    def __init__(self, is_bz2: bool) -> None:
        self._is_bz2 = is_bz2
        self._member = self._begin_member()

    def _begin_member(self) -> Any:
        return bz2.BZ2Decompressor() if self._is_bz2 else zlib.decompressobj(wbits=31)

    @property
    def is_whole(self) -> bool:
        """Whether the last member has ended."""
        return bool(self._member.eof)

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the file hold.  Raises zlib.error or OSError for damaged data."""
        while data:
            if self._member.eof:
                # gzip allows zeros between its members.
                data = data if self._is_bz2 else data.lstrip(b"\0")
                if not data:
                    return
                self._member = self._begin_member()
            yield from self._unpack_member(data)
            data = self._member.unused_data if self._member.eof else b""

    def _unpack_member(self, data: bytes) -> Iterator[bytes]:
        member = self._member
        yield member.decompress(data, CHUNK_BYTES)
        while self._is_bz2 and not (member.eof or member.needs_input):
            yield member.decompress(b"", CHUNK_BYTES)
        # At its end, zlib keeps an unconsumed tail of before, besides the unused data that hold it too.
        while not self._is_bz2 and member.unconsumed_tail and not member.eof:
            yield member.decompress(member.unconsumed_tail, CHUNK_BYTES)


def unpack(file: BinaryIO, name: str, size: int | None = None) -> Iterator[bytes]:
    """Yield the contents of a .gz or .bz2 file in chunks; of another file its bytes.

    size: of a file whose contents are held in memory, which bounds them; None: they are read as a stream.

    Raises BadShard for data that is cut off, damaged or too large.
    """
    if not is_packed(name):
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")
        return
    stream = _Stream(name.endswith(".bz2"))
    limit, ratio = max_document_bytes(), max_ratio()
    num_read = num_unpacked = memory = 0
    try:
        while data := file.read(CHUNK_BYTES):
            num_read += len(data)
            for chunk in stream.unpack(data):
                num_unpacked += len(chunk)
                check_ratio(num_unpacked, num_read, ratio)
                if size is not None and size < SMALL_FILE_BYTES:
                    memory += memory_of(chunk)
                    if memory > limit:
                        raise TooLarge("what it unpacks to")
                if chunk:
                    yield chunk
    except (zlib.error, ValueError, OSError) as error:
        # The bz2 module raises OSError for damaged data, without an errno.
        if is_no_memory(error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise BadShard(f"compressed data is damaged ({error})") from error
    if num_read and not stream.is_whole:
        raise Truncated


def unpack_bytes(content: bytes, name: str) -> bytes:
    """Return the contents of a .gz or .bz2 file that is in memory; of another file, `content`.  Raises BadShard."""
    if not is_packed(name):
        return content
    return b"".join(unpack(io.BytesIO(content), name, len(content)))


class _Chunks(io.RawIOBase):
    """Chunks as a file that is read once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._rest:
            self._rest = next(self._chunks, b"")
        taken = self._rest[: len(target)]
        target[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


def as_file(chunks: Iterator[bytes]) -> io.BufferedReader:
    """Return chunks as a file that is read once, such as line by line."""
    return io.BufferedReader(_Chunks(chunks), CHUNK_BYTES)


def iter_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, plain or packed, with their line ends; the caller holds them all.

    Raises BadShard for data that is cut off, damaged or too large, and OSError for a file that cannot be read.
    """
    with open_regular(path) as file:
        if not is_packed(path.name):
            yield from file
        else:
            yield from as_file(unpack(file, path.name, path.stat().st_size))
