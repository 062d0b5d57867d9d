"""The memory of a rank: of its device, and of its process."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Let Python collect garbage only where the loop asks for it: at the same steps on all ranks.

    A full collection goes through all objects of the process: 0.4 s with torch and transformers loaded.  Left to
    itself, each rank would collect at a step of its own, and all others would wait for it in the next exchange.
    Objects from before, which stay, are never gone through again.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
