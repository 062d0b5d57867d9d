"""Bytes -> pixels: decoding that says why it cannot, and the crop that training sees."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_image

from worldclip.train.plan import crop_box

MAX_PIXELS = 89_478_485  # a quarter of a GiB as 24-bit RGB: Pillow's bound for decompression bombs
UNDECODABLE, BOMB = "undecodable_image", "decompression_bomb"


class BadImage(Exception):
    """An image that cannot be used; `reason` is UNDECODABLE or BOMB."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def decode(data: bytes) -> torch.Tensor:
    """Image bytes -> (3, height, width) uint8, upright.  Raises BadImage."""
    _check_size(data)
    try:
        buffer = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        image = decode_image(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError as error:
        raise BadImage(UNDECODABLE, str(error).splitlines()[0]) from error
    if image.dtype == torch.uint16:  # 16-bit PNG
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def _check_size(data: bytes) -> None:
    """Pillow reads the header alone: a bomb is found before it is unpacked."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            width, height = header.size
    except Image.DecompressionBombError as error:
        raise BadImage(BOMB, str(error)) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise BadImage(UNDECODABLE, str(error)) from error
    if width * height > MAX_PIXELS:
        raise BadImage(BOMB, f"{width} x {height} pixels, more than {MAX_PIXELS}")


def random_resized_crop(image: torch.Tensor, draws: np.ndarray, scale_min: float, size: int) -> torch.Tensor:
    """(3, height, width) uint8 -> (3, size, size) uint8: the part that `draws` say, resized bicubically."""
    top, left, height, width = crop_box(draws, image.shape[1], image.shape[2], scale_min)
    part = image[None, :, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return part[0]
    return torch.nn.functional.interpolate(part, (size, size), mode="bicubic", antialias=True)[0]
