"""Memory that a step gives back and takes again: on CPUs the allocator should keep it."""

from __future__ import annotations

import ctypes

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep the memory that tensors give back, for the process's whole life.

    By default each tensor above 32 MiB is mapped anew and unmapped when freed, so that every step pays a page fault for
    every 4 KiB of its gigabytes: a third of open_clip's CPU time (benchmarks/results/train_step.md).  Values stay the
    same.  False where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
