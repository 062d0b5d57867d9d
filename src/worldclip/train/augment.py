"""Random crops, warps and patch dropout, drawn from the hash of (key, text_idx, seed, epoch): no generator state.

B pairs of a batch, S image side, P patches of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from worldclip.core.coin import CROP, splitmix64, uniform

CROP_TRIES = 10  # torchvision's RandomResizedCrop has 10, too, and then takes the central part
MAX_ASPECT = 4 / 3  # maximum aspect ratio of a crop, torchvision's
CROP_DRAWS = 2 * CROP_TRIES + 2  # numbers that decide a crop: area and aspect of each try, then the position
# Numbers that decide a warp: angle, size, red, green, blue, whether to warp; or a jitter: the first four of them.
WARP_DRAWS = 6
PATCH_OFFSET = np.uint64(1 << 32)  # patch dropout draws the numbers from here on, far beyond those of crop and warp


# drawings: those that the emoji pool holds out are rotated, shrunk and on coloured backgrounds
WARPED_SHARE = 0.25  # share of the images that are rotated, shrunk and recoloured; the others are only cropped
ROTATE_DEG = 15.0  # maximum rotation either way
ZOOM_OUT_MIN = 0.7  # minimum size that images are shrunk to, as a share of their side; the border is repeated outwards
BACKDROP_MIN = 0.5  # minimum factor of each channel of a plain background
COLOUR = 0.4  # photos: maximum change of brightness, contrast and saturation, as SimCLR's small crops take it
LUMA = (299, 587, 114)  # thousandths of red, green and blue, ITU-R BT.601

# the draws


def crop_draws(keys: Sequence[str], text_idx: np.ndarray, seed: int, epochs: np.ndarray) -> np.ndarray:
    """Return (B, CROP_DRAWS + WARP_DRAWS) float64 in [0, 1) that decide the crops and warps of B pairs.

    Number i of a pair is the same mixing function applied to its hash of the stream `crop` plus i = 1, 2, ...
    """
    return _draws(keys, text_idx, seed, epochs, np.arange(1, CROP_DRAWS + WARP_DRAWS + 1, dtype=np.uint64))


def kept_patches(
    keys: Sequence[str], text_idx: np.ndarray, seed: int, epochs: np.ndarray, num_patches: int, num_kept: int
) -> np.ndarray:
    """Return (B, kept) int64, ascending: the patches of each image that patch dropout keeps."""
    draws = _draws(keys, text_idx, seed, epochs, PATCH_OFFSET + np.arange(num_patches, dtype=np.uint64))
    return np.sort(np.argsort(draws, axis=1, kind="stable")[:, :num_kept], axis=1)


def _draws(
    keys: Sequence[str], text_idx: np.ndarray, seed: int, epochs: np.ndarray, counters: np.ndarray
) -> np.ndarray:
    """Return (B, len(counters)) float64 in [0, 1)."""
    hashed = np.empty(len(keys))
    for epoch in np.unique(epochs):
        rows = np.flatnonzero(epochs == epoch)
        hashed[rows] = uniform([keys[row] for row in rows.tolist()], text_idx[rows], seed, int(epoch), CROP)
    state = (hashed * 2.0**53).astype(np.uint64)[:, None] + counters
    numbers: np.ndarray = (splitmix64(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


# crops


def crop_box(draws: np.ndarray, height: int, width: int, scale_min: float) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of torchvision's RandomResizedCrop, decided by one row of crop_draws.

    The area is uniform in [scale_min, 1] of the image's, the aspect ratio log-uniform in [3/4, 4/3].  The first try
    that fits into the image counts; if none does, the largest central part with such an aspect ratio.
    """
    log_max = math.log(MAX_ASPECT)
    for k in range(CROP_TRIES):
        area = height * width * (scale_min + (1 - scale_min) * draws[2 * k])
        aspect = math.exp(log_max * (2 * draws[2 * k + 1] - 1))
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = math.floor(draws[CROP_DRAWS - 2] * (height - crop_height + 1))
            left = math.floor(draws[CROP_DRAWS - 1] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * MAX_ASPECT)))
    crop_height = min(height, max(1, round(width * MAX_ASPECT)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def random_resized_crop(image: torch.Tensor, draws: np.ndarray, scale_min: float, size: int) -> torch.Tensor:
    """Return (3, size, size) uint8: the crop that `draws` decide of (3, height, width), resized bicubically."""
    top, left, height, width = crop_box(draws, image.shape[1], image.shape[2], scale_min)
    crop = image[None, :, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return crop[0]
    return torch.nn.functional.interpolate(crop, (size, size), mode="bicubic", antialias=True)[0]


# warps


def augment(images_B3SS: torch.Tensor, draws: np.ndarray, name: str) -> torch.Tensor:
    """Return (B, 3, S, S) uint8: the crops as `train.augment` changes them further.  draws: rows of crop_draws."""
    if name == "photos":
        return jitter(images_B3SS, draws)
    if name == "drawings":
        return warp(images_B3SS, draws)
    return images_B3SS


def jitter(images_B3SS: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
    """Return (B, 3, S, S) uint8: half of the images mirrored, and all with another brightness, contrast and saturation.

    Each of the three is multiplied by a factor of 1 - COLOUR to 1 + COLOUR, in this order: all pixels, their distance
    from the mean grey of the image, their distance from their own grey.
    """
    factors = torch.from_numpy(1 + COLOUR * (2 * draws[:, CROP_DRAWS : CROP_DRAWS + 3].T - 1)).float()
    brightness, contrast, saturation = factors[:, :, None, None, None]
    is_mirrored = torch.from_numpy(draws[:, CROP_DRAWS + 3] < 0.5)
    images = torch.where(is_mirrored[:, None, None, None], images_B3SS.flip(-1), images_B3SS)
    weights = torch.tensor(LUMA)[:, None, None]
    grey_B1SS = (images * weights).sum(1, keepdim=True)  # integers: the same in any batch
    mean_B = grey_B1SS.sum((1, 2, 3), dtype=torch.int64).double() / (1000 * grey_B1SS[0].numel())
    mean = brightness * mean_B.float()[:, None, None, None]
    grey = brightness * grey_B1SS.float() / 1000
    pixels = mean + contrast * (brightness * images.float() - mean)
    grey = mean + contrast * (grey - mean)
    changed_B3SS: torch.Tensor = grey + saturation * (pixels - grey)
    return changed_B3SS.round_().clamp_(0, 255).to(torch.uint8)


def warp(images_B3SS: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
    """Return (B, 3, S, S) uint8: a share of the images with another background colour, rotated and shrunk.

    draws: rows of crop_draws.  Pixels from outside the image repeat its border; sampling is bilinear.
    """
    angle_draw, size_draw, red, green, blue, chance = draws[:, CROP_DRAWS:].T
    rows = np.flatnonzero(chance < WARPED_SHARE)
    if not len(rows):
        return images_B3SS
    chosen = torch.from_numpy(rows)
    colour_draws = np.stack([red, green, blue], 1)[rows]
    tint_B3 = BACKDROP_MIN + (1 - BACKDROP_MIN) * colour_draws
    images = _tint_background(images_B3SS[chosen], torch.from_numpy(tint_B3).float())
    angle = np.radians(ROTATE_DEG) * (2 * angle_draw[rows] - 1)
    size = ZOOM_OUT_MIN + (1 - ZOOM_OUT_MIN) * size_draw[rows]
    cos = np.cos(angle) / size
    sin = np.sin(angle) / size
    zero = np.zeros(len(rows))
    theta_B23 = np.stack([np.stack([cos, -sin, zero], 1), np.stack([sin, cos, zero], 1)], 1)
    grid = torch.nn.functional.affine_grid(torch.from_numpy(theta_B23).float(), list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    warped_B3SS = images_B3SS.clone()
    warped_B3SS[chosen] = moved.round_().clamp_(0, 255).to(torch.uint8)
    return warped_B3SS


def _tint_background(images_B3SS: torch.Tensor, tint_B3: torch.Tensor) -> torch.Tensor:
    """Return float32 images whose one-coloured background is multiplied by a colour.

    An image has such a background if its four corners share one colour; the background is all pixels of that colour
    and their neighbours, which hold the antialiased edge.  Images without one stay as they are.
    """
    corner = images_B3SS[:, :, :1, :1]
    has_background = (images_B3SS[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] == corner[..., 0]).all(dim=(1, 2))
    is_background = (images_B3SS == corner).all(dim=1, keepdim=True) & has_background[:, None, None, None]
    with_edge = torch.nn.functional.max_pool2d(is_background.float(), 3, stride=1, padding=1)
    return images_B3SS * (1 - with_edge * (1 - tint_B3[:, :, None, None]))
