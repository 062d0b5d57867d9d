"""The precision that a model runs in where `auto` is asked for: bfloat16 if this processor has instructions for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # precision -> torch's name of it
AMPERE = (8, 0)  # compute capability of the first GPUs that multiply bfloat16
CPU_FLAGS = ("amx_bf16", "avx512_bf16")  # Linux's names of the x86 instructions that gain (docs/5_train.md)
CPUINFO = Path("/proc/cpuinfo")


def pick_precision(device: torch.device) -> Precision:
    """Return bf16 for a device that multiplies it in hardware, else fp32."""
    return "bf16" if bf16_hardware(device) else "fp32"


def bf16_hardware(device: torch.device) -> str:
    """Return what multiplies bfloat16 in a device: a CPU's flags, a GPU's compute capability; "" for nothing.

    Load and number of threads do not change it, so that all runs of a machine take one precision.
    """
    import torch

    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < AMPERE:
            return ""
        return "compute capability {}.{}".format(*capability)
    if device.type != "cpu":
        return ""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return ""
    for line in lines:
        if line.startswith("flags"):  # the same for each core; ARM has no such line
            flags = line.split()
            return ", ".join(flag for flag in CPU_FLAGS if flag in flags)
    return ""
