"""Positions of an image tower at another resolution, to continue a training there.

W width of the tower, n and m patches per side.
"""

from __future__ import annotations

import math

import torch


def patches_per_side(positions_PW: torch.Tensor) -> int | None:
    """Return n of the (1 + n * n, W) positions of an image tower; None if their number is no such one."""
    side = math.isqrt(len(positions_PW) - 1)
    return side if side * side == len(positions_PW) - 1 else None


def resize_positions(positions_PW: torch.Tensor, side: int) -> torch.Tensor:
    """Interpolate positions (1 + n * n, W) to (1 + side * side, W), float32.

    Row 0, of the class token, stays.  The others are a square of n rows by n, and are interpolated by antialiased
    bicubic weights, as open_clip does when a model's image size changes.  Raises ValueError if they are no square.
    """
    own_side = patches_per_side(positions_PW)
    if own_side is None:
        raise ValueError(f"{len(positions_PW)} positions are not a class token and a square of patches")
    if own_side == side:
        return positions_PW
    square_WNN = positions_PW[1:].float().reshape(1, own_side, own_side, -1).permute(0, 3, 1, 2)
    resized_WMM = torch.nn.functional.interpolate(
        square_WNN, size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    patches_MW = resized_WMM.permute(0, 2, 3, 1).reshape(side * side, -1)
    return torch.cat([positions_PW[:1].float(), patches_MW])
