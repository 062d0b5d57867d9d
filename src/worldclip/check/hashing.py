"""Compute an image's identities: a hash of its bytes, and 64 bits that survive re-encoding, resizing and small edits.

The perceptual hash is the DCT hash that ImageHash calls `phash` (Zauner, "Implementation and benchmarking of perceptual
image hash functions", 2010): grey levels, 32 x 32 by Lanczos, two-dimensional DCT-II, and one bit for each of the 8 x 8
lowest frequencies: whether it is above their median.  Ours uses integers, so every machine computes the same bits from
the same pixels.

The signs of a model's embedding can take the place of the perceptual hash.

Legend: n images, Y rows, X columns, V vertical and U horizontal frequency, N images, D features.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from worldclip.check.config import CheckConfig
from worldclip.core.errors import require
from worldclip.kernels.compiled import compiled
from worldclip.model.decode import BadImage, image_faults, open_image, orientation_of, scale_16_bit, upright

if TYPE_CHECKING:
    from PIL.Image import Image

GREY_SIDE = 32  # side in pixels of the square that is hashed
NUM_FREQUENCIES = 8  # 8 x 8 = 64 bits
HASH_BITS = NUM_FREQUENCIES**2
# JPEGs are decoded in grey at the smallest of their scales (1, 1/2, 1/4, 1/8) whose sides are at least this long.  A
# scan then takes less time than decoding to RGB (benchmarks/results/dedup.md).
JPEG_DRAFT_SIDE = 160
LANCZOS_LOBES = 3
# Lanczos in fixed point must fit int32: 8 bits per pixel, 4 fraction bits after the first pass, 16 bits per weight, and
# the overshoot of the lobes stay below 2^31.
WEIGHT_BITS = 16
FRACTION_BITS = 4
# Below this standard deviation of the 32 x 32 grey levels the frequencies are noise, so the image gets no hash.
MIN_CONTRAST = 2.0
EMBEDDED_AT_ONCE = 256  # images per batch of an embedding model


# Functions of the DCT-II in fixed point.  Products fit int64: pixels of 8 bits and two sums of 32 terms with 20-bit
# factors stay below 2^58.
_ANGLES_VX = math.pi / (2 * GREY_SIDE) * np.outer(np.arange(NUM_FREQUENCIES), 2 * np.arange(GREY_SIDE) + 1)
_BASIS_VX = np.rint(2**20 * np.cos(_ANGLES_VX)).astype(np.int64)


def perceptual_hashes(grey_nYX: np.ndarray) -> np.ndarray:
    """Return the hashes, (n,) uint64, of grey images, (n, 32, 32) uint8; lowest frequency in the highest bit.

    ImageHash prints its hashes in this order of bits.
    """
    frequencies_n64 = (_BASIS_VX @ grey_nYX.astype(np.int64) @ _BASIS_VX.T).reshape(-1, HASH_BITS)
    ordered_n64 = np.sort(frequencies_n64, axis=1)
    twice_median_n1 = ordered_n64[:, 31:33].sum(axis=1, keepdims=True)  # a median is a half: doubled it is an integer
    return _as_uint64(2 * frequencies_n64 > twice_median_n1)


def _as_uint64(bits_n64: np.ndarray) -> np.ndarray:
    """Return 64 bits each as one number, the first of them the highest."""
    numbers: np.ndarray = np.packbits(bits_n64, axis=1).view(">u8").astype(np.uint64).reshape(-1)
    return numbers


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The measures of one image; fields are named as the columns of IMAGE_HASHES."""

    sha256: bytes
    """First 16 bytes of the SHA-256 of the file's bytes."""
    pixels: int = 0
    """Width times height."""
    hash: int | None = None
    """None if the image cannot be decoded or is nearly blank."""
    error: str | None = None
    """Why the image cannot be decoded."""


def scan_image(data: bytes) -> ImageFacts:
    """Decode an image and hash it.

    An image that cannot be decoded (unknown format, truncated, a decompression bomb) has `error`; nothing is raised.
    """
    sha256 = hashlib.sha256(data).digest()[:16]
    try:
        image = open_image(data)
        with image_faults():
            pixels = image.width * image.height
            _ = getattr(image, "n_frames", 1)  # walks to the last frame: a cut animation is damaged
            grey_YX = grey_square(image)
    except BadImage as error:
        return ImageFacts(sha256, error=str(error))
    if grey_YX.std() < MIN_CONTRAST:
        return ImageFacts(sha256, pixels)
    return ImageFacts(sha256, pixels, int(perceptual_hashes(grey_YX[None])[0]))


