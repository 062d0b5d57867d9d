"""Normalise UTF-8 to NFC and fold its case; compiled.

The rules are those of UAX 15 and CaseFolding.txt, the tables those of unicode_table.py.  unicodedata would hold the GIL
and need a Python object per text; tests compare the two.
"""

from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import as_read_only, inner, load_8, store_8
from worldclip.kernels.unicode_table import COMBINING_SHIFT, FOLDS, NFC_MAYBE, NFC_NO
from worldclip.kernels.utf8 import decode, encode, word_at

_U0 = np.uint64(0)
# For eight bytes at once: adding _FROM_A sets the top bit of bytes from "A" on, adding _BEYOND_Z of those after "Z".
_TOP_BITS = np.uint64(0x8080808080808080)
_FROM_A, _BEYOND_Z = (np.uint64(0x0101010101010101 * (0x80 - b)) for b in (ord("A"), ord("Z") + 1))


@inner
def _index(sorted_values, value):
    """Return the position of `value`, -1 if it is not there."""
    low, high = 0, sorted_values.size
    while low < high:
        middle = (low + high) >> 1
        if sorted_values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < sorted_values.size and sorted_values[low] == value else -1


# --- NFC ---------------------------------------------------------------------------------------------


@inner
def _composite(first, second, unicode):
    """Return the primary composite of two code points, -1 if there is none (UAX 15; Hangul by arithmetic)."""
    if 0x1100 <= first < 0x1113 and 0x1161 <= second < 0x1176:
        return 0xAC00 + ((first - 0x1100) * 21 + second - 0x1161) * 28
    if 0xAC00 <= first < 0xD7A4 and 0x11A7 < second < 0x11C3 and (first - 0xAC00) % 28 == 0:
        return first + second - 0x11A7
    row = _index(unicode.compose_pairs, first << 21 | second)
    return np.int64(unicode.composed[row]) if row >= 0 else -1


@inner
def is_nfc(data, start, end, unicode):
    """Return whether the text is surely NFC.

    UAX 15's quick check, which also decides most "maybe" by the character before.
    """
    seen = np.uint8(0)
    for at in range(start, end):
        seen |= data[at]
    if seen < 0x80:
        return True
    at = start
    last = np.int64(0)
    last_combining = 0
    while at < end:
        c, width = decode(word_at(data, at), end - at)
        at += width
        bits = unicode.classes[c]
        combining = bits >> COMBINING_SHIFT
        if bits & NFC_NO or (combining != 0 and last_combining > combining):
            return False
        if bits & NFC_MAYBE:
            if last_combining == 0 and _composite(last, c, unicode) >= 0:
                return False
            # After other marks, even those inside a composite letter, it may still move forward and compose.
            if combining != 0 and (last_combining != 0 or _index(unicode.decompose_from, last) >= 0):
                return False
        last = c
        last_combining = combining
    return True


@inner
def _decompose(data, start, end, unicode, points):
    """Write the full canonical decomposition to `points`, not yet ordered; returns the number of code points."""
    count = 0
    at = start
    while at < end:
        c, width = decode(word_at(data, at), end - at)
        at += width
        if 0xAC00 <= c < 0xD7A4:
            syllable = c - 0xAC00
            points[count] = 0x1100 + syllable // 588
            points[count + 1] = 0x1161 + syllable % 588 // 28
            count += 2
            if syllable % 28:
                points[count] = 0x11A7 + syllable % 28
                count += 1
            continue
        row = _index(unicode.decompose_from, c) if c >= 0x80 else -1
        if row < 0:
            points[count] = c
            count += 1
        else:
            for k in range(unicode.decompose_index[row], unicode.decompose_index[row + 1]):
                points[count] = unicode.decomposed[k]
                count += 1
    return count


@inner
def _order_marks(points, count, classes):
    """Sort each run of combining characters by class, stably.

    By counting, in linear time: a hostile text may be one run of megabytes.
    """
    places = np.empty(257, np.int64)
    start = 0
    while start < count:
        if classes[points[start]] >> COMBINING_SHIFT == 0:
            start += 1
            continue
        end = start + 1
        is_sorted = True
        while end < count and classes[points[end]] >> COMBINING_SHIFT != 0:
            is_sorted &= classes[points[end - 1]] >> COMBINING_SHIFT <= classes[points[end]] >> COMBINING_SHIFT
            end += 1
        if not is_sorted:
            run = points[start:end].copy()
            places[:] = 0
            for c in run:
                places[(classes[c] >> COMBINING_SHIFT) + 1] += 1
            for k in range(256):
                places[k + 1] += places[k]
            for c in run:
                combining = classes[c] >> COMBINING_SHIFT
                points[start + places[combining]] = c
                places[combining] += 1
        start = end


@inner
def _compose(points, count, unicode):
    """Compose canonically in place (UAX 15, D117); returns the number of code points left."""
    length = 0
    starter = -1
    last_combining = -1
    for k in range(count):
        c = np.int64(points[k])
        combining = np.int64(unicode.classes[c] >> COMBINING_SHIFT)
        if starter >= 0 and last_combining < combining:
            composite = _composite(np.int64(points[starter]), c, unicode)
            if composite >= 0:
                points[starter] = composite
                continue
        if combining == 0:
            starter = length
            last_combining = -1
        else:
            last_combining = combining
        points[length] = c
        length += 1
    return length


@inner
def nfc(data, start, end, unicode):
    """Return the text in NFC, a new read-only uint8 array."""
    points = np.empty(2 * (end - start) + 1, np.int32)  # at most 1.5 code points per byte
    count = _decompose(data, start, end, unicode, points)
    _order_marks(points, count, unicode.classes)
    count = _compose(points, count, unicode)
    out = np.empty(4 * count, np.uint8)
    size = np.int64(0)
    for k in range(count):
        size = encode(np.int64(points[k]), out, size)
    return as_read_only(out[:size])


# --- case folding ------------------------------------------------------------------------------------


@inner
def fold(data, start, end, unicode, out):
    """Write the full case folding to `out`, of 3 bytes per byte and 8; returns its size and all classes, or-ed."""
    at = start
    size = np.int64(0)
    seen = np.uint16(0)
    while at < end:
        if at + 8 <= end:
            word = load_8(data, at)
            if word & _TOP_BITS == _U0:
                capitals = (word + _FROM_A) & ~(word + _BEYOND_Z) & _TOP_BITS
                store_8(out, size, word | capitals >> np.uint64(2))  # bit 5 makes a small letter of a capital
                at += 8
                size += 8
                continue
        a = data[at]
        if a < 0x80:
            out[size] = a + 32 if 65 <= a <= 90 else a
            at += 1
            size += 1
            continue
        c, width = decode(word_at(data, at), end - at)
        seen |= unicode.classes[c]
        if unicode.classes[c] & FOLDS:
            row = _index(unicode.fold_from, c)
            for k in range(unicode.fold_index[row], unicode.fold_index[row + 1]):
                size = encode(np.int64(unicode.folded[k]), out, size)
        else:
            for k in range(at, at + width):
                out[size] = data[k]
                size += 1
        at += width
    return size, seen
