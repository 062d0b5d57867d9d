"""Try again what may fail for a moment: a busy store, a file system at a bad moment, a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

LONGEST_WAIT_S = 30.0

T = TypeVar("T")


def retry(call: Callable[[], T], seconds: float, which: Callable[[Exception], bool], first_wait_s: float = 1.0) -> T:
    """Return call(); repeat it for at most `seconds` while it raises an error that may pass.

    which: whether an error may pass.  The first wait is doubled before each further try.
    """
    wait_s, deadline = first_wait_s, time.monotonic() + seconds
    while True:
        try:
            return call()
        except Exception as error:
            if not which(error) or time.monotonic() + wait_s > deadline:
                raise
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
