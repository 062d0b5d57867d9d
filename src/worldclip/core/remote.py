"""Read files at URLs with few requests, and wait for a store that is busy.

A store takes tens of milliseconds per request, whatever the size.  So a small file is read whole, with one request for
all that the work on a shard asks of it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar, cast

from worldclip.core.hub_errors import is_busy
from worldclip.core.retry import retry

WHOLE_BYTES = 32 * 2**20  # a larger file is read by ranges: its images or its other columns are not asked for
KEPT_BYTES = 2**20  # largest range that is kept: a footer is read several times, a column once
BUSY_S = 300.0  # a store that refuses requests for so long fails the shard

T = TypeVar("T")


class KeptFile:
    """A file of known size at a URL: what was read of it stays in memory while the work on a shard goes on."""

    def __init__(self, url: str, size: int) -> None:
        self.url = url
        self.size = size
        self._parts: dict[tuple[int, int], bytes] = {}

    @property
    def is_small(self) -> bool:
        return self.size <= WHOLE_BYTES

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop), fewer if the file ends before."""
        stop = min(stop, self.size)
        if start >= stop:
            return b""
        if self.is_small:
            return self._range(0, self.size)[start:stop]
        return self._range(start, stop)

    def _range(self, start: int, stop: int) -> bytes:
        part = self._parts.get((start, stop))
        if part is None:
            part = read_range(self.url, start, stop)
            if self.is_small or stop - start <= KEPT_BYTES:
                self._parts[start, stop] = part
        return part

    def open(self) -> BinaryIO:
        """Return the file, open for reads at any position."""
        if self.is_small:
            return io.BytesIO(self.read(0, self.size))
        return cast(BinaryIO, io.BufferedReader(_Ranges(self), 1))


class _Ranges(io.RawIOBase):
    """Reads exactly the ranges that are asked for."""

    def __init__(self, file: KeptFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._file.read(self._position, self._position + len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


_kept: dict[str, KeptFile] = {}
"""The files that this process works on, by URL."""


@contextlib.contextmanager
def kept(url: str, size: int | None) -> Iterator[None]:
    """Read the file at a URL with few requests while the block runs; size: as listed, None if its server says none."""
    if size is None:
        yield
        return
    _kept[url] = KeptFile(url, size)
    try:
        yield
    finally:
        _kept.pop(url, None)  # another thread may have worked on the same file


def kept_file(url: str) -> KeptFile | None:
    """Return the file if the work that goes on is about it; None for any other."""
    return _kept.get(url)


def read_range(url: str, start: int, stop: int) -> bytes:
    """Return the bytes [start, stop) of a file that has them, with one request."""
    import fsspec

    files, place = fsspec.url_to_fs(url)
    exactly = {"cache_type": "none"} if url.startswith("hf://") else {}  # else the hub's reader reads 5 MiB ahead
    content = bytes(patiently(lambda: files.cat_file(place, start=start, end=stop, **exactly)))
    # A server that does not support ranges sends the whole file.
    return content[start:stop] if len(content) > stop - start else content


def patiently(request: Callable[[], T]) -> T:
    """Return request(); repeat it while a store is busy.  Raises its error after BUSY_S seconds."""
    return retry(request, BUSY_S, is_busy)
