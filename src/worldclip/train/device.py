"""The device that a rank trains on: its peak rate, its memory."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Dense tensor-core rates in FLOP/s from NVIDIA's data sheets: (bfloat16 summed in float32, float32 as torch multiplies)
PEAK_FLOPS = {
    "B200": (2.25e15, 8.0e13),
    "H200": (9.89e14, 6.7e13),
    "H100": (9.89e14, 6.7e13),
    "A100": (3.12e14, 1.95e13),
    "L40S": (3.62e14, 9.16e13),
    "L4": (1.21e14, 3.03e13),
    "4090": (1.652e14, 8.26e13),
    "3090": (7.1e13, 3.56e13),
}
# mallopt's parameters, from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the peak rate of a known GPU in FLOP/s; None for other GPUs and for CPUs."""
    if device.type != "cuda":
        return None
    import torch

    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    for model, (bf16, fp32) in PEAK_FLOPS.items():
        if model in words:
            return bf16 if precision == "bf16" else fp32
    return None


def device_memory_bytes(device: torch.device) -> int:
    """Return the memory of a GPU; on the CPU, this process's share of the machine's."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes


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
