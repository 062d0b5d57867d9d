"""Online curation for any loader: the decision of the offline list, drawn again in every epoch.  No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.arrow import Strings
from worldclip.core.coin import hash_keys
from worldclip.core.keys import KeyTable
from worldclip.curate.decide import decide
from worldclip.curate.stage import online_work, refuse_outdated
from worldclip.language.config import open_run


class Curator:
    """Which texts of which keys to train on in an epoch; needs a run whose stage balance is finished.

        curator = worldclip.curate.Curator("runs/mine")
        key_idx, text_idx = curator.keep(batch_of_keys, epoch=3)

    Epoch 0 is exactly the list in RUN/curate, unless another `seed` is given.  Under curate.max_pairs the stage curate
    must be finished, since it finds the factors.
    """

    text_policy: str
    seed: int
    num_repeated_keys: int  # keys in more than one shard; their texts in the first of these shards, by name, are used

    def __init__(self, run: str | Path, seed: int | None = None) -> None:
        """Read RUN/match/texts and RUN/balance once.  Memory: about 70 bytes and the key itself per key.

        seed: of the keep decisions (default: curate.seed of the recipe).
        """
        run_dir = Path(run)
        context = open_run(run_dir)
        artifacts.require_manifest(run_dir, "match")
        refuse_outdated(context)
        work = online_work(context)
        self.text_policy = work.config.text_policy
        self.seed = work.config.seed if seed is None else seed
        keys: list[pa.Array] = []
        num_texts = [np.zeros(1, np.int64)]
        text_idx = [np.zeros(0, np.int32)]
        probs = [np.zeros(0, np.float64)]
        weights = [np.zeros(0, np.float64)]
        for shard in layout.matched_shards(run_dir):
            _, candidates, keep_prob = work.read(shard)
            drawable = candidates.drawable_T
            num_drawable = np.diff(np.concatenate([[0], np.cumsum(drawable)])[candidates.starts_K1])
            has_drawable = num_drawable > 0
            keys.append(candidates.keys_K.filter(pa.array(has_drawable)).cast(pa.large_string()))
            num_texts.append(num_drawable[has_drawable])
            text_idx.append(candidates.text_idx_T[drawable])
            probs.append(keep_prob[drawable])
            weights.append(candidates.draw_weight_T[drawable])
        all_keys = pa.chunked_array(keys, pa.large_string())
        self._table = KeyTable(all_keys)
        self._hashes = hash_keys(all_keys)
        self._starts = np.cumsum(np.concatenate(num_texts))
        self._text_idx = np.concatenate(text_idx)
        self._keep_prob = np.concatenate(probs)
        self._draw_weight = np.concatenate(weights)
        self.num_repeated_keys = self._table.num_repeated

    def keep(self, keys: Strings, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the kept pairs among `keys` in `epoch`: (key_idx int64, position in keys; text_idx int32).

        One row per pair, ordered by position in keys, then text_idx.  Under text_policy one a key has at most one row.
        """
        group = self._table.find(keys)
        key_idx = np.flatnonzero(group >= 0)
        group = group[key_idx]
        num_texts = self._starts[group + 1] - self._starts[group]
        starts = np.concatenate([[0], np.cumsum(num_texts)])
        # row of each text = start of its key's texts + position of the text within its key
        rows = np.repeat(self._starts[group] - starts[:-1], num_texts) + np.arange(starts[-1])
        text_idx = self._text_idx[rows]
        keep_prob = self._keep_prob[rows]
        hashes = self._hashes[group]
        weights = self._draw_weight[rows]
        is_kept, _ = decide(self.text_policy, hashes, starts, text_idx, weights, keep_prob, seed=self.seed, epoch=epoch)
        return np.repeat(key_idx, num_texts)[is_kept], text_idx[is_kept]
