"""The kept pairs of each shard in each epoch, with the places of their images.

Offline they are the list in RUN/curate, the same in every epoch.  Online they are decided anew in each epoch, from the
matched texts and the entries' probabilities, by the code that made the list: epoch 0 is the list.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core import artifacts
from worldclip.core.execute import Shard
from worldclip.curate import read_curated
from worldclip.curate.candidates import Candidates, decide_on, find_candidates, matched_path, text_probs
from worldclip.curate.caps import is_over
from worldclip.curate.stage import CurateWork
from worldclip.pool import read_index
from worldclip.train.pool_join import file_positions, read_places

EPOCHS_KEPT = 8  # epochs whose numbers of pairs stay at hand


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of one shard or window that have an image; row i of each column is pair i."""

    keys: pa.Array
    text_idx: np.ndarray
    texts: pa.Array
    lang: pa.Array
    shard: np.ndarray
    """Index into the tars that hold the images."""
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray) -> Pairs:
        columns = (self.keys, self.texts, self.lang)
        keys, texts, lang = (column.take(pa.array(rows)) for column in columns)
        return Pairs(keys, self.text_idx[rows], texts, lang, self.shard[rows], self.offset[rows], self.size[rows])


def concat(parts: Sequence[Pairs]) -> Pairs:
    """Pairs of several shards, in order."""
    keys, texts, lang = (
        pa.concat_arrays([getattr(part, name) for part in parts]) for name in ("keys", "texts", "lang")
    )
    text_idx, shard, offset, size = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("text_idx", "shard", "offset", "size")
    )
    return Pairs(keys, text_idx, texts, lang, shard, offset, size)


class PairSource:
    """Pairs by shard and epoch; `work` is what online curation decides by, None for the offline list.

    Shards are read when asked for, and `num_cached` of them stay in memory.
    """

    def __init__(
        self,
        run_dir: Path,
        shards: Sequence[Shard],
        image_shards: Sequence[Shard] | None,
        num_cached: int,
        work: CurateWork | None = None,
    ) -> None:
        self.run_dir, self.shards, self.image_shards, self.work = run_dir, shards, image_shards, work
        self._listed = functools.lru_cache(maxsize=num_cached)(self._read_list)
        self._matched = functools.lru_cache(maxsize=num_cached)(self._read_matched)
        self._drawn = functools.lru_cache(maxsize=num_cached)(self._draw)
        self._counts = functools.lru_cache(maxsize=EPOCHS_KEPT)(self._count)

    @property
    def is_online(self) -> bool:
        return self.work is not None

    def of(self, shard_idx: int, epoch: int) -> Pairs:
        """The pairs of a shard in an epoch, in the pool's order."""
        return self._drawn(shard_idx, epoch)[0] if self.is_online else self._listed(shard_idx)[0]

    def counts(self, epoch: int) -> tuple[np.ndarray, int]:
        """((num_shards,) int64 pairs of each shard in an epoch, kept pairs without an image)."""
        return self._counts(epoch if self.is_online else 0)

    def _count(self, epoch: int) -> tuple[np.ndarray, int]:
        found = [self._drawn(i, epoch) if self.is_online else self._listed(i) for i in range(len(self.shards))]
        return np.array([len(pairs) for pairs, _ in found], np.int64), sum(missing for _, missing in found)

    def _read_list(self, shard_idx: int) -> tuple[Pairs, int]:
        columns = ("key", "text_idx", "text", "lang")
        curated = read_curated(self.run_dir, self.shards[shard_idx], columns)
        pairs, has_image = self._join(curated, shard_idx)
        return pairs, int((~has_image).sum())

    def _read_matched(self, shard_idx: int) -> tuple[Candidates, np.ndarray, Pairs, np.ndarray]:
        """What the decision reads of a shard's matched texts; those with an image as pairs, and which they are."""
        assert self.work is not None
        shard = self.shards[shard_idx]
        table = artifacts.read_table(matched_path(self.run_dir, shard), artifacts.MATCH_TEXTS)
        candidates = find_candidates(table, self.work.config, self.work.key_lists, shard.name)
        return (candidates, text_probs(table, self.work.entry_probs), *self._join(table, shard_idx))

    def _draw(self, shard_idx: int, epoch: int) -> tuple[Pairs, int]:
        assert self.work is not None
        candidates, keep_prob, pairs, has_image = self._matched(shard_idx)
        kept, _ = decide_on(candidates, keep_prob, self.work.config, epoch)
        kept &= ~is_over(candidates, keep_prob, kept, self.work.config, self.work.bounds, epoch)
        return pairs.take(np.flatnonzero(kept[has_image])), int((kept & ~has_image).sum())

    def _join(self, table: pa.Table, shard_idx: int) -> tuple[Pairs, np.ndarray]:
        """Rows of key, text_idx, text, lang that have an image, and (rows,) bool: which these are.

        The places are the pool's index, or those of train.pool, joined already.
        """
        if self.image_shards is None:
            index = read_index(self.run_dir, self.shards[shard_idx])
            file = np.full(len(index), shard_idx, np.int64)
        else:
            index = read_places(self.run_dir, self.shards[shard_idx])
            file = file_positions(index, self.image_shards)
        found = pc.index_in(table["key"], value_set=index["key"]).combine_chunks()
        has_image = found.is_valid()
        table = table.filter(has_image).combine_chunks()
        rows = found.drop_null().to_numpy(zero_copy_only=False)

        def column(name: str, kind: pa.DataType) -> pa.Array:
            return pa.concat_arrays([*table[name].cast(kind).chunks, pa.array([], kind)])

        pairs = Pairs(
            column("key", pa.large_string()),
            column("text_idx", pa.int32()).to_numpy(),
            column("text", pa.large_string()),
            column("lang", pa.string()),
            file[rows],
            index["offset"].to_numpy()[rows],
            index["size"].to_numpy()[rows],
        )
        return pairs, has_image.to_numpy(zero_copy_only=False)
