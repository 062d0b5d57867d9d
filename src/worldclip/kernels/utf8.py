"""Decode and encode UTF-8, a code point at a time, from 8 bytes that are read at once; compiled."""

from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import inlined, inner, load_8

REPLACEMENT = 0xFFFD
LOW_BYTES = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # masks of the lowest `size` bytes

_U0, _U8F = np.uint64(0), np.uint64(0xFF)


@inlined
def word_at(data, at):
    """Return the 8 bytes at `at` as a uint64, the first one lowest; zeros after the end of `data`."""
    if at + 8 <= data.size:
        return load_8(data, at)
    word = _U0
    for k in range(data.size - at):
        word |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return word


@inlined
def decode(word, room):
    """Return the code point at the head of `word` and its bytes, at most `room`; U+FFFD and 1 for invalid UTF-8.

    Continuation bytes are not checked and surrogates pass, since texts come from Arrow, which checks them; other bytes
    decode to something, and nothing is ever read past `room`.
    """
    a = np.int64(word & _U8F)
    if a < 0x80:
        return a, 1
    c = np.int64(word >> np.uint64(8)) & 0x3F
    if a < 0xE0:
        c |= (a & 0x1F) << 6
        width = 2
    else:
        c = c << 6 | np.int64(word >> np.uint64(16)) & 0x3F
        if a < 0xF0:
            c |= (a & 0xF) << 12
            width = 3
        else:
            c = c << 6 | np.int64(word >> np.uint64(24)) & 0x3F | (a & 0x7) << 18
            width = 4
    if a < 0xC2 or c > 0x10FFFF or width > room:
        return REPLACEMENT, 1
    return c, width


@inner
def encode(c, out, at):
    """Write the code point `c` to out[at:]; returns the position after it."""
    if c < 0x80:
        out[at] = c
        return at + 1
    if c < 0x800:
        out[at] = 0xC0 | c >> 6
        out[at + 1] = 0x80 | c & 0x3F
        return at + 2
    if c < 0x10000:
        out[at] = 0xE0 | c >> 12
        out[at + 1] = 0x80 | c >> 6 & 0x3F
        out[at + 2] = 0x80 | c & 0x3F
        return at + 3
    out[at] = 0xF0 | c >> 18
    out[at + 1] = 0x80 | c >> 12 & 0x3F
    out[at + 2] = 0x80 | c >> 6 & 0x3F
    out[at + 3] = 0x80 | c & 0x3F
    return at + 4
