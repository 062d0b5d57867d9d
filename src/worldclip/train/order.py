"""The plan over a pool: which pair stands at a position of an epoch.

Windows: shards in the coin's order, `shuffle_shards` at a time, the pairs of a window shuffled together.
Streams: for object stores, where a shard is best read from its beginning to its end.  Stream s holds shards s,
s + num_streams, ... of the coin's order; pairs are taken round robin, and an exhausted stream leaves the round until
the epoch ends.  Neither depends on the number of processes or threads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from worldclip.train import plan
from worldclip.train.pairs import Pairs, PairSource, concat


class Order(Protocol):
    """Pairs by epoch and position within it."""

    def length(self, epoch: int) -> int:
        """Pairs of the epoch."""
        ...

    def pairs_at(self, epoch: int, positions: np.ndarray) -> Pairs:
        """The pairs at positions of an epoch, in the order of `positions`."""
        ...

    def owner(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """(n,) int64 from 0: the part of the pool that each position reads from, of `num_owners`."""
        ...

    @property
    def num_owners(self) -> int: ...


class Windows:
    """The indexed plan; images are read wherever they lie, so that any rank may read any position."""

    num_owners = 1

    def __init__(self, source: PairSource, names: Sequence[str], seed: int, shuffle_shards: int) -> None:
        self.source, self.names, self.seed, self.shuffle_shards = source, names, seed, shuffle_shards
        self._window = functools.lru_cache(maxsize=2)(self._read_window)  # a batch may span two
        self._layout = functools.lru_cache(maxsize=2)(self._epoch_layout)

    def length(self, epoch: int) -> int:
        return int(self.source.counts(epoch)[0].sum())

    def owner(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return np.zeros(len(positions), np.int64)

    def pairs_at(self, epoch: int, positions: np.ndarray) -> Pairs:
        starts = self._layout(epoch)[1]
        window_of = np.searchsorted(starts, positions, side="right") - 1
        parts = [
            self._window(epoch, int(window)).take(positions[window_of == window] - starts[window])
            for window in np.unique(window_of)
        ]
        return _in_given_order(parts, window_of)

    def _epoch_layout(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The epoch's windows (shard indices) and the position at which each starts."""
        found = plan.windows(plan.shard_order(self.names, self.seed, epoch), self.shuffle_shards)
        counts = self.source.counts(epoch)[0]
        lengths = [int(counts[window].sum()) for window in found]
        return found, np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)

    def _read_window(self, epoch: int, window: int) -> Pairs:
        """A window's pairs in their order."""
        pairs = concat([self.source.of(int(shard), epoch) for shard in self._layout(epoch)[0][window]])
        return pairs.take(plan.pair_order(pairs.keys, pairs.text_idx, self.seed, epoch))


class Streams:
    """Fixed streams; a rank reads its own ones, and a few pairs of others when theirs end first."""

    def __init__(self, source: PairSource, names: Sequence[str], seed: int, num_streams: int) -> None:
        self.source, self.names, self.seed, self.num_owners = source, names, seed, num_streams
        self._layout = functools.lru_cache(maxsize=2)(self._epoch_layout)

    def length(self, epoch: int) -> int:
        return int(self.source.counts(epoch)[0].sum())

    def owner(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return plan.locate_in_streams(positions, self._layout(epoch)[1])[0]

    def pairs_at(self, epoch: int, positions: np.ndarray) -> Pairs:
        shards, lengths = self._layout(epoch)
        stream, place = plan.locate_in_streams(positions, lengths)
        shard, row = np.empty_like(stream), np.empty_like(place)
        counts = self.source.counts(epoch)[0]
        for each in np.unique(stream):
            of_stream = stream == each
            starts = np.concatenate(([0], np.cumsum(counts[shards[each]])[:-1]))
            number = np.searchsorted(starts, place[of_stream], side="right") - 1
            shard[of_stream], row[of_stream] = shards[each][number], place[of_stream] - starts[number]
        parts = [self.source.of(int(each), epoch).take(row[shard == each]) for each in np.unique(shard)]
        return _in_given_order(parts, shard)

    def _epoch_layout(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Shard indices and number of pairs of each stream."""
        order, counts = plan.shard_order(self.names, self.seed, epoch), self.source.counts(epoch)[0]
        shards = [order[stream :: self.num_owners] for stream in range(self.num_owners)]
        return shards, np.array([int(counts[each].sum()) for each in shards], np.int64)


def _in_given_order(parts: Sequence[Pairs], group_of: np.ndarray) -> Pairs:
    """Parts by rising group, each in the order of its positions, as one in the order of all positions."""
    if len(parts) == 1:
        return parts[0]
    back = np.argsort(np.argsort(group_of, kind="stable"), kind="stable")
    return concat(parts).take(back)
