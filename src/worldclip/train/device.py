"""The memory of the device that a rank trains on."""

from __future__ import annotations

import ctypes
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# mallopt's parameters, from glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held so far, on the GPU or on the machine."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep freed memory for the whole life of the process; return False with another C library.

    By default each tensor above 32 MiB is unmapped when freed, so that every step pays a page fault
    per 4 KiB of its gigabytes: a third of open_clip's CPU time (benchmarks/results/train_step.md).  Values stay the
    same.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
