"""The epoch is a plan: which pair is at which position is a pure function of names, seed and epoch.

Shards are sorted by the hash of their names, and pairs by the hash of their keys; no generator has a state.  Training
reads the endless concatenation of epochs.  Batch k is positions [k * G, (k + 1) * G), whatever the world size: ranks
take slices.  Two orders exist:

Windows: `shuffle_shards` shards at a time, the pairs of a window shuffled together.  Images are read at random.
Streams: for object stores, where a shard is best read from beginning to end.  Stream s holds shards s,
s + num_streams, ... of the sorted list.  Pairs are taken round robin; an exhausted stream leaves the round until the
epoch ends.

G global batch size, n positions or pairs, L pairs of an epoch.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from worldclip.core.coin import ORDER, uniform
from worldclip.train.pairs import Pairs, PairSource, concat_pairs

# pure functions


def shard_order(names: Sequence[str], seed: int, epoch: int) -> np.ndarray:
    """Return the order of shards in an epoch: (num_shards,) int64 indices into `names`, which are sorted."""
    return np.argsort(uniform(names, 0, seed, epoch, ORDER), kind="stable")


def pair_order(keys: pa.Array, text_idx: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return the order of pairs in a window: (n,) int64 indices.

    Pairs with equal hashes (one pair in two shards) keep their order.
    """
    return np.argsort(uniform(keys, text_idx, seed, epoch, ORDER), kind="stable")


