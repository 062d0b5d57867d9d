"""The decorators of functions that numba compiles once per installation."""

from __future__ import annotations

from typing import Any

from numba import njit

# No entry for C: numba would compile each function into it a second time.
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "no_cfunc_wrapper": True}
_njit: Any = njit  # its types know none of the options below
compiled = _njit(**_OPTIONS)
inner = _njit(**_OPTIONS, no_cpython_wrapper=True)  # called by other compiled functions only
# Called for each text by others: each array would be seven arguments of the call.
inlined = _njit(**_OPTIONS, no_cpython_wrapper=True, forceinline=True)
