"""The keep decision: arrays in, arrays out, shared by the offline list, the loader and online curation.

Legend: K keys; T texts with a match, in the pool's order, those of a key adjacent and in text_idx order.
starts_K1: (K + 1,) int64, key k has the texts in rows starts[k] to starts[k + 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from worldclip.core.coin import KEEP, TEXT_DRAW, uniform_of_hash
from worldclip.kernels.compiled import compiled

_KEEP = np.uint64(KEEP)
_TEXT_DRAW = np.uint64(TEXT_DRAW)
_ZERO = np.uint64(0)


def keep_prob(entry_ids: npt.ArrayLike, offsets: npt.ArrayLike, entry_probs: npt.ArrayLike) -> np.ndarray:
    """Return 1 - prod(1 - entry_prob) over each text's entries, (T,) float64; 0 for a text without entries.

    entry_ids: (M,) int, all texts' entries end to end.  offsets: (T + 1,) int, text i has entry_ids[offsets[i] :
    offsets[i + 1]].  entry_probs: (num_entries,) float, of the one list that the ids refer to.  The product is taken
    in float64 and in entry order.  It equals in distribution the coin per entry of arXiv:2507.22062, Alg. 1.
    Raises ValueError if offsets or ids are out of range.
    """
    ids = np.ascontiguousarray(entry_ids, np.int32)
    bounds = np.ascontiguousarray(offsets, np.int64)
    probs = np.ascontiguousarray(entry_probs)
    if probs.dtype not in (np.float32, np.float64):
        probs = probs.astype(np.float64)
    if not len(bounds) or bounds[0] < 0 or bounds[-1] > len(ids) or (np.diff(bounds) < 0).any():
        raise ValueError("offsets must rise from 0 or more to at most the number of entry ids")
    if len(ids) and (ids.min() < 0 or ids.max() >= len(probs)):
        raise ValueError(f"entry ids lie in {ids.min()}..{ids.max()}; the list has {len(probs)} entries")
    rows = np.arange(len(bounds) - 1)
    out = np.empty(len(rows), np.float64)
    keep_prob_of_rows(ids, bounds, rows, probs, out)
    return out


@compiled
def keep_prob_of_rows(entry_ids, offsets, rows, entry_probs, out):
    """Set out[row] to the keep probability of each of `rows`, texts of one list."""
    for row in rows:
        product = 1.0
        for m in range(offsets[row], offsets[row + 1]):
            product *= 1.0 - np.float64(entry_probs[entry_ids[m]])
        out[row] = 1.0 - product


@compiled
def keep_all(hashes, starts, text_idx, drawable, keep_prob, seed, epoch, is_kept):
    """Decide under text_policy all: a drawable text is kept if its coin is below its keep_prob."""
    for k in range(len(starts) - 1):
        for t in range(starts[k], starts[k + 1]):
            coin = uniform_of_hash(hashes[k], np.uint64(text_idx[t]), seed, epoch, _KEEP)
            is_kept[t] = drawable[t] and coin < keep_prob[t]


@compiled
def draw_row(draw_weight, start, stop, coin):
    """Return the first row of [start, stop) whose sum of weights so far passes coin times the whole sum, -1 for none.

    draw_weight: (T,) float64, 0 for a text that is not drawable.  coin: in [0, 1).  With weights 1 the sums are whole
    numbers, so that this is the drawable text number floor(coin * n).
    """
    total = 0.0
    for t in range(start, stop):
        total += draw_weight[t]
    point = coin * total  # below total, also after rounding: coin is at most 1 - 2**-53
    passed = 0.0
    for t in range(start, stop):
        passed += draw_weight[t]
        if point < passed:
            return t
    return -1


@compiled
def draw_one(hashes, starts, text_idx, draw_weight, keep_prob, seed, epoch, drawn, is_kept):
    """Decide under text_policy one: draw one text per key (drawn[k] = its row, or -1), then toss its coin."""
    for k in range(len(starts) - 1):
        draw_coin = uniform_of_hash(hashes[k], _ZERO, seed, epoch, _TEXT_DRAW)
        t = draw_row(draw_weight, starts[k], starts[k + 1], draw_coin)
        drawn[k] = t
        if t >= 0:
            coin = uniform_of_hash(hashes[k], np.uint64(text_idx[t]), seed, epoch, _KEEP)
            is_kept[t] = coin < keep_prob[t]


def decide(
    policy: str,
    hashes_K: np.ndarray,
    starts_K1: np.ndarray,
    text_idx_T: np.ndarray,
    draw_weight_T: np.ndarray,
    keep_prob_T: np.ndarray,
    *,
    seed: int,
    epoch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the decision in `epoch`: (is_kept (T,) bool, drawn (K,) int64, the drawn row under `one`, else -1).

    hashes: XXH64 of the keys.  draw_weight: weight of each text in its key's draw (`draw_weights`), or bool; 0 for a
    text whose key is not valid or whose language is excluded.  Under `all`, where nothing is drawn, it only says which
    texts may be kept.
    """
    is_kept = np.zeros(len(text_idx_T), np.bool_)
    drawn = np.full(len(hashes_K), -1, np.int64)
    numbers = (keep_prob_T, np.uint64(seed), np.uint64(epoch))
    if policy == "one":
        draw_one(hashes_K, starts_K1, text_idx_T, draw_weight_T.astype(np.float64), *numbers, drawn, is_kept)
    else:
        keep_all(hashes_K, starts_K1, text_idx_T, draw_weight_T > 0, *numbers, is_kept)
    return is_kept, drawn


def draw_weights(
    starts_K1: np.ndarray, drawable_T: np.ndarray, place_T: np.ndarray, text_weights: Sequence[float]
) -> np.ndarray:
    """Return how much each text weighs in the draw among those of its key, (T,) float64; 0 where it is not drawable.

    place: (T,) positions in text_weights.  A place's weight is shared evenly by the key's drawable texts from it.
    """
    weights = np.asarray(text_weights, np.float64)
    key_of_text = np.repeat(np.arange(len(starts_K1) - 1), np.diff(starts_K1))
    group = key_of_text * len(weights) + place_T
    num_drawable = np.bincount(group, drawable_T)[group]
    return np.where(drawable_T, weights[place_T] / np.maximum(num_drawable, 1), 0.0)
