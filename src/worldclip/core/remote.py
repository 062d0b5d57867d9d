"""Read files at URLs with few requests, and try again what may fail for a moment: a busy store, a file system.

A store takes tens of milliseconds per request, whatever the size.  So a small file is read whole, with one request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from worldclip.core.hub_errors import is_busy

WHOLE_BYTES = 32 * 2**20  # a larger file is read by ranges: its images or its other columns are not asked for
BUSY_S = 300.0  # a store that refuses requests for so long fails the shard
LONGEST_WAIT_S = 30.0  # between two tries

T = TypeVar("T")


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
    if len(content) > stop - start:  # a server that does not support ranges sends the whole file
        content = content[start:stop]
    return content


def patiently(request: Callable[[], T]) -> T:
    """Return request(); repeat it while a store is busy.  Raises its error after BUSY_S seconds."""
    return retry(request, BUSY_S, is_busy)


def retry(call: Callable[[], T], seconds: float, which: Callable[[Exception], bool], first_wait_s: float = 1.0) -> T:
    """Return call(); repeat it for at most `seconds` while it raises an error that may pass.

    which: whether an error may pass.  The first wait is doubled before each further try.
    """
    wait_s = first_wait_s
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except Exception as error:
            if not which(error) or time.monotonic() + wait_s > deadline:
                raise
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
