"""Online curation for anyone's loader: the offline list's decision, drawn anew in every epoch.  No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip import formats
from worldclip.coin import uniform_of_hashes
from worldclip.columns import Strings
from worldclip.config import load_recipe
from worldclip.curate.candidates import find_candidates, matched_shards, text_probs
from worldclip.curate.caps import bound_of
from worldclip.curate.curate import curate_work
from worldclip.curate.decide import decide
from worldclip.keys import KeyTable

_COLUMNS = ["key", "text_idx", "lang", "entries_lang", "entry_ids"]


class Curator:
    """Which texts of which keys to train on in an epoch; needs a run whose stage balance is finished.

        curator = worldclip.curate.Curator("runs/mine")
        key_idx, text_idx = curator.keep(batch_of_keys, epoch=3)

    With the seed of the recipe (curate.seed), epoch 0 is the list in RUN/curate exactly.  Under curate.max_pairs a
    language has at most so many pairs in each epoch.
    """

    text_policy: str
    seed: int
    num_repeated_keys: int  # keys in more than one shard: their texts in the first shard, by name, count here

    def __init__(self, run: str | Path, seed: int = 0) -> None:
        """Reads RUN/match/texts and RUN/balance once; holds about 60 bytes and the key itself per key."""
        run_dir = Path(run)
        recipe = load_recipe(run_dir)
        formats.require_manifest(run_dir, "match")
        work = curate_work(recipe, run_dir)
        self.text_policy, self.seed = recipe.curate.text_policy, seed
        self._config, self._langs, self._bounds = recipe.curate, list[str](), dict[int, np.ndarray]()
        found_keys, num_texts, text_idx, probs, lang = [], [], [], [], []
        for shard, path in matched_shards(run_dir):
            table = formats.read_table(path, formats.MATCH_TEXTS, _COLUMNS)
            candidates = find_candidates(table, work.config, work.key_lists, shard)
            drawable = candidates.drawable_T
            ends = np.concatenate([[0], np.cumsum(drawable)])[candidates.starts_K1]
            has_drawable = np.diff(ends) > 0
            found_keys.append(candidates.keys_K.filter(pa.array(has_drawable)).cast(pa.large_string()))
            num_texts.append(np.diff(ends)[has_drawable])
            text_idx.append(candidates.text_idx_T[drawable])
            probs.append(text_probs(table, work.entry_probs)[drawable])
            self._langs += [name for name in candidates.lang_names if name not in self._langs]
            code = np.array([self._langs.index(name) for name in candidates.lang_names], np.int16)
            lang.append(code[candidates.lang_T[drawable]] if recipe.curate.max_pairs is not None else code[:0])
        self._table = KeyTable(pa.chunked_array(found_keys, pa.large_string()))
        self._starts = np.cumsum(np.concatenate([[0], *num_texts])).astype(np.int64)
        self._text_idx = np.concatenate([np.zeros(0, np.int32), *text_idx])
        self._keep_prob = np.concatenate([np.zeros(0, np.float64), *probs])
        self._lang = np.concatenate([np.zeros(0, np.int16), *lang])
        self.num_repeated_keys = self._table.num_repeated

    def keep(self, keys: Strings, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The kept pairs among `keys` in `epoch`: (key_idx int64: position in keys, text_idx int32), one row a pair.

        Rows come by position in keys, then text_idx; under text_policy one a key has at most one row.
        """
        group = self._table.find(keys)
        key_idx = np.flatnonzero(group >= 0)
        of_row, rows = self._kept_rows(group[key_idx], epoch)
        if self._config.max_pairs is not None:
            if epoch not in self._bounds:
                self._bounds = {epoch: self._find_bounds(epoch)}
            stays = self._numbers(rows, epoch) < self._bounds[epoch][self._lang[rows]]
            of_row, rows = of_row[stays], rows[stays]
        return key_idx[of_row], self._text_idx[rows]

    def _kept_rows(self, group: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(position in `group` of each kept text, its row), caps aside; group: positions of keys in the table."""
        num_texts = self._starts[group + 1] - self._starts[group]
        starts = np.concatenate([[0], np.cumsum(num_texts)])
        rows = np.repeat(self._starts[group] - starts[:-1], num_texts) + np.arange(starts[-1])
        kept, _ = decide(
            self.text_policy,
            self._table.hashes[group],
            starts,
            self._text_idx[rows],
            np.ones(len(rows), np.bool_),
            self._keep_prob[rows],
            seed=self.seed,
            epoch=epoch,
        )
        return np.repeat(np.arange(len(group)), num_texts)[kept], rows[kept]

    def _numbers(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """Coin over probability of texts, by which a cap chooses (curate/caps.py)."""
        hashes = self._table.hashes[np.searchsorted(self._starts, rows, side="right") - 1]
        return uniform_of_hashes(hashes, self._text_idx[rows], self.seed, epoch) / self._keep_prob[rows]

    def _find_bounds(self, epoch: int) -> np.ndarray:
        """(num_langs,) float64: the number below which a language's kept texts stay; infinite where no cap cuts."""
        _, rows = self._kept_rows(self._table.first_rows(), epoch)
        numbers, lang = self._numbers(rows, epoch), self._lang[rows]
        bounds = np.full(len(self._langs), np.inf)
        for code, name in enumerate(self._langs):
            cap, of_lang = self._config.cap_of(name), numbers[lang == code]
            if cap is not None and len(of_lang) > cap:
                bounds[code] = bound_of([of_lang], cap)
        return bounds
