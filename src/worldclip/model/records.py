"""Turn what libraries raise for a model folder that somebody else made into messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worldclip.core.errors import MissingPackage, UserError, first_line, is_no_memory


@contextmanager
def library_faults(problem: str, remedy: str = "copy or download it whole") -> Iterator[None]:
    """Raise whatever a library makes of a model's records as UserError: `problem (the error); remedy`.

    Sizes and names of others make libraries raise nearly anything: ZeroDivisionError, AssertionError, errors of their
    own.  A list of them is never complete.  A lack of memory is no fault of the records.
    """
    try:
        yield
    except (UserError, MissingPackage):
        raise
    except Exception as error:
        if is_no_memory(error):
            raise
        raise UserError(f"{problem} ({str(error) or type(error).__name__}); {remedy}") from error


@contextmanager
def tokenizer_faults(source: object) -> Iterator[None]:
    """Raise a panic of the tokenizers library as UserError: it is no Exception, and would end the thread it is in."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"{source}: the tokenizer's library gave up ({first_line(error):.200}); copy or download its files again"
        ) from error
