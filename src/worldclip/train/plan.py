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

from worldclip.core.coin import CROP, ORDER, splitmix64, uniform

CROP_TRIES = 10  # then the whole image, cut to a square where it must: torchvision's RandomResizedCrop
MAX_ASPECT = 4 / 3  # of a crop, as there
CROP_DRAWS = 2 * CROP_TRIES + 2  # numbers that a crop is decided by
PATCH_OFFSET = np.uint64(1 << 32)  # where the numbers of patch dropout begin
WARP_DRAWS = 6  # and those of a warp: angle, size, red, green, blue, whether at all


def shard_order(names: Sequence[str], seed: int, epoch: int) -> np.ndarray:
    """The shards' order in an epoch: (num_shards,) int64 indices into `names`, which are sorted."""
    return np.argsort(uniform(names, 0, seed, epoch, ORDER), kind="stable")


def windows(order: np.ndarray, shuffle_shards: int) -> list[np.ndarray]:
    """`order` in runs of shuffle_shards, the last one shorter."""
    return [order[start : start + shuffle_shards] for start in range(0, len(order), shuffle_shards)]


def pair_order(keys: pa.Array, text_idx: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order of a window's pairs: (n,) int64 indices; equal coins (the same pair in two shards) as given."""
    return np.argsort(uniform(keys, text_idx, seed, epoch, ORDER), kind="stable")


def batch_positions(step: int, global_batch_size: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """This rank's positions of batch `step`, a contiguous slice, in the endless concatenation of epochs: int64."""
    first = rank * global_batch_size // world_size
    last = (rank + 1) * global_batch_size // world_size
    return step * global_batch_size + np.arange(first, last)


def locate(positions: np.ndarray, epoch_length: int) -> tuple[np.ndarray, np.ndarray]:
    """(epoch, position within it) of positions in the endless concatenation of epochs of equal length."""
    return np.divmod(positions, epoch_length)


def locate_in_streams(positions: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(stream, place within it) of positions of an epoch, streams of `lengths` pairs being read round robin.

    A stream that is exhausted leaves the round: between two lengths, every round has the same streams.
    """
    bounds = np.unique(np.concatenate(([0], lengths)))
    rounds = np.diff(bounds)
    active = [np.flatnonzero(lengths >= bound) for bound in bounds[1:]]
    starts = np.concatenate(([0], np.cumsum(rounds * [len(streams) for streams in active]))).astype(np.int64)
    part = np.searchsorted(starts, positions, side="right") - 1
    stream, place = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
    for each in np.unique(part):
        rows = part == each
        number, turn = np.divmod(positions[rows] - starts[each], len(active[each]))
        stream[rows], place[rows] = active[each][turn], bounds[each] + number
    return stream, place


def spans(file: np.ndarray, offset: np.ndarray, size: np.ndarray, max_gap: int) -> tuple[np.ndarray, np.ndarray]:
    """((num_spans, 3) int64: file, start, end; (n,) int64: the span of each piece) that hold n pieces of files.

    Neighbours that lie at most max_gap bytes apart are read together.
    """
    order = np.lexsort((offset, file))
    start, end, of = offset[order], (offset + size)[order], file[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (of[1:] != of[:-1]) | (start[1:] > end[:-1] + max_gap)
    firsts = np.flatnonzero(is_new)
    found = np.stack([of[firsts], start[firsts], np.maximum.reduceat(end, firsts)], axis=1)
    span_of = np.empty(len(order), np.int64)
    span_of[order] = np.cumsum(is_new) - 1
    return found, span_of


def share_by_owner(owner: np.ndarray, num_owners: int, rank: int, world_size: int) -> np.ndarray:
    """A rank's rows of a batch, as many as every other's, those of its own streams first: ascending by owner's rank.

    Ranks own contiguous blocks of streams; what is over at one rank when streams end unevenly goes to the next.
    """
    order = np.argsort(owner * world_size // num_owners, kind="stable")
    return order[rank * len(owner) // world_size : (rank + 1) * len(owner) // world_size]


def replacement(position: int, draw: int, epoch_length: int, seed: int, epoch: int) -> int:
    """The position within the same epoch whose pair stands in for one that does not decode; draw = 1, 2, ..."""
    return math.floor(uniform(str(position), draw, seed, epoch, ORDER) * epoch_length)


def kept_patches(
    keys: Sequence[str], text_idx: np.ndarray, seed: int, epoch: np.ndarray, num_patches: int, dropout: float
) -> np.ndarray:
    """(n, kept) int64, ascending: the patches of each image that patch dropout leaves, round((1 - dropout) * all).

    The numbers of crop_draws are 1, 2, ... behind the coin, these stand PATCH_OFFSET behind it.
    """
    num_kept = max(1, round((1 - dropout) * num_patches))
    draws = _draws(keys, text_idx, seed, epoch, PATCH_OFFSET + np.arange(num_patches, dtype=np.uint64))
    return np.sort(np.argsort(draws, axis=1, kind="stable")[:, :num_kept], axis=1)


def crop_draws(keys: Sequence[str], text_idx: np.ndarray, seed: int, epoch: np.ndarray) -> np.ndarray:
    """(n, CROP_DRAWS + WARP_DRAWS) float64 in [0, 1): what the crops and warps of n pairs are decided by.

    The coin of stream `crop`, then the same mixing function on it plus 1, 2, ...
    """
    return _draws(keys, text_idx, seed, epoch, np.arange(1, CROP_DRAWS + WARP_DRAWS + 1, dtype=np.uint64))


def _draws(keys: Sequence[str], text_idx: np.ndarray, seed: int, epoch: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    coin = np.empty(len(keys))
    for each in np.unique(epoch):
        rows = np.flatnonzero(epoch == each)
        coin[rows] = uniform([keys[row] for row in rows.tolist()], text_idx[rows], seed, int(each), CROP)
    state = (coin * 2.0**53).astype(np.uint64)[:, None] + numbers
    return (splitmix64(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


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
