"""Count texts in two hash tables and write full tables as sorted runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.arrow import binary_array, byte_buffers
from worldclip.core.artifacts import whole_file
from worldclip.language.segment import Scheme
from worldclip.metadata.ngrams.kernels import WORDS, count_texts, refill, sort_bigrams, take_bigrams
from worldclip.metadata.ngrams.runs import Run, Words, write_run

# Tables of 2^24 bigrams x 16 bytes and 2^22 words keep a process near 1 GiB, sorting of a full table included.
MAX_BIGRAM_SLOTS = 2**24
MAX_WORDS = 2**22
MAX_ARENA_BYTES = 2**27
BATCH_BYTES = 2**15  # a batch and its tokens fit into the cache


Texts: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[str]


class Counter:
    """Counts texts; full tables are appended to a file as sorted runs, and several counts may share the file.

    `add` batches of texts, then `finish` for the runs.
    """

    def __init__(self, path: Path, file: BinaryIO, scheme: Scheme) -> None:
        """path: under which the runs will be read; file: where they are written to, at its end."""
        self.path = path
        self.file = file
        self.classes = scheme.classes()
        self.runs: list[Run] = []
        self.spans_N = np.empty(0, np.int64)
        self.keys_N = np.empty(0, np.uint64)
        self._start()

    def _start(self) -> None:
        """Begin with small empty tables; see kernels.py for their layout."""
        self.state = np.zeros(3, np.int64)
        self.slots_2S = np.zeros(2 * 2**13, np.uint64)
        self.starts_W = np.zeros(2**12, np.int64)
        self.counts_W = np.zeros(2**12, np.uint64)
        self.arena = np.zeros(2**15, np.uint8)
        self.table_2S = np.zeros(2 * 2**13, np.uint64)

    def add(self, texts: Texts) -> None:
        """Count the words and bigrams of texts, nulls left out.  No bigram crosses from one text to the next."""
        if not isinstance(texts, pa.Array | pa.ChunkedArray):
            texts = pa.array(texts, pa.large_string())
        chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
        for chunk in chunks:
            data, offsets_T = byte_buffers(chunk, fill_nulls=True)
            first = 0
            while first < offsets_T.size - 1:
                # As many texts as fit into a batch, at least one.
                last = int(np.searchsorted(offsets_T, offsets_T[first] + BATCH_BYTES, side="right")) - 1
                last = min(max(last, first + 1), offsets_T.size - 1)
                batch_T = offsets_T[first : last + 1]
                num_bytes = int(batch_T[-1] - batch_T[0])
                self._make_room(num_bytes, num_texts=batch_T.size - 1)
                num_tokens = num_bytes + 2 * batch_T.size
                if num_tokens > self.spans_N.size:
                    self.spans_N = np.empty(num_tokens, np.int64)
                    self.keys_N = np.empty(num_tokens, np.uint64)
                count_texts(
                    data, batch_T, self.classes, self.spans_N, self.keys_N,
                    self.slots_2S, self.starts_W, self.counts_W, self.arena, self.table_2S, self.state,
                )  # fmt: skip
                first = last

    def _make_room(self, num_bytes: int, num_texts: int) -> None:
        """Spill or grow the tables so that the compiled loops never have to.

        A text of n bytes has at most (n + 1) / 2 words: two words have a byte between them, or one has three.  No byte
        lies between two texts.  Empty texts have no word, so there are never more words than bytes.
        """
        num_words, num_arena, num_bigrams = self.state.tolist()
        new = min(num_bytes, (num_bytes + num_texts) // 2) + 1
        is_full = (
            num_words + new > MAX_WORDS
            or num_arena + num_bytes > MAX_ARENA_BYTES
            or 3 * (num_bigrams + new) > 2 * MAX_BIGRAM_SLOTS
        )
        if is_full and num_words:
            self.spill()
            num_words = num_arena = num_bigrams = 0
        if num_words + new + 2 > self.starts_W.size:
            self.starts_W = _grown(self.starts_W, num_words + new + 2)
            self.counts_W = _grown(self.counts_W, num_words + new + 2)
        if num_arena + num_bytes > self.arena.size:
            self.arena = _grown(self.arena, num_arena + num_bytes)
        # At most half of the words' slots and two thirds of the bigrams' are used.
        if 4 * (num_words + new) > self.slots_2S.size:
            self.slots_2S = _refilled(self.slots_2S, 2 * (num_words + new), 2 * MAX_WORDS, False)
        if 3 * (num_bigrams + new) > self.table_2S.size:
            self.table_2S = _refilled(self.table_2S, 3 * (num_bigrams + new) // 2, MAX_BIGRAM_SLOTS, True)

    def spill(self) -> None:
        """Write the tables as a sorted run and empty them."""
        num_words, num_arena, num_bigrams = self.state.tolist()
        words = binary_array(self.arena[:num_arena], self.starts_W[1 : num_words + 2])
        # From malloc, which returns large blocks at once; Arrow's own pool keeps hundreds of MB for later.
        malloc = pa.system_memory_pool()
        order_W = pc.sort_indices(words, memory_pool=malloc).to_numpy()
        ranks_W = np.empty(num_words + 1, np.uint32)
        ranks_W[order_W + 1] = np.arange(num_words, dtype=np.uint32)
        num_moved, largest = take_bigrams(self.table_2S, ranks_W)
        assert num_moved == num_bigrams
        pairs_B2 = self.table_2S[: 2 * num_bigrams].reshape(-1, 2)
        sort_bigrams(pairs_B2, num_words, int(largest))
        ordered = pc.take(words, pa.array(order_W), memory_pool=malloc)
        counts_W = self.counts_W[1 : num_words + 1][order_W]
        data, offsets_W = byte_buffers(ordered)
        self.runs.append(write_run(self.path, self.file, Words(data, offsets_W, counts_W), [pairs_B2]))
        self._start()

    def finish(self) -> list[Run]:
        """Write what is left; returns the runs that together hold all counts (none where no text had a word)."""
        if self.state[WORDS]:
            self.spill()
        return self.runs


def count_to_file(path: Path, batches: Iterable[Texts], scheme: Scheme) -> list[Run]:
    """Write the runs of all texts to the file `path` and return them."""
    with whole_file(path) as aside, open(aside, "wb") as file:
        counter = Counter(path, file, scheme)
        for texts in batches:
            counter.add(texts)
        return counter.finish()


def _power_of_two(at_least: int) -> int:
    return 1 << max(11, (at_least - 1).bit_length())


def _refilled(old_2S: np.ndarray, at_least: int, limit: int, is_bigrams: bool) -> np.ndarray:
    """Return a larger table with the same pairs: twice the slots needed now, as far as the limit allows."""
    num_slots = max(_power_of_two(at_least), min(_power_of_two(2 * at_least), _power_of_two(limit)))
    new_2S = np.zeros(2 * num_slots, np.uint64)
    refill(old_2S, new_2S, is_bigrams)
    return new_2S


def _grown(array: np.ndarray, at_least: int) -> np.ndarray:
    new = np.zeros(_power_of_two(at_least), array.dtype)
    new[: array.size] = array
    return new
