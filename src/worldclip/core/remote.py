"""Read files at URLs with few requests, and wait for a store that is busy.

A store takes tens of milliseconds per request, whatever the size.  So a small file is read whole, with one request for
all that the work on a shard asks of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from worldclip.core.hub_errors import is_busy
from worldclip.core.retry import retry

WHOLE_BYTES = 32 * 2**20  # a larger file is read by ranges: its images or its other columns are not asked for
BUSY_S = 300.0  # a store that refuses requests for so long fails the shard

T = TypeVar("T")

_kept: dict[str, bytes | int] = {}
"""The small files that this process works on, by URL; of one that is not read yet its size."""


@contextlib.contextmanager
def kept(url: str, size: int | None) -> Iterator[None]:
    """Keep a small file at a URL in memory while the block runs; size: as listed, None if its server says none."""
    if size is None or size > WHOLE_BYTES:
        yield
        return
    _kept[url] = size
    try:
        yield
    finally:
        _kept.pop(url, None)  # another thread may have worked on the same file


def read_kept(url: str) -> bytes | None:
    """Return the whole file if the work that goes on is about it and it is small; None for any other."""
    content = _kept.get(url)
    if isinstance(content, int):
        content = read_range(url, 0, content) if content else b""
        _kept[url] = content
    return content


def read_whole(url: str) -> bytes:
    """Return a file, with one request; S3 gives the parts of a large one at once."""
    import fsspec

    files, place = fsspec.url_to_fs(url)
    return bytes(patiently(lambda: files.cat_file(place)))


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
