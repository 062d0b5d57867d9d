"""Reads that are tried again for a minute: a file system may fail once in a training of weeks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from worldclip.core.console import say
from worldclip.core.errors import BadShard, first_line
from worldclip.core.retry import retry

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
        said: list[str] = []

        def may_pass(error: Exception) -> bool:
            if _is_of_file_system(error) and not said:
                said.append(first_line(error))
                say("train", f"WARNING: {said[0]}; reading it again for {RETRY_S:.0f} s")
            return _is_of_file_system(error)

        return retry(lambda: read(*args, **kwargs), RETRY_S, may_pass, FIRST_WAIT_S)

    return try_again


def _is_of_file_system(error: Exception) -> bool:
    """Return whether another try may succeed: the error is not one of a file's contents or name."""
    cause = error.__cause__ if isinstance(error, BadShard) else error
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
