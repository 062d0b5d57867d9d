"""Exact unigram and bigram counts of a corpus in bounded memory, and their pointwise mutual information.

A Counter holds one hash table of words and one of pairs of words.  Full tables are sorted and written as a RUN: the
words in byte order, the pairs as two ranks in that order.  Merging runs renumbers words in a way that keeps their
order, so sorted pairs stay sorted and all of a merge is sequential reading.  Counts are exact, and the same for any
limit.

Legend: W words, S slots, B bigrams, T texts, N tokens of a batch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from worldclip.core import artifacts
from worldclip.language.segment import ALONE, BARRIER, WORD, Scheme

# Tables of 2^24 bigrams x 16 bytes and 2^22 words keep a process near 1 GiB, sorting of a full table included.  Merging
# holds the distinct words twice, 16 bytes and their letters each, and 4 bytes for each word of each run.
MAX_BIGRAM_SLOTS = 2**24
MAX_WORDS = 2**22
MAX_ARENA_BYTES = 2**27
BATCH_BYTES = 2**15  # a batch of texts can add half as many words and bigrams: room for them is made beforehand
FAN_IN = 16  # runs merged at once
MERGED_AT_ONCE = 2**20  # bigrams in memory while merging, of all runs together

_FNV_PRIME = np.uint64(0x100000001B3)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
_U0, _U1, _U2, _U29, _U32 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(29), np.uint64(32)
_LOW_32 = np.uint64(0xFFFFFFFF)

WORDS, ARENA, BIGRAMS, TOUCHED = 0, 1, 2, 3  # places of `state`
SHORT = 8  # bytes of a word that are its key


# --- counting ---------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, inline="always")
def _mixed(h):
    h = (h ^ (h >> _U32)) * _GOLDEN
    return h ^ (h >> _U29)


@njit(cache=True, nogil=True, inline="always")
def _key(data, start, end):
    """The key of the word data[start:end]: its bytes themselves up to 8 of them, then a hash of all."""
    key = _U0
    for k in range(min(end - start, SHORT)):
        key |= np.uint64(data[start + k]) << np.uint64(8 * k)
    if end - start > SHORT:
        key = _mixed(key)
        for k in range(start + SHORT, end):
            key = key * _FNV_PRIME ^ np.uint64(data[k])
    return key


@njit(cache=True, nogil=True)
def _number_words(data, base, spans_N, keys_N, slots_2S, starts_W, counts_W, arena, state):
    """Put ids, 1 or more, in place of the spans of words; new words are added, and all are counted.

    slots_2S: [2s] key, [2s + 1] length << 32 | id (0 where empty).  Equal keys of short words are equal words.
    """
    mask, num_words, used = np.uint64(slots_2S.size // 2 - 1), state[WORDS], state[ARENA]
    for n in range(spans_N.size):
        if spans_N[n] == 0:
            continue
        start, length, key = base + (spans_N[n] >> 32), spans_N[n] & 0xFFFFFFFF, keys_N[n]
        place, is_new = _mixed(key) & mask, True
        while slots_2S[place * _U2 + _U1] != _U0:
            slot = slots_2S[place * _U2 + _U1]
            if slots_2S[place * _U2] == key and np.int64(slot >> _U32) == length:
                word = np.int64(slot & _LOW_32)
                if length <= SHORT or _is_same(arena, starts_W[word], data, start, length):
                    is_new = False
                    break
            place = (place + _U1) & mask
        if is_new:
            num_words += 1
            word = num_words
            slots_2S[place * _U2], slots_2S[place * _U2 + _U1] = key, np.uint64(length) << _U32 | np.uint64(word)
            for k in range(length):
                arena[used + k] = data[start + k]
            used += length
            starts_W[word + 1], counts_W[word] = used, _U0
        counts_W[word] += _U1
        spans_N[n] = word
    state[WORDS], state[ARENA] = num_words, used


@njit(cache=True, nogil=True, inline="always")
def _is_same(arena, at, data, start, length):
    same = True
    for k in range(length):
        if arena[at + k] != data[start + k]:
            same = False
            break
    return same


@njit(cache=True, nogil=True)
def _count_bigrams(words_N, table_2S, state):
    """table_2S: [2s] key = first id << 32 | second id (0 where empty), [2s + 1] its count."""
    mask, num_bigrams, last = np.uint64(table_2S.size // 2 - 1), state[BIGRAMS], _U0
    for n in range(words_N.size):
        word = np.uint64(words_N[n])
        if last and word:
            key = last << _U32 | word
            place = _mixed(key * _FNV_PRIME) & mask
            while table_2S[place * _U2] != key and table_2S[place * _U2] != _U0:
                place = (place + _U1) & mask
            if table_2S[place * _U2] == _U0:
                table_2S[place * _U2] = key
                num_bigrams += 1
            table_2S[place * _U2 + _U1] += _U1
        last = word
    state[BIGRAMS] = num_bigrams


@njit(cache=True, nogil=True)
def _decode(data, at):
    """Code point at `at` of valid UTF-8, and its bytes."""
    a = np.int64(data[at])
    if a < 0xE0:
        return (a & 0x1F) << 6 | (data[at + 1] & 0x3F), 2
    if a < 0xF0:
        return (a & 0x0F) << 12 | np.int64(data[at + 1] & 0x3F) << 6 | (data[at + 2] & 0x3F), 3
    c = (a & 0x07) << 18 | np.int64(data[at + 1] & 0x3F) << 12 | np.int64(data[at + 2] & 0x3F) << 6
    return c | (data[at + 3] & 0x3F), 4


@njit(cache=True, nogil=True)
def _cut_tokens(data, offsets_T, classes, spans_N, keys_N):
    """Tokens of data[offsets_T[t] : offsets_T[t + 1]] for each t; returns their number.

    spans_N: start << 32 | length of each word relative to the first text, or 0 for a barrier; keys_N: see _key.
    """
    n, base = 0, np.int64(offsets_T[0])
    for t in range(offsets_T.size - 1):
        at, end = np.int64(offsets_T[t]), np.int64(offsets_T[t + 1])
        while True:
            start, is_word, kind, width = at, False, BARRIER, 1
            while at < end:
                if data[at] < 0x80:
                    kind, width = classes[data[at]], 1
                else:
                    c, width = _decode(data, at)
                    kind = classes[c]
                if kind > WORD:
                    break
                is_word |= kind == WORD
                at += width
            if at > start:
                spans_N[n], keys_N[n] = (start - base) << 32 | (at - start) if is_word else 0, _key(data, start, at)
                n += 1
            if at >= end:
                kind = BARRIER
            if kind == ALONE:
                spans_N[n], keys_N[n] = (at - base) << 32 | width, _key(data, at, at + width)
                n += 1
            elif kind == BARRIER and (n == 0 or spans_N[n - 1] != 0):
                spans_N[n] = 0
                n += 1
            if at >= end:
                break
            at += width
    return n


@njit(cache=True, nogil=True)
def _touch_words(keys_N, slots_2S):
    """Read the slots that a batch's words will look at: reads overlap their cache misses, look-ups wait for them."""
    mask, seen = np.uint64(slots_2S.size // 2 - 1), _U0
    for n in range(keys_N.size):
        seen ^= slots_2S[(_mixed(keys_N[n]) & mask) * _U2 + _U1]
    return seen


@njit(cache=True, nogil=True)
def _touch_bigrams(words_N, table_2S):
    """The same for bigrams."""
    mask, seen = np.uint64(table_2S.size // 2 - 1), _U0
    for n in range(1, words_N.size):
        key = np.uint64(words_N[n - 1]) << _U32 | np.uint64(words_N[n])
        seen ^= table_2S[(_mixed(key * _FNV_PRIME) & mask) * _U2]
    return seen


@njit(cache=True, nogil=True)
def _count_texts(data, offsets_T, classes, spans_N, keys_N, slots_2S, starts_W, counts_W, arena, table_2S, state):
    """Count words and bigrams of texts; the tables have room.

    One loop after the other over a batch that fits into the cache: cut, touch, look up, touch, count.
    """
    num_tokens = _cut_tokens(data, offsets_T, classes, spans_N, keys_N)
    spans_N, keys_N = spans_N[:num_tokens], keys_N[:num_tokens]
    state[TOUCHED] = np.int64(_touch_words(keys_N, slots_2S) >> _U32)  # kept, or the compiler drops it
    _number_words(data, offsets_T[0], spans_N, keys_N, slots_2S, starts_W, counts_W, arena, state)
    state[TOUCHED] ^= np.int64(_touch_bigrams(spans_N, table_2S) >> _U32)
    _count_bigrams(spans_N, table_2S, state)


@njit(cache=True, nogil=True)
def _refill_slots(old_2S, new_2S):
    mask = np.uint64(new_2S.size // 2 - 1)
    for old in range(0, old_2S.size, 2):
        if old_2S[old + 1] != _U0:
            place = _mixed(old_2S[old]) & mask
            while new_2S[place * _U2 + _U1] != _U0:
                place = (place + _U1) & mask
            new_2S[place * _U2], new_2S[place * _U2 + _U1] = old_2S[old], old_2S[old + 1]


@njit(cache=True, nogil=True)
def _refill_bigrams(old_2S, new_2S):
    mask = np.uint64(new_2S.size // 2 - 1)
    for old in range(0, old_2S.size, 2):
        if old_2S[old] != _U0:
            place = _mixed(old_2S[old] * _FNV_PRIME) & mask
            while new_2S[place * _U2] != _U0:
                place = (place + _U1) & mask
            new_2S[place * _U2], new_2S[place * _U2 + _U1] = old_2S[old], old_2S[old + 1]


@njit(cache=True, nogil=True)
def _compact(table_2S):
    """Move the table's bigrams to its front; returns their number."""
    used = 0
    for place in range(0, table_2S.size, 2):
        if table_2S[place] != _U0:
            table_2S[2 * used], table_2S[2 * used + 1] = table_2S[place], table_2S[place + 1]
            used += 1
    return used


@njit(cache=True, nogil=True)
def _to_ranks(table_2S, num_bigrams, ranks_W):
    """Put ranks in place of ids in the keys of a compacted table; returns the largest count."""
    largest = _U0
    for i in range(0, 2 * num_bigrams, 2):
        key = table_2S[i]
        table_2S[i] = np.uint64(ranks_W[key >> _U32]) << _U32 | np.uint64(ranks_W[key & _LOW_32])
        largest = max(largest, table_2S[i + 1])
    return largest


@njit(cache=True, nogil=True)
def _pack(pairs_B2, bits, count_bits):
    """Two ranks of `bits` and a count of `count_bits` in one number each, which sort as the ranks do."""
    packed_B = np.empty(pairs_B2.shape[0], np.uint64)
    for i in range(packed_B.size):
        key = pairs_B2[i, 0]
        packed_B[i] = ((key >> _U32) << bits | (key & _LOW_32)) << count_bits | pairs_B2[i, 1]
    return packed_B


@njit(cache=True, nogil=True)
def _unpack(packed_B, bits, count_bits, pairs_B2):
    for i in range(packed_B.size):
        key = packed_B[i] >> count_bits
        pairs_B2[i, 0] = (key >> bits) << _U32 | (key & ((_U1 << bits) - _U1))
        pairs_B2[i, 1] = packed_B[i] & ((_U1 << count_bits) - _U1)


def _sort_bigrams(pairs_B2: np.ndarray, num_words: int, largest: int) -> None:
    """Sort (key, count) by key in place: as one number each where the bits suffice, which is several times faster."""
    bits = max(1, int(num_words - 1).bit_length())
    count_bits = 64 - 2 * bits
    if largest >> count_bits:
        order_B = np.argsort(pairs_B2[:, 0])
        pairs_B2[:] = pairs_B2[order_B]
        return
    packed_B = _pack(pairs_B2, np.uint64(bits), np.uint64(count_bits))
    packed_B.sort()
    _unpack(packed_B, np.uint64(bits), np.uint64(count_bits), pairs_B2)


class Counter:
    """Counts texts; what does not fit into memory goes to runs under `folder`.

    `add` batches of texts, then `finish` for the runs.  The folder is emptied first: a counter that was interrupted
    starts over.
    """

    def __init__(
        self,
        folder: Path,
        scheme: Scheme,
        *,
        max_bigram_slots: int = MAX_BIGRAM_SLOTS,
        max_words: int = MAX_WORDS,
        max_arena_bytes: int = MAX_ARENA_BYTES,
    ) -> None:
        self.folder, self.scheme, self.classes = folder, scheme, scheme.classes()
        self.max_bigram_slots, self.max_words, self.max_arena_bytes = max_bigram_slots, max_words, max_arena_bytes
        self.runs: list[Path] = []
        self.spans_N, self.keys_N = np.empty(0, np.int64), np.empty(0, np.uint64)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._start()

    def _start(self) -> None:
        self.state = np.zeros(4, np.int64)
        self.slots_2S = np.zeros(2 * 2**13, np.uint64)
        self.starts_W = np.zeros(2**12, np.int64)
        self.counts_W = np.zeros(2**12, np.uint64)
        self.arena = np.zeros(2**15, np.uint8)
        self.table_2S = np.zeros(2 * 2**13, np.uint64)

    def add(self, texts: pa.Array | pa.ChunkedArray | Sequence[str]) -> None:
        """Count the words and bigrams of texts, nulls left out.  No bigram crosses from one text to the next."""
        if not isinstance(texts, pa.Array | pa.ChunkedArray):
            texts = pa.array(texts, pa.large_string())
        chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
        for chunk in chunks:
            data, offsets_T = _buffers(chunk)
            first = 0
            while first < offsets_T.size - 1:
                # As many texts as fit into a batch, at least one.
                last = int(np.searchsorted(offsets_T, offsets_T[first] + BATCH_BYTES, side="right")) - 1
                last = min(max(last, first + 1), offsets_T.size - 1)
                num_bytes = int(offsets_T[last] - offsets_T[first])
                self._make_room(num_bytes)
                num_tokens = num_bytes + 2 * (last - first) + 2
                if num_tokens > self.spans_N.size:
                    self.spans_N, self.keys_N = np.empty(num_tokens, np.int64), np.empty(num_tokens, np.uint64)
                _count_texts(
                    data, offsets_T[first : last + 1], self.classes, self.spans_N, self.keys_N,
                    self.slots_2S, self.starts_W, self.counts_W, self.arena, self.table_2S, self.state,
                )  # fmt: skip
                first = last

    def _make_room(self, num_bytes: int) -> None:
        """Room for all that `num_bytes` of text can add: two words have a byte between them, or one has three."""
        words = bigrams = num_bytes // 2 + 1
        arena = num_bytes
        num_words, used, num_bigrams, _ = (int(n) for n in self.state)
        full = (
            num_words + words > self.max_words
            or used + arena > self.max_arena_bytes
            or 3 * (num_bigrams + bigrams) > 2 * self.max_bigram_slots
        )
        if full and num_words:
            self.spill()
            num_words = used = num_bigrams = 0
        if num_words + words + 2 > self.starts_W.size:
            self.starts_W = _grown(self.starts_W, num_words + words + 2)
            self.counts_W = _grown(self.counts_W, num_words + words + 2)
        if used + arena > self.arena.size:
            self.arena = _grown(self.arena, used + arena)
        if 4 * (num_words + words) > self.slots_2S.size:
            old_2S, self.slots_2S = (
                self.slots_2S,
                np.zeros(2 * _roomy(2 * (num_words + words), 2 * self.max_words), np.uint64),
            )
            _refill_slots(old_2S, self.slots_2S)
        if 3 * (num_bigrams + bigrams) > self.table_2S.size:
            old = self.table_2S
            self.table_2S = np.zeros(2 * _roomy(3 * (num_bigrams + bigrams) // 2, self.max_bigram_slots), np.uint64)
            _refill_bigrams(old, self.table_2S)

    def spill(self) -> None:
        """Write the tables as a sorted run and empty them."""
        num_words, used, num_bigrams, _ = (int(n) for n in self.state)
        run = self.folder / f"run_{len(self.runs):05}"
        starts_W = self.starts_W[1 : num_words + 2]
        words = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), num_words, [None, pa.py_buffer(starts_W), pa.py_buffer(self.arena[:used])]
        )
        # From malloc, which gives large blocks back at once: Arrow's own pool keeps hundreds of MB for the next time.
        order_W = pc.sort_indices(words, memory_pool=pa.system_memory_pool()).to_numpy()
        ranks_W = np.empty(num_words + 1, np.uint32)
        ranks_W[order_W + 1] = np.arange(num_words, dtype=np.uint32)
        ordered = pc.take(words, pa.array(order_W), memory_pool=pa.system_memory_pool())
        write_words(run, ordered, self.counts_W[1 : num_words + 1][order_W])
        del words, order_W, ordered
        assert _compact(self.table_2S) == num_bigrams
        largest = _to_ranks(self.table_2S, num_bigrams, ranks_W)
        pairs_B2 = self.table_2S[: 2 * num_bigrams].reshape(-1, 2)
        _sort_bigrams(pairs_B2, num_words, int(largest))
        with BigramWriter(run) as writer:
            writer.add(pairs_B2)
        self.runs.append(run)
        self._start()

    def finish(self) -> list[Path]:
        """Write what is left; the runs that hold all counts (none where no text had a word)."""
        if self.state[WORDS]:
            self.spill()
        return self.runs


def _buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes and int64 offsets of a string array; nulls are empty."""
    if texts.null_count:
        texts = texts.fill_null("")
    large = texts.cast(pa.large_string())
    _, offsets, data = large.buffers()
    if data is None or len(large) == 0:
        return np.zeros(0, np.uint8), np.zeros(len(large) + 1, np.int64)
    offsets_T = np.frombuffer(offsets, np.int64)[large.offset : large.offset + len(large) + 1]
    return np.frombuffer(data, np.uint8), offsets_T


def _power_of_two(at_least: int) -> int:
    return 1 << max(11, (at_least - 1).bit_length())


def _roomy(at_least: int, limit: int) -> int:
    """A power of two for a table that will grow: twice what is needed now, as far as the limit allows."""
    return max(_power_of_two(at_least), min(_power_of_two(2 * at_least), _power_of_two(limit)))


def _grown(array: np.ndarray, at_least: int) -> np.ndarray:
    new = np.zeros(_power_of_two(at_least), array.dtype)
    new[: array.size] = array
    return new


# --- runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Words:
    """Words in byte order: bytes (,) uint8, offsets (W + 1,) int64, counts (W,) uint64."""

    data: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return self.counts.size

    def word(self, rank: int) -> str:
        return self.data[self.offsets[rank] : self.offsets[rank + 1]].tobytes().decode()


def write_words(run: Path, words: pa.LargeBinaryArray, counts_W: np.ndarray) -> None:
    _, offsets, data = words.buffers()
    offsets_W = np.frombuffer(offsets, np.int64)[: len(words) + 1]
    artifacts.write_array(run / "word_bytes.npy", np.frombuffer(data, np.uint8)[: offsets_W[-1]])
    artifacts.write_array(run / "word_offsets.npy", offsets_W)
    artifacts.write_array(run / "word_counts.npy", counts_W)


def read_words(run: Path) -> Words:
    return Words(*(np.load(run / f"word_{name}.npy") for name in ("bytes", "offsets", "counts")))


class BigramWriter:
    """Writes sorted bigrams chunk by chunk: `bigrams`, raw little-endian uint64 pairs (key, count)."""

    def __init__(self, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.file = open(run / "bigrams", "wb")  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> BigramWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._named():
            self.file.flush()
            os.fsync(self.file.fileno())  # as write_artifact: what is called counted is on the disk
            self.file.close()

    def add(self, pairs_B2: np.ndarray) -> None:
        with self._named():
            self.file.write(np.ascontiguousarray(pairs_B2, "<u8").data)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """A write does not say by itself where the disk is full."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or self.file.name
            raise


def iter_bigrams(run: Path, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(keys uint64, counts uint64) of a run in rising order, read in chunks: nothing is mapped into memory."""
    with open(run / "bigrams", "rb") as file:
        while data := file.read(16 * chunk):
            pairs = np.frombuffer(data, "<u8").reshape(-1, 2)
            yield pairs[:, 0], pairs[:, 1]


@njit(cache=True, nogil=True)
def _compare(data_a, start_a, end_a, data_b, start_b, end_b):
    """Negative, 0 or positive as the bytes of a sort before, with or behind those of b."""
    for k in range(min(end_a - start_a, end_b - start_b)):
        difference = np.int64(data_a[start_a + k]) - np.int64(data_b[start_b + k])
        if difference:
            return difference
    return (end_a - start_a) - (end_b - start_b)


@njit(cache=True, nogil=True)
def _merge_two(data_a, offsets_a, counts_a, data_b, offsets_b, counts_b):
    """Union of two sorted lists of words: bytes, offsets, counts, and the new rank of each word of a and of b.

    The union's arrays are fronts of longer ones: pages behind them are never touched, so they take no memory.
    """
    num_a, num_b = counts_a.size, counts_b.size
    data = np.empty(data_a.size + data_b.size, np.uint8)
    offsets, counts = np.empty(num_a + num_b + 1, np.int64), np.empty(num_a + num_b, np.uint64)
    offsets[0] = 0
    ranks_a, ranks_b = np.empty(num_a, np.uint32), np.empty(num_b, np.uint32)
    a = b = rank = at = 0
    while a < num_a or b < num_b:
        order = 0
        if a == num_a:
            order = 1
        elif b == num_b:
            order = -1
        else:
            order = _compare(data_a, offsets_a[a], offsets_a[a + 1], data_b, offsets_b[b], offsets_b[b + 1])
        count = _U0
        if order <= 0:
            for k in range(offsets_a[a], offsets_a[a + 1]):
                data[at] = data_a[k]
                at += 1
            count += counts_a[a]
            ranks_a[a] = rank
            a += 1
        else:
            for k in range(offsets_b[b], offsets_b[b + 1]):
                data[at] = data_b[k]
                at += 1
        if order >= 0:
            count += counts_b[b]
            ranks_b[b] = rank
            b += 1
        counts[rank] = count
        rank += 1
        offsets[rank] = at
    return data[:at], offsets[: rank + 1], counts[:rank], ranks_a, ranks_b


def merge_words(lists: Iterable[Words]) -> tuple[Words, list[np.ndarray]]:
    """Union of sorted lists of words, and for each list the new rank of each of its words (uint32).

    At least one list; each is read when it is its turn, so that one of them and the union are in memory.
    """
    rest = iter(lists)
    merged = next(rest)
    ranks = [np.arange(len(merged), dtype=np.uint32)]
    for other in rest:
        *parts, ranks_a, ranks_b = _merge_two(
            merged.data, merged.offsets, merged.counts, other.data, other.offsets, other.counts
        )
        merged = Words(*parts)
        for n, old in enumerate(ranks):  # one by one, so that not all of them are in memory twice
            ranks[n] = ranks_a[old]
        ranks.append(ranks_b)
    return merged, ranks


class _Head:
    """The unread front of a run's bigrams, renumbered."""

    def __init__(self, run: Path, ranks_W: np.ndarray, chunk: int) -> None:
        self.chunks, self.ranks_W = iter_bigrams(run, chunk), ranks_W
        self.keys, self.counts = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        self.is_done = False
        self.fill()

    def fill(self) -> None:
        """Read on where nothing is left."""
        if self.keys.size or self.is_done:
            return
        chunk = next(self.chunks, None)
        if chunk is None:
            self.is_done = True
            return
        keys, counts = chunk
        high, low = self.ranks_W[keys >> _U32].astype(np.uint64), self.ranks_W[keys & _LOW_32].astype(np.uint64)
        self.keys, self.counts = high << _U32 | low, counts

    def take(self, upto: np.uint64) -> tuple[np.ndarray, np.ndarray]:
        """What has a key <= `upto`."""
        cut = int(np.searchsorted(self.keys, upto, side="right"))
        taken = self.keys[:cut], self.counts[:cut]
        self.keys, self.counts = self.keys[cut:], self.counts[cut:]
        return taken


def _merge_bigrams(
    runs: Sequence[Path], ranks: Sequence[np.ndarray], at_once: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sorted (keys, counts) of all runs, equal keys summed; about `at_once` of them are in memory."""
    chunk = max(1, at_once // max(1, len(runs)))
    heads = [_Head(run, ranks_W, chunk) for run, ranks_W in zip(runs, ranks, strict=True)]
    while live := [head for head in heads if not head.is_done]:
        upto = min(head.keys[-1] for head in live)  # every bigram up to here is in memory
        parts = [head.take(upto) for head in live]
        keys, counts = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        firsts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        yield keys[firsts], np.add.reduceat(counts, firsts)
        for head in live:
            head.fill()


@dataclass(frozen=True, slots=True)
class Counts:
    """All of a corpus: its words with their counts, and the runs that hold its bigrams."""

    words: Words
    runs: tuple[Path, ...]
    ranks: tuple[np.ndarray, ...]

    @property
    def num_tokens(self) -> int:
        return int(self.words.counts.sum())

    def iter_bigrams(self, at_once: int = MERGED_AT_ONCE) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(keys uint64 = rank of the first word << 32 | rank of the second, counts uint64), rising, in chunks."""
        return _merge_bigrams(self.runs, self.ranks, at_once)


def merge(runs: Sequence[Path], scratch: Path, fan_in: int = FAN_IN) -> Counts:
    """The sum of any number of runs.  More than `fan_in` are merged by groups first, into `scratch`."""
    runs, scratch_runs = list(runs), 0
    while len(runs) > fan_in:
        group, runs = runs[:fan_in], runs[fan_in:]
        words, ranks = merge_words(map(read_words, group))
        merged = scratch / f"merged_{scratch_runs:05}"
        binary = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(words), [None, pa.py_buffer(words.offsets), pa.py_buffer(words.data)]
        )
        write_words(merged, binary, words.counts)
        with BigramWriter(merged) as writer:
            for keys_B, counts_B in _merge_bigrams(group, ranks, MERGED_AT_ONCE):
                writer.add(np.stack([keys_B, counts_B], axis=1))
        for run in group:
            if run.parent == scratch:
                shutil.rmtree(run)
        runs.append(merged)
        scratch_runs += 1
    if not runs:
        nothing = Words(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.uint64))
        return Counts(nothing, (), ())
    words, ranks = merge_words(map(read_words, runs))
    return Counts(words, tuple(runs), tuple(ranks))


# --- choosing ---------------------------------------------------------------------------------------------------------


def iter_unigrams(counts: Counts, *, top_fraction: float = 1.0, min_count: int = 1) -> Iterator[tuple[str, float]]:
    """(word, count) by falling count, equal ones in byte order: the top share (rounded up) of the distinct words."""
    words = counts.words
    top = int(np.ceil(top_fraction * len(words)))
    order_W = np.argsort(-words.counts.astype(np.int64), kind="stable")[:top]
    for rank in order_W.tolist():
        if words.counts[rank] < min_count:
            return
        yield words.word(rank), float(words.counts[rank])


def best_bigrams(
    counts: Counts, joiner: str, *, limit: int, min_count: int = 1, min_pmi: float = -np.inf
) -> list[tuple[str, float]]:
    """(bigram, PMI) by falling PMI = log2(c(ab) N / (c(a) c(b))), N the tokens of the corpus; at most `limit`.

    Bigrams seen at least `min_count` times with PMI >= `min_pmi`.  Equal ones: the more frequent first, then in byte
    order.  The order is that of the quotient itself, so it does not hang on a processor's logarithm.
    """
    num_tokens, counts_W = counts.num_tokens, counts.words.counts.astype(np.float64)
    best = [np.zeros(0), np.zeros(0, np.uint64), np.zeros(0, np.uint64)]  # quotient, count, key
    least = 0.0  # of the best so far, where there are `limit` of them
    for keys_B, counts_B in counts.iter_bigrams():
        chosen = counts_B >= min_count
        keys_B, counts_B = keys_B[chosen], counts_B[chosen]
        first, second = (keys_B >> _U32).astype(np.int64), (keys_B & _LOW_32).astype(np.int64)
        quotient = counts_B / (counts_W[first] * counts_W[second])
        chosen = quotient >= least
        more = quotient[chosen], counts_B[chosen], keys_B[chosen]
        best = [np.concatenate(pair) for pair in zip(best, more, strict=True)]
        if best[0].size > 2 * limit:
            best = _keep_best(best, limit)
            least = best[0][-1] if limit else np.inf
    quotient, _, keys_B = _keep_best(best, limit)
    pmi = np.log2(quotient * num_tokens)
    is_good = pmi >= min_pmi
    word = counts.words.word
    return [
        (f"{word(key >> 32)}{joiner}{word(key & 0xFFFFFFFF)}", score)
        for key, score in zip(keys_B[is_good].tolist(), pmi[is_good].tolist(), strict=True)
    ]


def iter_bigrams_by_pmi(
    counts: Counts, joiner: str, *, first: int, min_count: int = 1, min_pmi: float = -np.inf
) -> Iterator[tuple[str, float]]:
    """All of `best_bigrams`, as far as they are asked for: `first` of them are found at once, more by reading again."""
    limit, done = first, 0
    while True:
        found = best_bigrams(counts, joiner, limit=limit, min_count=min_count, min_pmi=min_pmi)
        yield from found[done:]
        if len(found) < limit:
            return
        limit, done = 2 * limit, limit


def _keep_best(best: list[np.ndarray], limit: int) -> list[np.ndarray]:
    quotient, counts_B, keys_B = best
    order = np.lexsort((keys_B, -counts_B.astype(np.int64), -quotient))[:limit]
    return [quotient[order], counts_B[order], keys_B[order]]
