"""The decorators of functions that numba compiles once per installation, and the numbers that many of them use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

# numba makes a float of a uint64 and an int, so the constants of loops over uint64 are uint64.
U0 = np.uint64(0)
U1 = np.uint64(1)
U32 = np.uint64(32)
LOW_32 = np.uint64(2**32 - 1)
HIGH_32 = ~LOW_32

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


def is_compiled(function: Any) -> bool:
    """Return whether numba's cache on disk holds a function as its source and this processor are now.

    numba has no public call for it; where its internals differ, the answer is yes: then nothing is announced.
    """
    try:
        return bool(function._cache._cache_file._load_index())
    except (AttributeError, OSError):
        return True
