"""The decorators of functions that numba compiles once per installation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# No entry for C: numba would compile each function into it a second time.
_OPTIONS: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True}
_njit: Any = njit  # its types know none of the options below


def _decorator(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that keeps compiled code on disk; where no folder is writable, each process compiles again."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return _njit(**_OPTIONS, **options, cache=True)(function)
        except RuntimeError:  # "no locator available", of a container without a home whose files are read-only
            return _njit(**_OPTIONS, **options)(function)

    return decorate


compiled = _decorator()
inner = _decorator(no_cpython_wrapper=True)  # called by other compiled functions only
# Called for each text by others: each array would be seven arguments of the call.
inlined = _decorator(no_cpython_wrapper=True, forceinline=True)
