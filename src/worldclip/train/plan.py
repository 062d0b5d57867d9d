"""The epoch is a plan: which pair stands at which position, a pure function of names, seed and epoch.

Shards are sorted by the coin and taken in windows; the pairs of a window are sorted together by the coin.  Training
reads the endless concatenation of epochs; batch k is the positions [k * G, (k + 1) * G), whatever the number of
processes: ranks take slices.  L is the number of pairs of an epoch, G the global batch size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from worldclip.coin import CROP, ORDER, uniform

CROP_TRIES = 10  # then the whole image, cut to a square where it must: torchvision's RandomResizedCrop
MAX_ASPECT = 4 / 3  # of a crop, as there
CROP_DRAWS = 2 * CROP_TRIES + 2  # numbers that a crop is decided by
WARP_DRAWS = 5  # and those of a warp: angle, size, red, green, blue


def shard_order(names: Sequence[str], seed: int, epoch: int) -> np.ndarray:
    """The shards' order in an epoch: (num_shards,) int64 indices into `names`, which are sorted."""
    return np.argsort(uniform(names, 0, seed, epoch, ORDER), kind="stable")


def windows(order: np.ndarray, shuffle_shards: int) -> list[np.ndarray]:
    """`order` in runs of shuffle_shards, the last one shorter."""
    return [order[start : start + shuffle_shards] for start in range(0, len(order), shuffle_shards)]


def pair_order(keys: pa.Array, text_idx: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order of a window's pairs: (n,) int64 indices; equal coins (the same pair in two shards) as given."""
    return np.argsort(uniform(keys, text_idx, seed, epoch, ORDER), kind="stable")


def num_steps(samples_seen: int, global_batch_size: int) -> int:
    """Steps of a run: samples in whole batches, at least one."""
    return max(1, round(samples_seen / global_batch_size))


def batch_positions(step: int, global_batch_size: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """This rank's positions of batch `step`, a contiguous slice, in the endless concatenation of epochs: int64."""
    first = rank * global_batch_size // world_size
    last = (rank + 1) * global_batch_size // world_size
    return step * global_batch_size + np.arange(first, last)


def locate(positions: np.ndarray, epoch_length: int) -> tuple[np.ndarray, np.ndarray]:
    """(epoch, position within it) of positions in the endless concatenation of epochs of equal length."""
    return np.divmod(positions, epoch_length)


def replacement(position: int, draw: int, epoch_length: int, seed: int, epoch: int) -> int:
    """The position within the same epoch whose pair stands in for one that does not decode; draw = 1, 2, ..."""
    return math.floor(uniform(str(position), draw, seed, epoch, ORDER) * epoch_length)


def crop_draws(keys: Sequence[str], text_idx: np.ndarray, seed: int, epoch: np.ndarray) -> np.ndarray:
    """(n, CROP_DRAWS + WARP_DRAWS) float64 in [0, 1): what the crops and warps of n pairs are decided by.

    The coin of stream `crop`, then the same mixing function on it plus 1, 2, ...
    """
    coin = np.empty(len(keys))
    for each in np.unique(epoch):
        rows = np.flatnonzero(epoch == each)
        coin[rows] = uniform([keys[row] for row in rows.tolist()], text_idx[rows], seed, int(each), CROP)
    state = (coin * 2.0**53).astype(np.uint64)[:, None] + np.arange(1, CROP_DRAWS + WARP_DRAWS + 1, dtype=np.uint64)
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
    """splitmix64 of each element, https://prng.di.unimi.it/splitmix64.c"""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def crop_box(draws: np.ndarray, height: int, width: int, scale_min: float) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a RandomResizedCrop: a share of the area in [scale_min, 1], an aspect ratio in
    [3/4, 4/3], log-uniform; the first try that fits, else the largest central part with such an aspect.

    draws: one row of crop_draws.
    """
    log_max = math.log(MAX_ASPECT)
    for k in range(CROP_TRIES):
        area = height * width * (scale_min + (1 - scale_min) * draws[2 * k])
        aspect = math.exp(log_max * (2 * draws[2 * k + 1] - 1))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = math.floor(draws[CROP_DRAWS - 2] * (height - crop_height + 1))
            left = math.floor(draws[CROP_DRAWS - 1] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * MAX_ASPECT)))
    crop_height = min(height, max(1, round(width * MAX_ASPECT)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
