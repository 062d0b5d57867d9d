"""What a pair costs: floating point operations of a step, and what a device can do at most."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING

from worldclip.model.config import Architecture

if TYPE_CHECKING:
    import torch

# Dense tensor-core rates, FLOP/s, of NVIDIA's data sheets: (bfloat16, float32 as torch multiplies by default)
PEAK_FLOPS = {
    "B200": (2.25e15, 8.0e13),
    "H200": (9.89e14, 6.7e13),
    "H100": (9.89e14, 6.7e13),
    "A100": (3.12e14, 1.95e13),
    "L40S": (3.62e14, 9.16e13),
    "L4": (1.21e14, 3.03e13),
}
BACKWARD = 2  # a backward pass multiplies twice as often as the forward pass


def tower_flops(width: int, layers: int, mlp_ratio: float, length: float) -> float:
    """Forward pass of one sequence: two operations a multiplication; projections, attention and MLP of each block."""
    matrices = (4 + 2 * mlp_ratio) * width**2 * length
    attention = 2 * width * length**2
    return 2 * layers * (matrices + attention)


def flops_per_pair(sizes: Architecture, text_length: float) -> float:
    """Forward and backward pass of an image and a text of text_length tokens."""
    patches = (sizes.image_size // sizes.patch_size) ** 2
    image = tower_flops(sizes.vision_width, sizes.vision_layers, sizes.vision_mlp_ratio, patches + 1)
    image += 2 * patches * 3 * sizes.patch_size**2 * sizes.vision_width + 2 * sizes.vision_width * sizes.embed_dim
    text = tower_flops(sizes.text_width, sizes.text_layers, 4, text_length) + 2 * sizes.text_width * sizes.embed_dim
    return (1 + BACKWARD) * (image + text)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s of a known GPU; None of others and of CPUs."""
    if device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    for known, (bf16, fp32) in PEAK_FLOPS.items():
        if known in name.replace("-", " ").split():
            return bf16 if precision == "bf16" else fp32
    return None


def device_memory_bytes(device: torch.device) -> int:
    """All of a GPU's memory; on the CPU this process's share of the machine's."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held so far: of the GPU's memory, else of the machine's."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
