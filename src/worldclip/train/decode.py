"""Bytes -> pixels: decoding that says why it cannot, and the crop that training sees."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_image

from worldclip.train.plan import CROP_DRAWS, crop_box

MAX_PIXELS = 89_478_485  # a quarter of a GiB as 24-bit RGB: Pillow's bound for decompression bombs
UNDECODABLE, BOMB = "undecodable_image", "decompression_bomb"
# For train.augment = "drawings".  The emoji pool's held-out drawings are rotated, shrunk and on coloured backgrounds.
DRAWINGS = {"rotate_deg": 15.0, "zoom_out_min": 0.7, "backdrop_min": 0.5, "warp_share": 0.25}


class BadImage(Exception):
    """An image that cannot be used; `reason` is UNDECODABLE or BOMB."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What training does to images besides the resize."""

    crop_scale_min: float
    """Minimum share of the image's area in the crop."""
    rotate_deg: float = 0.0
    """Maximum rotation either way."""
    zoom_out_min: float = 1.0
    """Minimum size that images are shrunk to, as a share of their side; the border is drawn on."""
    backdrop_min: float = 1.0
    """Minimum factor of each channel of a plain background."""
    warp_share: float = 1.0
    """Share of the images that are rotated, shrunk and recoloured; the others are only cropped."""

    @property
    def warps(self) -> bool:
        """Whether there is more than the crop."""
        return self.rotate_deg > 0 or self.zoom_out_min < 1 or self.backdrop_min < 1

    @classmethod
    def named(cls, name: Literal["crop", "drawings"], crop_scale_min: float) -> Augmentation:
        """Return the augmentation of train.augment."""
        return cls(crop_scale_min=crop_scale_min, **(DRAWINGS if name == "drawings" else {}))


def decode(data: bytes, least_side: int | None = None) -> torch.Tensor:
    """Image bytes -> (3, height, width) uint8, upright.  Raises BadImage.

    least_side: JPEGs may come at a half, a quarter or an eighth of their size, as long as no side is shorter than this.
    """
    width, height, kind = _check_size(data)
    if least_side is not None and kind == "JPEG" and min(width, height) >= 2 * least_side:
        return _decode_scaled(data, least_side)
    try:
        buffer = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        image = decode_image(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError as error:
        raise BadImage(UNDECODABLE, str(error).splitlines()[0]) from error
    if image.dtype == torch.uint16:  # 16-bit PNG
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def _check_size(data: bytes) -> tuple[int, int, str | None]:
    """(width, height, format); Pillow reads the header alone: a bomb is found before it is unpacked."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            width, height, kind = *header.size, header.format
    except Image.DecompressionBombError as error:
        raise BadImage(BOMB, str(error)) from error
    except UnidentifiedImageError as error:  # its own words hold an address, another one in each run
        raise BadImage(UNDECODABLE, "no known image format") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImage(UNDECODABLE, str(error)) from error
    if width * height > MAX_PIXELS:
        raise BadImage(BOMB, f"{width} x {height} pixels, more than {MAX_PIXELS}")
    return width, height, kind


def _decode_scaled(data: bytes, least_side: int) -> torch.Tensor:
    """A JPEG by libjpeg's scaled transform: the blocks' own averages, no full-size picture in between."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (least_side, least_side))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImage(UNDECODABLE, str(error)) from error


def random_resized_crop(image: torch.Tensor, draws: np.ndarray, scale_min: float, size: int) -> torch.Tensor:
    """(3, height, width) uint8 -> (3, size, size) uint8: the part that `draws` say, resized bicubically."""
    top, left, height, width = crop_box(draws, image.shape[1], image.shape[2], scale_min)
    part = image[None, :, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return part[0]
    return torch.nn.functional.interpolate(part, (size, size), mode="bicubic", antialias=True)[0]


def warp(images_B3SS: torch.Tensor, draws: np.ndarray, how: Augmentation) -> torch.Tensor:
    """(B, 3, S, S) uint8 -> the same, a share of them on another background, turned and shrunk, as their rows of
    crop_draws say.

    What comes in from outside is the border drawn on; positions between pixels are interpolated linearly.
    """
    rows = np.flatnonzero(draws[:, CROP_DRAWS + 5] < how.warp_share)
    if not len(rows):
        return images_B3SS
    chosen, draws = torch.from_numpy(rows), draws[rows]
    tint = how.backdrop_min + (1 - how.backdrop_min) * draws[:, CROP_DRAWS + 2 : CROP_DRAWS + 5]
    images = _tint_backdrop(images_B3SS[chosen], torch.from_numpy(tint).float())
    angle = np.radians(how.rotate_deg) * (2 * draws[:, CROP_DRAWS] - 1)
    size = how.zoom_out_min + (1 - how.zoom_out_min) * draws[:, CROP_DRAWS + 1]
    cos, sin, zero = np.cos(angle) / size, np.sin(angle) / size, np.zeros(len(draws))
    theta_B23 = np.stack([np.stack([cos, -sin, zero], 1), np.stack([sin, cos, zero], 1)], 1)
    grid = torch.nn.functional.affine_grid(torch.from_numpy(theta_B23).float(), list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    warped_B3SS = images_B3SS.clone()
    warped_B3SS[chosen] = moved.round_().clamp_(0, 255).to(torch.uint8)
    return warped_B3SS


def _tint_backdrop(images_B3SS: torch.Tensor, tint_B3: torch.Tensor) -> torch.Tensor:
    """float32 images whose background (pixels of the corners' colour, where all four corners share one, and their
    neighbours: the blurred edge) is multiplied by a colour.  Pictures without such a background stay as they are.
    """
    corner = images_B3SS[:, :, :1, :1]
    is_plain = (images_B3SS[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] == corner[..., 0]).all(dim=(1, 2))
    is_backdrop = (images_B3SS == corner).all(dim=1, keepdim=True) & is_plain[:, None, None, None]
    near = torch.nn.functional.max_pool2d(is_backdrop.float(), 3, stride=1, padding=1)
    return images_B3SS * (1 - near * (1 - tint_B3[:, :, None, None]))