def batch_positions(step: int, global_batch_size: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """Return the int64 positions of this rank's slice of batch `step` in the concatenation of epochs."""
    first = rank * global_batch_size // world_size
    last = (rank + 1) * global_batch_size // world_size
    return step * global_batch_size + np.arange(first, last)


def skip(positions: np.ndarray, stretches: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the positions at which the n-th pairs stand if stretches [first, last) are left out.  int64.

    stretches: sorted and disjoint.
    """
    for first, last in stretches:
        positions = np.where(positions >= first, positions + (last - first), positions)
    return positions


def locate_in_streams(positions: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (stream, position within it) of positions of an epoch that reads streams of `lengths` pairs round robin.

    The epoch falls into phases.  A phase ends where the next shortest stream is exhausted, so that within a phase every
    round reads the same streams, and a division finds the round and the stream.

    Example: streams of [3, 1, 2] pairs.  Round 0 reads the streams 0, 1, 2, round 1 the streams 0, 2, round 2 stream 0.
    Positions 0 to 5 are therefore in the streams [0, 1, 2, 0, 2, 0], at the places [0, 0, 0, 1, 1, 2].  There are three
    phases of one round each: they begin at the rounds 0, 1, 2 and at the positions 0, 3, 5.
    """
    bounds = np.unique(np.append(lengths, 0))  # phase i is the rounds [bounds[i], bounds[i + 1])
    num_active = len(lengths) - np.searchsorted(np.sort(lengths), bounds[:-1], side="right")
    phase_starts = np.append(0, np.cumsum(np.diff(bounds) * num_active))
    phase_of = np.searchsorted(phase_starts, positions, side="right") - 1
    stream = np.empty(len(positions), np.int64)
    place = np.empty(len(positions), np.int64)
    for phase in np.unique(phase_of):
        rows = phase_of == phase
        active = np.flatnonzero(lengths > bounds[phase])
        round_, turn = np.divmod(positions[rows] - phase_starts[phase], len(active))
        stream[rows] = active[turn]
        place[rows] = bounds[phase] + round_
    return stream, place


def merge_ranges(file: np.ndarray, offset: np.ndarray, size: np.ndarray, max_gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge n byte ranges of files into fewer reads.

    Ranges of one file that are at most max_gap bytes apart become one read: a request to an object store costs more
    than the bytes between them.  Returns ((num_reads, 3) int64: file, start, end; (n,) int64: the read of each range).
    """
    order = np.lexsort((offset, file))
    sorted_file = file[order]
    start = offset[order]
    end = (offset + size)[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (sorted_file[1:] != sorted_file[:-1]) | (start[1:] > end[:-1] + max_gap)
    firsts = np.flatnonzero(is_new)
    reads = np.stack([sorted_file[firsts], start[firsts], np.maximum.reduceat(end, firsts)], axis=1)
    read_of = np.empty(len(order), np.int64)
    read_of[order] = np.cumsum(is_new) - 1
    return reads, read_of


def split_by_owner(owner: np.ndarray, num_owners: int, rank: int, world_size: int) -> np.ndarray:
    """Return this rank's rows of a batch: as many as every other rank's, first those of its own streams.

    Ranks own contiguous blocks of streams.  If streams end unevenly, the rows that one rank has too many go to the
    next.  The rows are sorted by the rank that owns them.

    Example: of 4 streams, rank 0 of 2 owns 0 and 1.  A batch of the streams [3, 0, 1, 0] has three rows of rank 0,
    [1, 2, 3], and one of rank 1, [0].  Each rank reads two: rank 0 the rows [1, 2], rank 1 the rows [3, 0].
    """
    order = np.argsort(owner * world_size // num_owners, kind="stable")
    return order[rank * len(owner) // world_size : (rank + 1) * len(owner) // world_size]


def replacement(position: int, draw: int, num_pairs: int, seed: int, epoch: int) -> int:
    """Return which of num_pairs pairs replaces the one at a position, which does not decode; draw = 1, 2, ..."""
    number: int = math.floor(uniform(str(position), draw, seed, epoch, ORDER) * num_pairs)
    return number


# over a pool


class Order(ABC):
    """Pairs of a pool by epoch and position."""

    def __init__(self, source: PairSource, seed: int) -> None:
        self.source = source
        self.names = [shard.name for shard in source.shards]
        self.seed = seed
        self._layout = functools.lru_cache(maxsize=2)(self._find_layout)  # a batch may span two epochs

    def length(self, epoch: int) -> int:
        """Return the number of pairs of an epoch."""
        return int(self.source.counts(epoch)[0].sum())

    @abstractmethod
    def pairs_at(self, epoch: int, positions: np.ndarray) -> Pairs:
        """Return the pairs at positions of an epoch, in the order of `positions`."""

    @abstractmethod
    def neighbours(self, epoch: int, position: int) -> Pairs:
        """Return the pairs, read already, among which the replacement of the one at a position is looked for."""

    @abstractmethod
    def group_shards(self, shards: np.ndarray) -> list[np.ndarray]:
        """Return the shards of each window or stream.  shards: the indices of all shards, in the order of an epoch."""

    def _find_layout(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Return (the shards of each window or stream of an epoch, (num_groups,) int64: its number of pairs)."""
        counts = self.source.counts(epoch)[0]
        groups = self.group_shards(shard_order(self.names, self.seed, epoch))
        return groups, np.array([counts[group].sum() for group in groups], np.int64)


class Windows(Order):
    """Shuffled windows of shards.  Images are read wherever they are, so that any rank may read any position."""

    def __init__(self, source: PairSource, seed: int, shuffle_shards: int) -> None:
        super().__init__(source, seed)
        self.shuffle_shards = shuffle_shards
        self._window = functools.lru_cache(maxsize=3)(self.read_window)  # a batch may span two; the next one
        self._ahead: dict[tuple[int, int], Future[Pairs]] = {}
        self._background = ThreadPoolExecutor(1, thread_name_prefix="window")

    def pairs_at(self, epoch: int, positions: np.ndarray) -> Pairs:
        starts = self._window_starts(epoch)
        window_of = np.searchsorted(starts, positions, side="right") - 1
        parts = []
        for window in np.unique(window_of).tolist():
            ahead = self._ahead.pop((epoch, window), None)
            if ahead is not None:
                ahead.result()
            parts.append(self._window(epoch, window).take(positions[window_of == window] - starts[window]))
        self._read_ahead(epoch, int(window_of.max()), int(positions.max()))
        return _ungroup(parts, window_of)

    def _read_ahead(self, epoch: int, window: int, position: int) -> None:
        """Read the window after `window` in the background once half of that one is over."""
        starts = self._window_starts(epoch)
        following = window + 1
        if following == len(starts) or 2 * position < starts[window] + starts[following]:
            return
        if (epoch, following) not in self._ahead:
            self._ahead = {(epoch, following): self._background.submit(self._window, epoch, following)}

    def neighbours(self, epoch: int, position: int) -> Pairs:
        """Return the pairs of the position's window."""
        return self._window(epoch, int(np.searchsorted(self._window_starts(epoch), position, side="right")) - 1)

    def _window_starts(self, epoch: int) -> np.ndarray:
        """Return the position at which each window of an epoch starts, (num_windows,) int64."""
        lengths = self._layout(epoch)[1]
        starts: np.ndarray = np.cumsum(lengths) - lengths
        return starts

    def group_shards(self, shards: np.ndarray) -> list[np.ndarray]:
        """Return the shards of each window.  The last window may be shorter."""
        size = self.shuffle_shards
        return [shards[start : start + size] for start in range(0, len(shards), size)]

    def read_window(self, epoch: int, window: int) -> Pairs:
        """Read the pairs of a window and shuffle them."""
        shards = self._layout(epoch)[0][window]
        pairs = concat_pairs([self.source.read_shard(int(shard), epoch) for shard in shards])
        return pairs.take(pair_order(pairs.keys, pairs.text_idx, self.seed, epoch))


class Streams(Order):
    """Fixed streams of shards.  A rank reads its own streams, and a few pairs of others when its streams end first."""

    def __init__(self, source: PairSource, seed: int, num_streams: int) -> None:
        super().__init__(source, seed)
        self.num_streams = num_streams

    def stream_of(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return (n,) int64 in [0, num_streams): the stream that each position reads."""
        return locate_in_streams(positions, self._layout(epoch)[1])[0]

    def pairs_at(self, epoch: int, positions: np.ndarray) -> Pairs:
        shard_of, row = self._places_of(epoch, positions)
        parts = []
        for shard in np.unique(shard_of):
            pairs = self.source.read_shard(int(shard), epoch)
            parts.append(pairs.take(row[shard_of == shard]))
        return _ungroup(parts, shard_of)

    def neighbours(self, epoch: int, position: int) -> Pairs:
        """Return the pairs of the position's shard."""
        return self.source.read_shard(int(self._places_of(epoch, np.array([position]))[0][0]), epoch)

    def _places_of(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (the shard of each position, the row in it)."""
        stream_shards, lengths = self._layout(epoch)
        stream_of, place = locate_in_streams(positions, lengths)
        counts = self.source.counts(epoch)[0]
        shard_of = np.empty_like(stream_of)
        row = np.empty_like(place)
        for stream in np.unique(stream_of):
            in_stream = stream_of == stream
            shards = stream_shards[stream]
            starts = np.cumsum(counts[shards]) - counts[shards]
            number = np.searchsorted(starts, place[in_stream], side="right") - 1
            shard_of[in_stream] = shards[number]
            row[in_stream] = place[in_stream] - starts[number]
        return shard_of, row

    def group_shards(self, shards: np.ndarray) -> list[np.ndarray]:
        """Return the shards of each stream."""
        return [shards[stream :: self.num_streams] for stream in range(self.num_streams)]


def _ungroup(parts: Sequence[Pairs], group_of: np.ndarray) -> Pairs:
    """Return the pairs of a batch in their order, from parts that each hold the pairs of one window or shard.

    parts: by ascending number of the window or shard.  group_of: (n,) the window or shard of each pair of the batch.

    Example: group_of is [7, 4, 7, 4].  The parts are the pairs 1 and 3, of group 4, and the pairs 0 and 2, of group 7.
    Laid end to end they are the pairs [1, 3, 0, 2], so that pair 0 is in row 2, pair 1 in row 0: rows [2, 0, 3, 1].
    """
    if len(parts) == 1:
        return parts[0]
    concatenated_pairs = np.argsort(group_of, kind="stable")
    row_of_pair = np.empty_like(concatenated_pairs)
    row_of_pair[concatenated_pairs] = np.arange(len(group_of))
    return concat_pairs(parts).take(row_of_pair)
