"""The decorator of functions that numba compiles once per installation."""

from __future__ import annotations

from numba import njit

# No entry for C: numba would compile each function into it a second time, a third of all compile time.
compiled = njit(cache=True, nogil=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]
