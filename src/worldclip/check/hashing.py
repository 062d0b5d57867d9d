"""An image's identities: its bytes, and 64 bits that survive re-encoding, resizing and small edits.

The perceptual hash is the DCT hash as ImageHash's `phash` computes it (Zauner, "Implementation and benchmarking of
perceptual image hash functions", 2010): grey, 32 x 32 by Lanczos, two-dimensional DCT-II, and for each of the 8 x 8
lowest frequencies whether it is above their median.  Ours runs in integers, so every machine gets the same bits.

Legend: n images, Y rows, X columns, V vertical and U horizontal frequency.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from worldclip.core.errors import require

if TYPE_CHECKING:
    from PIL.Image import Image

GREY_SIDE = 32  # side of the small picture that is hashed
NUM_FREQUENCIES = 8  # 8 x 8 = 64 bits
# JPEGs are decoded in grey at the smallest of their scales (1, 1/2, 1/4, 1/8) that is at least this large: the whole
# look at an image then takes less than its decode to RGB.
JPEG_DRAFT_SIDE = 160
LANCZOS_LOBES = 3
# Lanczos in fixed point: 8 bits of a pixel, 4 behind the point after the first pass, 16 of a weight and what the lobes
# add stay below 2^31.
WEIGHT_BITS, FRACTION_BITS = 16, 4
# Below this standard deviation of the 32 x 32 grey levels the frequencies are noise: such an image has no hash.
MIN_CONTRAST = 2.0

# DCT-II basis in fixed point: 32 pixels of 8 bits and two sums with 20 bits each stay below 2^58.
_BASIS_FX = np.array(
    [
        [round(2**20 * math.cos(math.pi * f * (2 * x + 1) / (2 * GREY_SIDE))) for x in range(GREY_SIDE)]
        for f in range(NUM_FREQUENCIES)
    ],
    dtype=np.int64,
)


@njit(cache=True, nogil=True)
def perceptual_hashes(grey_nYX):
    """(n, 32, 32) uint8 -> (n,) uint64; the first bit (lowest frequencies) is the highest, as ImageHash prints it."""
    out = np.zeros(grey_nYX.shape[0], np.uint64)
    rows_VX = np.empty((NUM_FREQUENCIES, GREY_SIDE), np.int64)
    flat = np.empty(NUM_FREQUENCIES * NUM_FREQUENCIES, np.int64)
    for n in range(grey_nYX.shape[0]):
        for v in range(NUM_FREQUENCIES):
            for x in range(GREY_SIDE):
                total = np.int64(0)
                for y in range(GREY_SIDE):
                    total += _BASIS_FX[v, y] * np.int64(grey_nYX[n, y, x])
                rows_VX[v, x] = total
        for v in range(NUM_FREQUENCIES):
            for u in range(NUM_FREQUENCIES):
                total = np.int64(0)
                for x in range(GREY_SIDE):
                    total += _BASIS_FX[u, x] * rows_VX[v, x]
                flat[v * NUM_FREQUENCIES + u] = total
        ordered = np.sort(flat)
        twice_median = ordered[31] + ordered[32]
        bits = np.uint64(0)
        for k in range(64):
            bits = bits << np.uint64(1) | np.uint64(2 * flat[k] > twice_median)
        out[n] = bits
    return out


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of one image once it has been looked at."""

    sha256: bytes
    """First 16 bytes of the SHA-256 of its bytes."""
    width: int = 0
    height: int = 0
    num_frames: int = 0
    contrast: float = 0.0
    """Standard deviation of its 32 x 32 grey levels, 0 to 127.5."""
    phash: int | None = None
    """None where it cannot be decoded or is nearly blank."""
    mirrored_phash: int | None = None
    """The hash of the image seen in a mirror."""
    error: str | None = None
    """Why it cannot be decoded."""


def byte_hash(data: bytes) -> bytes:
    """16 bytes that stand for `data`: equal for equal bytes alone."""
    return hashlib.sha256(data).digest()[:16]


def look_at(data: bytes) -> ImageFacts:
    """Decode an image and hash it; a fault (undecodable, truncated, a decompression bomb) is `error`, never raised."""
    sha256 = byte_hash(data)
    try:
        image = open_image(data)
        width, height, num_frames = image.width, image.height, getattr(image, "n_frames", 1)
        grey_YX = grey_square(image)
    except UNDECODABLE as error:
        return ImageFacts(sha256, error=_short(error))
    contrast = float(grey_YX.std())
    if contrast < MIN_CONTRAST:
        return ImageFacts(sha256, width, height, num_frames, contrast)
    phash, mirrored = perceptual_hashes(np.stack([grey_YX, grey_YX[:, ::-1]]))
    return ImageFacts(sha256, width, height, num_frames, contrast, int(phash), int(mirrored))


