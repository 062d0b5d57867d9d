"""What an exported model is compared on: pictures of four sizes, texts in five scripts, an empty and a cut one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from worldclip.model.inference import Clip

TOLERANCE = 1e-5  # of the elements of float32 embeddings, which are of unit length
LABELS = ("a red apple", "ein Hund", "赤いリンゴ", "قطة صغيرة", "แมว", "", "x " * 200)  # any script; empty; cut


def images() -> list[Any]:
    """Four pictures of other sizes and contents, the same in every process."""
    from PIL import Image

    found = []
    for height, width in ((48, 48), (100, 70), (70, 100), (300, 301)):
        y, x = np.mgrid[0:height, 0:width]
        found.append(Image.fromarray(np.stack([x * 5 % 256, y * 3 % 256, (x + y) % 256], axis=-1).astype(np.uint8)))
    return found


def pixels(clip: Clip) -> torch.Tensor:
    """The pictures as the model reads them, by its own preprocessing."""
    return clip.processor(images=images(), return_tensors="pt")["pixel_values"]


def max_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max())


def min_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found * expected).sum(axis=1).min())


def unit(features: torch.Tensor) -> np.ndarray:
    import torch

    return torch.nn.functional.normalize(features.detach().float(), dim=-1).cpu().numpy()
