"""The words of a fastText model: read from its file, and found by the bytes of a text; compiled."""

# mypy: disable-error-code="assignment, call-arg, call-overload, var-annotated"
# numba's stubs do not know what its compiled code does with intrinsics and integers.
from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import inner, kernel, load_8, mix
from worldclip.kernels.nfc import word_at

LABEL_PREFIX = b"__label__"

_SEED, _STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # the lowest `size` bytes
_PREFIX_HEAD, _PREFIX_LAST = np.uint64(int.from_bytes(LABEL_PREFIX[:8], "little")), LABEL_PREFIX[8]
_U0, _LOW_32, _HIGH_32 = np.uint64(0), np.uint64(2**32 - 1), np.uint64(2**64 - 2**32)
_END = np.uint64(int.from_bytes(b"</s>", "little"))


@inner
def hash_token(data, start, end):
    """A 64-bit hash of data[start:end]."""
    h = _SEED + np.uint64(end - start)
    for at in range(start, end, 8):
        h = mix(h ^ word_at(data, at) & _MASKS[min(end - at, 8)], _STEP)
    return h


@inner
def is_label(data, start, end):
    """A token that begins with `__label__` is a label to fastText, never a word."""
    return end - start >= 9 and load_8(data, start) == _PREFIX_HEAD and data[start + 8] == _PREFIX_LAST


@inner
def is_end(data, start, end):
    """Whether the token is `</s>`, behind which fastText reads no further."""
    return end - start == 4 and word_at(data, start) & _MASKS[4] == _END


@kernel
def scan_dictionary(data, size):
    """Where each of the entries at the head of `data` starts and ends, their counts, and the bytes of all.

    -1 bytes where `data` is cut short.
    """
    starts, ends, counts = np.empty(size, np.int64), np.empty(size, np.int64), np.zeros(size, np.int64)
    at = 0
    for i in range(size):
        starts[i] = at
        while at < len(data) and data[at] != 0:
            at += 1
        ends[i] = at
        if at + 10 > len(data):
            return starts, ends, counts, -1
        for byte in range(8):
            counts[i] |= np.int64(data[at + 1 + byte]) << (8 * byte)
        at += 10  # the zero, the count (8) and the kind (1)
    return starts, ends, counts, at


@kernel
def dictionary_slots(dictionary, starts, ends):
    """An open-addressing table for `find_word`: the upper half of a word's hash and 1 + its entry id; 0 where free."""
    num_slots = 16
    while num_slots < 2 * len(starts):
        num_slots *= 2
    slots = np.zeros(num_slots, np.uint64)
    for i in range(len(starts)):
        key = hash_token(dictionary, starts[i], ends[i])
        at = np.int64(key & np.uint64(num_slots - 1))
        while slots[at] != _U0:
            at = (at + 1) & (num_slots - 1)
        slots[at] = key & _HIGH_32 | np.uint64(i + 1)
    return slots


@inner
def find_word(data, start, end, key, dictionary, starts, ends, slots):
    """Entry id of the token data[start:end], whose hash is `key`; -1 where the dictionary does not have it."""
    at = np.int64(key & np.uint64(len(slots) - 1))
    while slots[at] != _U0:
        if (slots[at] ^ key) & _HIGH_32 == _U0:
            i = np.int64(slots[at] & _LOW_32) - 1
            if _is_same(data, start, end, dictionary, starts[i], ends[i]):
                return i
        at = (at + 1) & (len(slots) - 1)
    return -1


@inner
def _is_same(data, start, end, dictionary, first, last):
    is_same = end - start == last - first
    k = 0
    while is_same and k < end - start:
        is_same = data[start + k] == dictionary[first + k]
        k += 1
    return is_same


@kernel
def find_end(dictionary, starts, ends, slots):
    """Entry id of `</s>`, -1 where the dictionary does not have it."""
    token = np.array([60, 47, 115, 62], np.uint8)
    return find_word(token, 0, 4, hash_token(token, 0, 4), dictionary, starts, ends, slots)