# What Pillow raises for a bad file: OSError (UnidentifiedImageError, truncated), SyntaxError (broken PNG), the others
# for broken headers and frames.
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, OverflowError, IndexError, KeyError, TypeError, MemoryError)


def open_image(data: bytes) -> Image:
    """The image behind `data`, its header read.  Raises one of UNDECODABLE, also for what Pillow calls a bomb."""
    pillow: Any = require("PIL.Image", extra="pool")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large images at half of the size that it refuses
        try:
            return pillow.open(io.BytesIO(data))
        except pillow.DecompressionBombError as error:
            raise ValueError(f"decompression bomb: {error}") from error


def grey_square(image: Image) -> np.ndarray:
    """(32, 32) uint8 grey levels, upright as EXIF says; transparent parts stand on white."""
    if image.format == "JPEG":
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        image.draft("L", (JPEG_DRAFT_SIDE, JPEG_DRAFT_SIDE))
    else:
        image.load()
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = _on_white(image)
    elif image.mode == "P":
        image = image.convert("RGB")
    elif image.mode.startswith("I;16"):
        image = image.point(lambda level: level / 256)  # Pillow's own conversion to 8 bits clips instead
    grey_YX = shrink(np.asarray(image if image.mode == "L" else image.convert("L")))
    return _UPRIGHT.get(orientation, _as_it_is)(grey_YX)


def shrink(grey_YX: np.ndarray) -> np.ndarray:
    """(height, width) uint8 -> (32, 32) uint8 by Lanczos, as Pillow's but for its rounding and clipping on the way."""
    height, width = grey_YX.shape
    rows_YX = _shrink_rows(grey_YX, *_lanczos(height), WEIGHT_BITS - FRACTION_BITS)
    square_XY = _shrink_rows(np.ascontiguousarray(rows_YX.T), *_lanczos(width), WEIGHT_BITS + FRACTION_BITS)
    return square_XY.T.clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=1024)
def _lanczos(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of `size` pixels make each of the 32, and by which weights: first (32,) int64, weights (32, taps) int32."""
    scale = max(size / GREY_SIDE, 1.0)
    center = (np.arange(GREY_SIDE) + 0.5) * size / GREY_SIDE
    first = np.maximum(np.floor(center - LANCZOS_LOBES * scale + 0.5), 0).astype(np.int64)
    stop = np.minimum(np.floor(center + LANCZOS_LOBES * scale + 0.5), size).astype(np.int64)
    at = first[:, None] + np.arange((stop - first).max())
    x = (at - center[:, None] + 0.5) / scale
    weights = np.sinc(x) * np.sinc(x / LANCZOS_LOBES) * ((abs(x) < LANCZOS_LOBES) & (at < stop[:, None]))
    weights /= weights.sum(axis=1, keepdims=True)
    return first, np.rint(weights * (1 << WEIGHT_BITS)).astype(np.int32)


@njit(cache=True, nogil=True)
def _shrink_rows(grey_YX, first, weights, shift):
    sums_YX = np.full((len(first), grey_YX.shape[1]), 1 << (shift - 1), np.int32)  # rounds
    for y in range(len(first)):
        sums = sums_YX[y]
        for tap in range(min(weights.shape[1], grey_YX.shape[0] - first[y])):
            row, weight = grey_YX[first[y] + tap], weights[y, tap]
            for x in range(len(sums)):
                sums[x] = np.int32(sums[x] + np.int32(row[x] * weight))
    return sums_YX >> np.int32(shift)


_EXIF_ORIENTATION = 0x0112


def _as_it_is(a: np.ndarray) -> np.ndarray:
    return a


# The eight orientations of EXIF 2.3, tag 0x0112: how the stored rows and columns become the picture.  Scaling to a
# square treats both axes alike, so turning afterwards is the same and cheaper.
_UPRIGHT = {
    1: _as_it_is,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a.T[:, ::-1],
    7: lambda a: a.T[::-1, ::-1],
    8: lambda a: a.T[::-1],
}


def _on_white(image: Image) -> Image:
    pillow: Any = require("PIL.Image", extra="pool")
    image = image.convert("RGBA")
    white = pillow.new("RGBA", image.size, (255, 255, 255, 255))
    return pillow.alpha_composite(white, image)


def _short(error: BaseException) -> str:
    """One line, the same in every run: Pillow names the object that it read by its place in memory."""
    text = re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", f"{type(error).__name__}: {error}").replace("\n", " ")
    return text if len(text) <= 200 else text[:197] + "..."
