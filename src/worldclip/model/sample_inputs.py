"""Fixed images and texts on which two copies of a model are compared, and how far their embeddings may differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import UserError
from worldclip.model.inference import Clip

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-5  # absolute, per element of unit-length float32 embeddings; allows another order of sums
# five scripts, the empty text, and one that is truncated
TEXTS = ("a red apple", "ein Hund", "赤いリンゴ", "قطة صغيرة", "แมว", "", "x " * 200)
IMAGE_SIZES = ((48, 48), (100, 70), (70, 100), (300, 301))  # height, width: square, tall, wide, odd


def images() -> list[Any]:
    """Return four PIL images of different sizes and contents, the same in every process."""
    from PIL import Image

    pictures = []
    for height, width in IMAGE_SIZES:
        y, x = np.mgrid[0:height, 0:width]
        channels = [x * 5 % 256, y * 3 % 256, (x + y) % 256]
        pictures.append(Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)))
    return pictures


def pixels(clip: Clip) -> torch.Tensor:
    """Return the images as the model reads them: (4, 3, S, S) float32, by its own preprocessing."""
    pixels: torch.Tensor = clip.processor(images=images(), return_tensors="pt")["pixel_values"]
    return pixels


def max_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference of any element."""
    return float(np.abs(actual - expected).max())


def embedding_difference(clip: Clip, pixels: torch.Tensor, image_BD: np.ndarray, text_BD: np.ndarray) -> float:
    """Return the largest difference of a library's embeddings of these pixels and of TEXTS from the model's own."""
    images = max_difference(image_BD, clip.backend.encode_pixels(pixels))
    return max(images, max_difference(text_BD, clip.encode_text(list(TEXTS))))


def min_cosine(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the smallest cosine between rows at the same index; both of unit length."""
    return float((actual * expected).sum(axis=1).min())


def require_close(difference: float, library: str) -> float:
    """Return `difference`.  Raises UserError where it exceeds TOLERANCE, or is NaN."""
    if not difference <= TOLERANCE:
        raise UserError(
            f"embeddings of the written model differ by {difference:.1e} when {library} loads it "
            f"(allowed: {TOLERANCE:.0e}); nothing was exported"
        )
    return difference
