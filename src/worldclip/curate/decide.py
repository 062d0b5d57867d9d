"""The keep decision: arrays in, arrays out, shared by the offline list, the loader and online curation.

Legend: K keys; T texts with a match, in the pool's order, those of a key adjacent and in text_idx order.
starts_K1: (K + 1,) int64, key k has the texts in rows starts[k] to starts[k + 1].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worldclip.core.coin import KEEP, TEXT_DRAW, uniform_of_hash
from worldclip.kernels.compiled import compiled

_KEEP, _TEXT_DRAW, _ZERO = np.uint64(KEEP), np.uint64(TEXT_DRAW), np.uint64(0)


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
def keep_all(hashes, starts, text_idx, drawable, keep_prob, seed, epoch, kept):
    """Decide under text_policy all: a drawable text is kept if its coin is below its keep_prob."""
    for k in range(len(starts) - 1):
        for t in range(starts[k], starts[k + 1]):
            coin = uniform_of_hash(hashes[k], np.uint64(text_idx[t]), seed, epoch, _KEEP)
            kept[t] = drawable[t] and coin < keep_prob[t]


@compiled
def draw_one(hashes, starts, text_idx, drawable, keep_prob, seed, epoch, drawn, kept):
    """Decide under text_policy one: draw one drawable text per key (drawn[k] = its row, or -1), then toss its coin."""
    for k in range(len(starts) - 1):
        num_drawable = 0
        for t in range(starts[k], starts[k + 1]):
            kept[t] = False
            num_drawable += drawable[t]
        drawn[k] = -1
        if num_drawable == 0:
            continue
        number = np.int64(uniform_of_hash(hashes[k], _ZERO, seed, epoch, _TEXT_DRAW) * num_drawable)
        for t in range(starts[k], starts[k + 1]):
            if not drawable[t]:
                continue
            if number == 0:
                coin = uniform_of_hash(hashes[k], np.uint64(text_idx[t]), seed, epoch, _KEEP)
                drawn[k] = t
                kept[t] = coin < keep_prob[t]
                break
            number -= 1


def decide(
    policy: str,
    hashes_K: np.ndarray,
    starts_K1: np.ndarray,
    text_idx_T: np.ndarray,
    drawable_T: np.ndarray,
    keep_prob_T: np.ndarray,
    *,
    seed: int,
    epoch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which texts are kept in `epoch`: (kept (T,) bool, drawn (K,) int64, the drawn row under `one`, else -1).

    hashes: XXH64 of the keys.  drawable: texts whose key is valid and whose language is not excluded.
    """
    kept = np.zeros(len(text_idx_T), np.bool_)
    drawn = np.full(len(hashes_K), -1, np.int64)
    arrays = (hashes_K, starts_K1, text_idx_T, drawable_T, keep_prob_T, np.uint64(seed), np.uint64(epoch))
    if policy == "one":
        draw_one(*arrays, drawn, kept)
    else:
        keep_all(*arrays, kept)
    return kept, drawn
