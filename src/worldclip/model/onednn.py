"""Linear layers of a CPU by oneDNN.

torch multiplies float32 on x86 in MKL, which takes twice oneDNN's time on an AMD EPYC (Zen 5) and 1.1 times on another
one (Zen 4).  Limited to AVX2, both are as fast, but for the product of a weight's gradient, where MKL takes 0.75 of
oneDNN's time (docs/log.md).  bfloat16 is multiplied in oneDNN anyway.

R rows, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch

Product: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""A linear layer."""


def multiply(rows_RI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """Return rows @ weight.T + bias, (R, O), of equal dtypes, on a CPU.  It has no backward pass."""
    is_float32 = rows_RI.dtype == torch.float32 and has_onednn(torch.float32)
    if is_float32 and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return _by_onednn(rows_RI, weight_OI, bias_O)
    return torch.nn.functional.linear(rows_RI, weight_OI, bias_O)


def prepare(layer: Any, num_rows: int) -> Product:
    """Return what computes layer(rows), with weights in the order that suits chunks of num_rows rows.

    Without it each call reorders the weights.  The layer itself is returned for other layers, devices and precisions.
    """
    weight = layer.weight
    is_plain = type(layer) is torch.nn.Linear and weight.device.type == "cpu"
    if not (is_plain and has_onednn(weight.dtype)):
        return cast(Product, layer)
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    return functools.partial(_by_onednn, weight_OI=reordered, bias_O=layer.bias)


def _by_onednn(rows_RI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows_RI, weight_OI, bias_O, "none", [], "")
    return product


def has_onednn(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies this dtype on this processor, and takes reordered weights of it."""
    onednn = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and hasattr(onednn, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(onednn._is_mkldnn_bf16_supported()))