def grey_square(image: Image) -> np.ndarray:
    """Return grey levels, (32, 32) uint8, upright according to EXIF; transparent parts are put on white."""
    if image.format == "JPEG":
        image.draft("L", (JPEG_DRAFT_SIDE, JPEG_DRAFT_SIDE))
    else:
        image.load()
    orientation = orientation_of(image)
    levels_YX = scale_16_bit(image)  # first: put on white they would be clipped
    if levels_YX is None:
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            pillow: Any = require("PIL.Image", extra="pool")
            image = image.convert("RGBA")
            white = pillow.new("RGBA", image.size, (255, 255, 255, 255))
            image = pillow.alpha_composite(white, image)
        elif image.mode == "P":
            image = image.convert("RGB")
        if image.mode != "L":
            image = image.convert("L")
        levels_YX = np.asarray(image)
    # Scaling to a square treats both axes alike, so turning the small square gives the same result as turning the
    # image, and is cheaper.
    return upright(shrink(levels_YX), orientation)


def shrink(grey_YX: np.ndarray) -> np.ndarray:
    """Scale (height, width) uint8 to (32, 32) uint8 by Lanczos.

    Pillow also rounds and clips between the two passes; this function keeps 4 fraction bits there.
    """
    height, width = grey_YX.shape
    rows_YX = _shrink_rows(grey_YX, *_lanczos(height), WEIGHT_BITS - FRACTION_BITS)
    square_XY = _shrink_rows(np.ascontiguousarray(rows_YX.T), *_lanczos(width), WEIGHT_BITS + FRACTION_BITS)
    pixels: np.ndarray = square_XY.T.clip(0, 255).astype(np.uint8)
    return pixels


@functools.lru_cache(maxsize=1024)
def _lanczos(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `size` pixels make each of the 32, and their weights: (first (32,) int64, (32, taps) int32)."""
    scale = max(size / GREY_SIDE, 1.0)
    center = (np.arange(GREY_SIDE) + 0.5) * size / GREY_SIDE
    first = np.maximum(np.floor(center - LANCZOS_LOBES * scale + 0.5), 0).astype(np.int64)
    stop = np.minimum(np.floor(center + LANCZOS_LOBES * scale + 0.5), size).astype(np.int64)
    at = first[:, None] + np.arange((stop - first).max())
    x = (at - center[:, None] + 0.5) / scale
    weights = np.sinc(x) * np.sinc(x / LANCZOS_LOBES) * ((abs(x) < LANCZOS_LOBES) & (at < stop[:, None]))
    weights /= weights.sum(axis=1, keepdims=True)
    return first, np.rint(weights * (1 << WEIGHT_BITS)).astype(np.int32)


@compiled
def _shrink_rows(grey_YX, first, weights, shift):
    sums_YX = np.full((len(first), grey_YX.shape[1]), 1 << (shift - 1), np.int32)  # a half, to round
    for y in range(len(first)):
        sums = sums_YX[y]
        for tap in range(min(weights.shape[1], grey_YX.shape[0] - first[y])):
            row, weight = grey_YX[first[y] + tap], weights[y, tap]
            for x in range(len(sums)):
                sums[x] = np.int32(sums[x] + np.int32(row[x] * weight))
    return sums_YX >> np.int32(shift)


# --- which hash -------------------------------------------------------------------------------------------------------


class EmbeddingModel(NamedTuple):
    """A model whose embeddings are compared."""

    source: str
    """A path or hub id, which may hold another model later."""
    digest: str


def find_model(config: CheckConfig) -> EmbeddingModel | None:
    """Return the embedding model, None where perceptual hashes are compared.  Raises UserError if it is no model."""
    if config.embedding_model is None:
        return None
    require("torch", extra="train")
    from worldclip.model.load import find

    return EmbeddingModel(config.embedding_model, find(config.embedding_model).digest())


def scan_images(contents: Iterable[bytes], model: EmbeddingModel | None) -> Iterator[ImageFacts]:
    """Yield the facts of each image.

    model: the hash is then that of its embedding, even of nearly blank images.
    """
    if model is None:
        yield from map(scan_image, contents)
        return
    remaining = iter(contents)
    while batch := list(itertools.islice(remaining, EMBEDDED_AT_ONCE)):
        facts = list(map(scan_image, batch))
        rows = [row for row, fact in enumerate(facts) if fact.error is None]
        if rows:
            features_ND = load_model(model).encode_image([batch[row] for row in rows])
            for row, embedding_hash in zip(rows, embedding_hashes(features_ND).tolist(), strict=True):
                facts[row] = replace(facts[row], hash=embedding_hash)
        yield from facts


def embedding_hashes(image_features_ND: np.ndarray) -> np.ndarray:
    """Return 64-bit hashes, (N,) uint64, of image features, (N, D) float32: bit k is the sign of a random projection.

    The directions are the same in every call.  arXiv:2507.22062 deduplicates with 64 such bits.
    """
    directions_D64 = np.random.default_rng(0).standard_normal((image_features_ND.shape[1], 64))
    is_positive_N64 = image_features_ND.astype(np.float64) @ directions_D64 > 0
    return _as_uint64(is_positive_N64)


@functools.lru_cache(maxsize=1)
def load_model(model: EmbeddingModel) -> Any:
    """Return the embedding model, loaded once per process and digest."""
    require("torch", extra="train")
    from worldclip.model.load import load

    return load(model.source)
