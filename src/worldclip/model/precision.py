"""The precision that a model runs in where `auto` is asked for: bfloat16 if this processor multiplies it faster."""

from __future__ import annotations

import functools
import timeit
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]

AMPERE = (8, 0)  # compute capability of the first GPUs that multiply bfloat16
# Least speed-up of products for which bfloat16 pays: norms, softmax and the optimizer gain nothing (docs/5_train.md).
MIN_GAIN = 1.5
ROWS, REPEATS = 1024, 5


def pick_precision(device: torch.device, width: int) -> Precision:
    """Return bf16 for a GPU from Ampere on, and for a CPU that multiplies it MIN_GAIN times as fast, else fp32.

    width: of the model.  What a CPU does is measured: the same processor with another library, or under another
    limit of instructions, answers otherwise.  It takes some milliseconds, once per process and width.
    """
    import torch

    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= AMPERE else "fp32"
    if device.type != "cpu":
        return "fp32"
    return "bf16" if product_gain(width) >= MIN_GAIN else "fp32"


@functools.cache
def product_gain(width: int) -> float:
    """Return how many times faster this process's CPU multiplies in bfloat16 than in float32.

    Of (ROWS, width) by (width, 4 width), as in a block's MLP; each the best of REPEATS.
    """
    import torch

    times = [_product_s(width, dtype) for dtype in (torch.float32, torch.bfloat16)]
    return times[0] / times[1]


def _product_s(width: int, dtype: torch.dtype) -> float:
    import torch

    from worldclip.model.onednn import multiply

    rows, weight = torch.ones(ROWS, width, dtype=dtype), torch.ones(4 * width, width, dtype=dtype)
    with torch.inference_mode():  # the first product prepares the library
        return min(timeit.repeat(lambda: multiply(rows, weight), number=1, repeat=1 + REPEATS))
