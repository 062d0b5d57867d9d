"""Cut texts into tokens and count words and pairs of words in hash tables; compiled.

slots_2S  words: [2s] key of a word, [2s + 1] its length << 32 | its id, 0 where the slot is empty
table_2S  bigrams: [2s] first id << 32 | second id, [2s + 1] its count, 0 where the slot is empty
arena     bytes of all words, one after the other; word `id` is arena[starts_W[id] : starts_W[id + 1]], ids begin at 1
"""

from __future__ import annotations

import numpy as np

from worldclip.kernels.byte_table import same_bytes
from worldclip.kernels.llvm import inlined, inner, kernel, prefetch
from worldclip.kernels.utf8 import decode, word_at
from worldclip.language.segment import ALONE, BARRIER, WORD

_FNV_PRIME = np.uint64(0x100000001B3)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
_U0, _U1, _U29, _U32 = np.uint64(0), np.uint64(1), np.uint64(29), np.uint64(32)
_LOW_32 = np.uint64(0xFFFFFFFF)

SHORT = 8  # bytes of a word that are its key
# Positions in `state`.
WORDS = 0  # number of words
ARENA = 1  # bytes of the arena
BIGRAMS = 2  # number of bigrams


@kernel
def count_texts(data, offsets_T, classes, spans_N, keys_N, slots_2S, starts_W, counts_W, arena, table_2S, state):
    """Count words and bigrams of texts; the tables must have room.

    A batch fits into the cache, and one loop after the other goes over it: cut, prefetch, look up, prefetch, count.
    Prefetches overlap their cache misses, look-ups would wait for each other's.
    """
    num_tokens = _cut_tokens(data, offsets_T, classes, spans_N, keys_N)
    spans_N = spans_N[:num_tokens]
    keys_N = keys_N[:num_tokens]
    last_slot = np.uint64(slots_2S.size // 2 - 1)
    for n in range(num_tokens):
        prefetch(slots_2S, 2 * np.int64(_mixed(keys_N[n]) & last_slot))
    _number_words(data, offsets_T[0], spans_N, keys_N, slots_2S, starts_W, counts_W, arena, state)
    last_slot = np.uint64(table_2S.size // 2 - 1)
    for n in range(1, num_tokens):
        key = np.uint64(spans_N[n - 1]) << _U32 | np.uint64(spans_N[n])
        prefetch(table_2S, 2 * np.int64(_mixed(key * _FNV_PRIME) & last_slot))
    _count_bigrams(spans_N, table_2S, state)


@inlined
def _mixed(h):
    h = (h ^ (h >> _U32)) * _GOLDEN
    return h ^ (h >> _U29)


@inlined
def _key(data, start, end):
    """Return the key of the word data[start:end]: its bytes themselves up to 8 of them, else a hash of all.

    A word of up to 8 bytes, as most are, is thus compared without reading it from the arena.
    """
    key = _U0
    for k in range(min(end - start, SHORT)):
        key |= np.uint64(data[start + k]) << np.uint64(8 * k)
    if end - start > SHORT:
        key = _mixed(key)
        for k in range(start + SHORT, end):
            key = key * _FNV_PRIME ^ np.uint64(data[k])
    return key


@inner
def _cut_tokens(data, offsets_T, classes, spans_N, keys_N):
    """Cut the texts data[offsets_T[t] : offsets_T[t + 1]] into tokens; returns their number.

    spans_N: start << 32 | length of each word, relative to the first text, or 0 for a barrier; keys_N: see _key.
    Barriers in a row are one, and a text ends in one.
    """
    n = 0
    base = np.int64(offsets_T[0])
    for t in range(offsets_T.size - 1):
        at = np.int64(offsets_T[t])
        end = np.int64(offsets_T[t + 1])
        while True:
            start = at
            is_word = False
            kind = BARRIER
            width = 1
            while at < end:
                if data[at] < 0x80:
                    kind = classes[data[at]]
                    width = 1
                else:
                    c, width = decode(word_at(data, at), end - at)
                    kind = classes[c]
                if kind > WORD:
                    break
                is_word |= kind == WORD
                at += width
            if at > start:
                spans_N[n] = (start - base) << 32 | (at - start) if is_word else 0
                keys_N[n] = _key(data, start, at)
                n += 1
            if at >= end:
                kind = BARRIER
            if kind == ALONE:
                spans_N[n] = (at - base) << 32 | width
                keys_N[n] = _key(data, at, at + width)
                n += 1
            elif kind == BARRIER and (n == 0 or spans_N[n - 1] != 0):
                spans_N[n] = 0
                n += 1
            if at >= end:
                break
            at += width
    return n


@inner
def _number_words(data, base, spans_N, keys_N, slots_2S, starts_W, counts_W, arena, state):
    """Replace the spans of words by ids; new words are added, and all are counted.

    Equal keys of words of up to SHORT bytes are equal words; longer ones are compared with the arena.
    """
    mask = np.uint64(slots_2S.size // 2 - 1)
    num_words = state[WORDS]
    used = state[ARENA]
    for n in range(spans_N.size):
        if spans_N[n] == 0:
            continue
        start = base + (spans_N[n] >> 32)
        length = spans_N[n] & 0xFFFFFFFF
        key = keys_N[n]
        place = np.int64(_mixed(key) & mask)
        word = 0
        while slots_2S[2 * place + 1] != _U0:
            slot = slots_2S[2 * place + 1]
            if slots_2S[2 * place] == key and np.int64(slot >> _U32) == length:
                candidate = np.int64(slot & _LOW_32)
                first = starts_W[candidate]
                if length <= SHORT or same_bytes(arena, first, first + length, data, start, start + length):
                    word = candidate
                    break
            place = np.int64(np.uint64(place + 1) & mask)
        if word == 0:
            num_words += 1
            word = num_words
            slots_2S[2 * place] = key
            slots_2S[2 * place + 1] = np.uint64(length) << _U32 | np.uint64(word)
            for k in range(length):
                arena[used + k] = data[start + k]
            used += length
            starts_W[word + 1] = used
            counts_W[word] = _U0
        counts_W[word] += _U1
        spans_N[n] = word
    state[WORDS] = num_words
    state[ARENA] = used


@inner
def _count_bigrams(words_N, table_2S, state):
    """Count each pair of neighbouring words; 0 in words_N is a barrier."""
    mask = np.uint64(table_2S.size // 2 - 1)
    num_bigrams = state[BIGRAMS]
    last = _U0
    for n in range(words_N.size):
        word = np.uint64(words_N[n])
        if last and word:
            key = last << _U32 | word
            place = np.int64(_mixed(key * _FNV_PRIME) & mask)
            while table_2S[2 * place] != key and table_2S[2 * place] != _U0:
                place = np.int64(np.uint64(place + 1) & mask)
            if table_2S[2 * place] == _U0:
                table_2S[2 * place] = key
                num_bigrams += 1
            table_2S[2 * place + 1] += _U1
        last = word
    state[BIGRAMS] = num_bigrams


@kernel
def refill(old_2S, new_2S, is_bigrams):
    """Put all pairs of a table into a larger, empty one: of words, or of bigrams."""
    mask = np.uint64(new_2S.size // 2 - 1)
    factor = _FNV_PRIME if is_bigrams else _U1
    for old in range(0, old_2S.size, 2):
        if old_2S[old + 1] != _U0:
            place = np.int64(_mixed(old_2S[old] * factor) & mask)
            while new_2S[2 * place + 1] != _U0:
                place = np.int64(np.uint64(place + 1) & mask)
            new_2S[2 * place] = old_2S[old]
            new_2S[2 * place + 1] = old_2S[old + 1]


@kernel
def take_bigrams(table_2S, ranks_W):
    """Move the bigrams to the front of their table, ids replaced by ranks; return (their number, the largest count)."""
    used = 0
    largest = _U0
    for place in range(0, table_2S.size, 2):
        key, count = table_2S[place], table_2S[place + 1]
        if count != _U0:
            table_2S[used] = np.uint64(ranks_W[key >> _U32]) << _U32 | np.uint64(ranks_W[key & _LOW_32])
            table_2S[used + 1] = count
            used += 2
            largest = max(largest, count)
    return used // 2, largest


def sort_bigrams(pairs_B2: np.ndarray, num_words: int, largest: int) -> None:
    """Sort bigrams (key, count) by key in place.

    Two ranks and a count mostly fit into 64 bits, and numpy sorts plain numbers several times faster than it argsorts.
    """
    bits = max(1, int(num_words - 1).bit_length())
    count_bits = 64 - 2 * bits
    if largest >> count_bits:
        order_B = np.argsort(pairs_B2[:, 0])
        pairs_B2[:] = pairs_B2[order_B]
        return
    packed_B = _pack(pairs_B2, np.uint64(bits), np.uint64(count_bits))
    packed_B.sort()
    _unpack(packed_B, np.uint64(bits), np.uint64(count_bits), pairs_B2)


@kernel
def _pack(pairs_B2, bits, count_bits):
    """Return two ranks of `bits` and a count of `count_bits` as one number each, which sorts as the ranks do."""
    packed_B = np.empty(pairs_B2.shape[0], np.uint64)
    for i in range(packed_B.size):
        key = pairs_B2[i, 0]
        packed_B[i] = ((key >> _U32) << bits | (key & _LOW_32)) << count_bits | pairs_B2[i, 1]
    return packed_B


@kernel
def _unpack(packed_B, bits, count_bits, pairs_B2):
    for i in range(packed_B.size):
        key = packed_B[i] >> count_bits
        pairs_B2[i, 0] = (key >> bits) << _U32 | (key & ((_U1 << bits) - _U1))
        pairs_B2[i, 1] = packed_B[i] & ((_U1 << count_bits) - _U1)
