"""Reads that are tried again for a minute: a file system may fail once in a training of weeks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from worldclip.core.console import say
from worldclip.core.errors import BadShard, first_line
from worldclip.core.remote import retry

RETRY_S = 60.0  # a read is tried again for so long
FIRST_WAIT_S = 0.5
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def patient(read: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Try `read` again for RETRY_S if the file system fails.  A missing file or another format fails at once."""

    @functools.wraps(read)
    def try_again(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return retry(lambda: read(*args, **kwargs), RETRY_S, _may_pass, FIRST_WAIT_S)

    return try_again


def _may_pass(error: Exception) -> bool:
    """Return whether another try may succeed, and print it: the error is not one of a file's contents or name."""
    cause = error.__cause__ if isinstance(error, BadShard) else error
    if not isinstance(cause, OSError) or isinstance(cause, FileNotFoundError):
        return False
    say("train", f"WARNING: {first_line(error)}; reading it again for {RETRY_S:.0f} s")
    return True
