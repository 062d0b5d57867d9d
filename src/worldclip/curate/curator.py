"""Online curation for anyone's loader: the offline list's decision, drawn anew in every epoch.  No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.core import artifacts
from worldclip.core.arrow import Strings
from worldclip.core.coin import hash_keys, uniform_of_hashes
from worldclip.core.job import Run
from worldclip.core.keys import KeyTable
from worldclip.curate.candidates import find_candidates, matched_shards, text_probs
from worldclip.curate.caps import read_bounds
from worldclip.curate.decide import decide
from worldclip.curate.stage import curate_work

_COLUMNS = ["key", "text_idx", "lang", "entries_lang", "entry_ids"]


class Curator:
    """Which texts of which keys to train on in an epoch; needs a run whose stage balance is finished.

        curator = worldclip.curate.Curator("runs/mine")
        key_idx, text_idx = curator.keep(batch_of_keys, epoch=3)

    With the seed of the recipe (curate.seed), epoch 0 is the list in RUN/curate exactly.  Under curate.max_pairs
    a language has about so many pairs in every later epoch; the stage curate must be finished, which finds the bounds.
    """

    text_policy: str
    seed: int
    num_repeated_keys: int  # keys in more than one shard: their texts in the first shard, by name, count here

    def __init__(self, run: str | Path, seed: int = 0) -> None:
        """Reads RUN/match/texts and RUN/balance once; holds about 60 bytes and the key itself per key."""
        run_dir = Path(run)
        run_context = Run.open(run_dir)
        artifacts.require_manifest(run_dir, "match")
        work = curate_work(run_context)
        self.text_policy, self.seed = work.config.text_policy, seed
        bounds = read_bounds(run_dir, work.config)
        self._has_caps = bool(bounds)
        found_keys, num_texts, text_idx, probs, bound = [], [], [], [], []
        for shard, path in matched_shards(run_dir):
            table = artifacts.read_table(path, artifacts.MATCH_TEXTS, _COLUMNS)
            candidates = find_candidates(table, work.config, work.key_lists, shard)
            drawable = candidates.drawable_T
            ends = np.concatenate([[0], np.cumsum(drawable)])[candidates.starts_K1]
            has_drawable = np.diff(ends) > 0
            found_keys.append(candidates.keys_K.filter(pa.array(has_drawable)).cast(pa.large_string()))
            num_texts.append(np.diff(ends)[has_drawable])
            text_idx.append(candidates.text_idx_T[drawable])
            probs.append(text_probs(table, work.entry_probs)[drawable])
            if bounds:
                of_lang = np.array([bounds.get(name, np.inf) for name in candidates.lang_names])
                bound.append(of_lang[candidates.lang_T[drawable]])
        all_keys = pa.chunked_array(found_keys, pa.large_string())
        self._table, self._hashes = KeyTable(all_keys), hash_keys(all_keys)
        self._starts = np.cumsum(np.concatenate([[0], *num_texts])).astype(np.int64)
        self._text_idx = np.concatenate([np.zeros(0, np.int32), *text_idx])
        self._keep_prob = np.concatenate([np.zeros(0, np.float64), *probs])
        self._bound = np.concatenate([np.zeros(0, np.float64), *bound])
        self.num_repeated_keys = self._table.num_repeated

    def keep(self, keys: Strings, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The kept pairs among `keys` in `epoch`: (key_idx int64: position in keys, text_idx int32), one row a pair.

        Rows come by position in keys, then text_idx; under text_policy one a key has at most one row.
        """
        group = self._table.find(keys)
        key_idx = np.flatnonzero(group >= 0)
        group = group[key_idx]
        num_texts = self._starts[group + 1] - self._starts[group]
        starts = np.concatenate([[0], np.cumsum(num_texts)])
        rows = np.repeat(self._starts[group] - starts[:-1], num_texts) + np.arange(starts[-1])
        text_idx, keep_prob = self._text_idx[rows], self._keep_prob[rows]
        kept, _ = decide(
            self.text_policy,
            self._hashes[group],
            starts,
            text_idx,
            np.ones(len(rows), np.bool_),
            keep_prob,
            seed=self.seed,
            epoch=epoch,
        )
        if self._has_caps:
            hashes = np.repeat(self._hashes[group], num_texts)
            coins = uniform_of_hashes(hashes, text_idx, self.seed, epoch)
            kept[kept] = coins[kept] / keep_prob[kept] < self._bound[rows][kept]
        return np.repeat(key_idx, num_texts)[kept], text_idx[kept]
