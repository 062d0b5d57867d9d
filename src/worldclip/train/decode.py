"""Image bytes -> pixels, with the reason if an image cannot be decoded."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_image

MAX_PIXELS = 89_478_485  # a quarter of a GiB as 24-bit RGB: Pillow's limit for decompression bombs
UNDECODABLE, BOMB = "undecodable_image", "decompression_bomb"


class BadImage(Exception):
    """An image that cannot be used; `reason` is UNDECODABLE or BOMB."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def decode(data: bytes, min_side: int | None = None) -> torch.Tensor:
    """Decode an image to (3, height, width) uint8 RGB, upright.  Raises BadImage.

    min_side: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side keeps
    this many pixels; None decodes at full size.
    """
    width, height, image_format = _read_header(data)
    if min_side is not None and image_format == "JPEG" and min(width, height) >= 2 * min_side:
        return _decode_scaled(data, min_side)
    try:
        buffer = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        image = decode_image(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError as error:
        raise BadImage(UNDECODABLE, str(error).splitlines()[0]) from error
    if image.dtype == torch.uint16:  # 16-bit PNG
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def _read_header(data: bytes) -> tuple[int, int, str | None]:
    """Return (width, height, format).  Pillow reads only the header, so that a bomb is found before it is unpacked."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            (width, height), image_format = header.size, header.format
    except Image.DecompressionBombError as error:
        raise BadImage(BOMB, str(error)) from error
    except UnidentifiedImageError as error:  # Pillow's message contains a memory address, another one in each run
        raise BadImage(UNDECODABLE, "no known image format") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImage(UNDECODABLE, str(error)) from error
    if width * height > MAX_PIXELS:
        raise BadImage(BOMB, f"{width} x {height} pixels, more than {MAX_PIXELS}")
    return width, height, image_format


def _decode_scaled(data: bytes, min_side: int) -> torch.Tensor:
    """Decode a JPEG with libjpeg's scaled DCT, which averages blocks without a full-size image in between."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (min_side, min_side))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImage(UNDECODABLE, str(error)) from error
