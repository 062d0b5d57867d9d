"""Reads that are tried again for a minute: a file system may fail once in a training of weeks."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from worldclip.core.console import say
from worldclip.core.errors import BadShard, first_line

RETRY_S = 60.0  # a read is tried again for so long
FIRST_WAIT_S = 0.5  # wait before the second try; doubled before each further one
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def patient(read: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Try `read` again for RETRY_S if the file system fails.  A missing file, and one of another format, fail at once.

    Prints one line at the first failure of a call.
    """

    @functools.wraps(read)
    def try_again(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        wait_s, deadline = FIRST_WAIT_S, time.monotonic() + RETRY_S
        while True:
            try:
                return read(*args, **kwargs)
            except (OSError, BadShard) as error:
                if not _may_pass(error) or time.monotonic() + wait_s > deadline:
                    raise
                if wait_s == FIRST_WAIT_S:
                    say("train", f"WARNING: {first_line(error)}; reading it again for {RETRY_S:.0f} s")
            time.sleep(wait_s)
            wait_s *= 2

    return try_again


def _may_pass(error: Exception) -> bool:
    """Return whether another try may succeed: the error is one of a file system, not of a file's contents or name."""
    cause = error.__cause__ if isinstance(error, BadShard) else error
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
