"""Turn what libraries raise for a model folder that somebody else made into messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worldclip.core.errors import MissingPackage, UserError, is_no_memory


@contextmanager
def library_faults(problem: str, remedy: str = "copy or download it whole") -> Iterator[None]:
    """Raise whatever a library makes of a model's records as UserError: `problem (the error); remedy`.

    Sizes and names of others make libraries raise nearly anything: ZeroDivisionError, AssertionError, errors of their
    own.  A list of them is never complete.  A panic of the tokenizers library is no Exception, and would end the thread
    it is in.  A lack of memory is no fault of the records.
    """
    try:
        yield
    except (UserError, MissingPackage):
        raise
    except BaseException as error:
        is_fault = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if is_no_memory(error) or not is_fault:
            raise
        raise UserError(f"{problem} ({str(error) or type(error).__name__}); {remedy}") from error
