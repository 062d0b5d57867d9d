"""An exact hash table over byte strings that lie in one array; compiled.

Legend: string r is data[starts[r] : ends[r]]; of Arrow's offsets starts = offsets[:-1], ends = offsets[1:].
slots (S,) uint64  S a power of two; the upper half of a string's hash << 32 | its row + 1, 0 where empty.  Linear
                   probing from the hash's lower bits on.

Two other tables of the project keep a shape of their own: the matcher's trie (its layout is on disk, and four slots are
compared in one instruction) and the counter of n-grams (a short word is its own key, so that its bytes are never read).
"""

from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import inner, kernel, mix
from worldclip.kernels.utf8 import LOW_BYTES, word_at

# Odd constants with well mixed bits: 2^64 / golden ratio, and one of splitmix64's finaliser.
_SEED, _STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_U0, _LOW_32, _HIGH_32 = np.uint64(0), np.uint64(2**32 - 1), np.uint64(2**64 - 2**32)


def empty_slots(num_strings: int) -> np.ndarray:
    """Return slots for up to `num_strings` (below 2^32): at most half of them are ever used."""
    return np.zeros(1 << max(4, (2 * num_strings).bit_length()), np.uint64)


@inner
def hash_bytes(data, start, end):
    """Return a 64-bit hash of data[start:end]: 8 bytes per multiplication, faster than XXH64 in core/coin.py."""
    h = _SEED + np.uint64(end - start)
    for at in range(start, end, 8):
        h = mix(h ^ word_at(data, at) & LOW_BYTES[min(end - at, 8)], _STEP)
    return h


@inner
def find_slot(data, start, end, key, table_data, starts, ends, slots):
    """Return the slot of the string data[start:end] with hash `key`: its own, or the empty one where it belongs."""
    last = len(slots) - 1
    slot = np.int64(key & np.uint64(last))
    while slots[slot] != _U0:
        # The upper half of the hash did not choose the slot, so bytes are compared in vain once in 2^32 probes.
        if (slots[slot] ^ key) & _HIGH_32 == _U0:
            row = np.int64(slots[slot] & _LOW_32) - 1
            if same_bytes(data, start, end, table_data, starts[row], ends[row]):
                return slot
        slot = (slot + 1) & last
    return slot


@inner
def find_row(data, start, end, key, table_data, starts, ends, slots):
    """Return the row of the string data[start:end] with hash `key`; -1 where the table does not have it."""
    return np.int64(slots[find_slot(data, start, end, key, table_data, starts, ends, slots)] & _LOW_32) - 1


@inner
def put_row(slots, slot, key, row):
    """Write a string's row into an empty slot."""
    slots[slot] = key & _HIGH_32 | np.uint64(row + 1)


@kernel
def insert_rows(data, starts, ends, slots):
    """Insert all strings into an empty table; of equal ones the first stays.  Returns how many the others are."""
    num_repeated = 0
    for row in range(len(starts)):
        key = hash_bytes(data, starts[row], ends[row])
        slot = find_slot(data, starts[row], ends[row], key, data, starts, ends, slots)
        if slots[slot] == _U0:
            put_row(slots, slot, key, row)
        else:
            num_repeated += 1
    return num_repeated


@kernel
def find_rows(data, starts, ends, table_data, table_starts, table_ends, slots):
    """Return the row (n,) int64 of each string data[starts[i] : ends[i]]; -1 where the table does not have it."""
    rows = np.empty(len(starts), np.int64)
    for i in range(len(starts)):
        key = hash_bytes(data, starts[i], ends[i])
        rows[i] = find_row(data, starts[i], ends[i], key, table_data, table_starts, table_ends, slots)
    return rows


@inner
def same_bytes(data_a, start_a, end_a, data_b, start_b, end_b):
    """Return whether data_a[start_a:end_a] equals data_b[start_b:end_b]."""
    is_same = end_a - start_a == end_b - start_b
    k = 0
    while is_same and k < end_a - start_a:
        is_same = data_a[start_a + k] == data_b[start_b + k]
        k += 1
    return is_same
