"""The matcher's compiled loops: bytes -> atoms -> a walk through one hash table.

A boundary of a text is a place where the profile lets an entry begin or end.  Whether a place is one depends on the two
characters beside it alone, so an entry's inner boundaries are the same wherever the entry occurs.  We cut texts and
entries at their boundaries and at blanks, and longer pieces every 8 bytes, into ATOMS: an atom's bytes are one uint64, so
nothing but equal bytes compares equal.  A trie over atoms then finds every occurrence, exactly, in scripts with spaces
(an atom is a word) as in those without (an atom is a character).

Legend: A atoms of a text, S slots of the table.
keys_A   uint64  the atom's bytes, the first one lowest, padded with zeros
info_A   uint32  bits 0-3 its length in bytes (0: the empty word between two blanks), then the flags below
table_2S uint64  slot s is [2s] the key of an edge and [2s + 1] parent << 37 | length and AFTER_BLANK << 32 | entry << 1 |
                 "has a child".  A node of the trie is the slot of the edge into it, ROOT the one without; entry is
                 entry_id + 1, or 0 where none ends.  The second word of an empty slot is 0.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from worldclip.unicode_table import COMBINING_SHIFT, FOLDS, MARK, NFC_MAYBE, NFC_NO, SIMILAR_TO_CJK, SPACE, SPACED

REFERENCE, UNICODE, UNICODE_FOLD = 0, 1, 2

AFTER_BLANK, MAY_BEGIN, MAY_END = 16, 32, 64  # flags of an atom, above the 4 bits of its length
MAX_ATOM_BYTES = 8
MAX_SLOTS = 2**27 - 1  # 27 bits name a node, and ROOT is the last of them
MAX_ENTRIES = 2**30

# What each byte is to the reference's spacing.  In entries only the blank parts words.
_WORD, _BLANK, _MARK, _PUNCTUATION, _LEAD = 0, 1, 2, 3, 4
_IN_TEXT = np.zeros(256, np.uint8)
_IN_TEXT[[c for c in range(0x21, 0x7F) if not chr(c).isalnum()]] = _PUNCTUATION
_IN_TEXT[0x80:] = _LEAD
_IN_ENTRY = _IN_TEXT.copy()
_IN_ENTRY[ord(" ")] = _BLANK
_IN_TEXT[[ord(x) for x in " \t\n\r"]] = _BLANK
_IN_TEXT[[ord(x) for x in ",.;:?!`"]] = _MARK

_U0, _U1, _U5, _U31, _U32 = np.uint64(0), np.uint64(1), np.uint64(5), np.uint64(31), np.uint64(32)
_ROOT, _LOW_32 = np.uint64(MAX_SLOTS), np.uint64(0xFFFFFFFF)
# Odd constants with well mixed bits: 2^64 / golden ratio, and two of splitmix64's finaliser.
_MIX_1, _MIX_2, _MIX_3 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


# --- bytes to characters ----------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _decode(data, at, end):
    """The code point at `at` and its bytes; a byte that is no UTF-8 is U+FFFD (and its own byte as a key)."""
    a = np.int64(data[at])
    if a < 0x80:
        return a, 1
    width = 2 if a < 0xE0 else 3 if a < 0xF0 else 4
    if a < 0xC2 or a > 0xF4 or at + width > end:
        return 0xFFFD, 1
    c = a & (0x7F >> width)
    for k in range(1, width):
        c = c << 6 | (np.int64(data[at + k]) & 0x3F)
    if c > 0x10FFFF:
        return 0xFFFD, 1
    return c, width


@njit(cache=True, nogil=True)
def _encode(c, out, at):
    """Write the code point `c` as UTF-8; returns the place behind it."""
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


@njit(cache=True, nogil=True)
def _index(sorted_values, value):
    """Where `value` stands, -1 if nowhere."""
    low, high = 0, sorted_values.size
    while low < high:
        middle = (low + high) >> 1
        if sorted_values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < sorted_values.size and sorted_values[low] == value else -1


# --- NFC and case folding, in UTF-8 ------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _composite(first, second, unicode):
    """The primary composite of two code points, -1 if there is none (UAX 15; Hangul by arithmetic)."""
    if 0x1100 <= first < 0x1113 and 0x1161 <= second < 0x1176:
        return 0xAC00 + ((first - 0x1100) * 21 + second - 0x1161) * 28
    if 0xAC00 <= first < 0xD7A4 and 0x11A7 < second < 0x11C3 and (first - 0xAC00) % 28 == 0:
        return first + second - 0x11A7
    found = _index(unicode.compose_pairs, first << 21 | second)
    return np.int64(unicode.composed[found]) if found >= 0 else -1


@njit(cache=True, nogil=True)
def is_nfc(data, start, end, unicode):
    """Whether the text surely is NFC: UAX 15's quick check, and "maybe" decided where the last character is a starter."""
    seen = np.uint8(0)
    for at in range(start, end):
        seen |= data[at]
    if seen < 0x80:
        return True
    at, last, last_combining = start, np.int64(0), 0
    while at < end:
        c, width = _decode(data, at, end)
        at += width
        bits = unicode.classes[c]
        combining = bits >> COMBINING_SHIFT
        if bits & NFC_NO or (combining != 0 and last_combining > combining):
            return False
        if bits & NFC_MAYBE:
            if last_combining == 0 and _composite(last, c, unicode) >= 0:
                return False
            if last_combining != 0 and combining != 0:
                return False
        last, last_combining = c, combining
    return True


@njit(cache=True, nogil=True)
def _decompose(data, start, end, unicode, points):
    """Full canonical decomposition into `points`, not yet ordered; returns how many."""
    count, at = 0, start
    while at < end:
        c, width = _decode(data, at, end)
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
        found = _index(unicode.decompose_from, c) if c >= 0x80 else -1
        if found < 0:
            points[count] = c
            count += 1
        else:
            for k in range(unicode.decompose_index[found], unicode.decompose_index[found + 1]):
                points[count] = unicode.decomposed[k]
                count += 1
    return count


@njit(cache=True, nogil=True)
def _order_marks(points, count, classes):
    """Sort each run of combining characters by class, stable and in linear time (runs may be megabytes long)."""
    tally = np.empty(257, np.int64)
    start = 0
    while start < count:
        if classes[points[start]] >> COMBINING_SHIFT == 0:
            start += 1
            continue
        end, is_sorted = start + 1, True
        while end < count and classes[points[end]] >> COMBINING_SHIFT != 0:
            is_sorted &= classes[points[end - 1]] >> COMBINING_SHIFT <= classes[points[end]] >> COMBINING_SHIFT
            end += 1
        if not is_sorted:
            run = points[start:end].copy()
            tally[:] = 0
            for c in run:
                tally[(classes[c] >> COMBINING_SHIFT) + 1] += 1
            for k in range(256):
                tally[k + 1] += tally[k]
            for c in run:
                combining = classes[c] >> COMBINING_SHIFT
                points[start + tally[combining]] = c
                tally[combining] += 1
        start = end


@njit(cache=True, nogil=True)
def _compose(points, count, unicode):
    """Canonical composition in place (UAX 15, D117); returns how many remain."""
    kept, starter, last_combining = 0, -1, -1
    for k in range(count):
        c = np.int64(points[k])
        combining = np.int64(unicode.classes[c] >> COMBINING_SHIFT)
        if starter >= 0 and last_combining < combining:
            composite = _composite(np.int64(points[starter]), c, unicode)
            if composite >= 0:
                points[starter] = composite
                continue
        if combining == 0:
            starter, last_combining = kept, -1
        else:
            last_combining = combining
        points[kept] = c
        kept += 1
    return kept


@njit(cache=True, nogil=True)
def nfc(data, start, end, unicode):
    """The text in NFC, a new uint8 array."""
    points = np.empty(2 * (end - start) + 1, np.int32)  # no character decomposes into more than 1.5 a byte
    count = _decompose(data, start, end, unicode, points)
    _order_marks(points, count, unicode.classes)
    count = _compose(points, count, unicode)
    out, size = np.empty(4 * count, np.uint8), 0
    for k in range(count):
        size = _encode(np.int64(points[k]), out, size)
    return out[:size]


@njit(cache=True, nogil=True)
def fold(data, start, end, unicode, out):
    """Write the full case folding to `out` (3 bytes a byte suffice); returns its size."""
    at, size = start, 0
    while at < end:
        a = data[at]
        if a < 0x80:
            out[size] = a + 32 if 65 <= a <= 90 else a
            at += 1
            size += 1
            continue
        c, width = _decode(data, at, end)
        if unicode.classes[c] & FOLDS:
            found = _index(unicode.fold_from, c)
            for k in range(unicode.fold_index[found], unicode.fold_index[found + 1]):
                size = _encode(np.int64(unicode.folded[k]), out, size)
        else:
            for k in range(at, at + width):
                out[size] = data[k]
                size += 1
        at += width
    return size


# --- characters to atoms -----------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _is_strippable(c, classes):
    return classes[c] & SPACE or 0x1C <= c <= 0x1F


@njit(cache=True, nogil=True)
def _strip(data, start, end, classes):
    """The part that `str.strip()` leaves: (start, end)."""
    while start < end:
        c, width = _decode(data, start, end)
        if not _is_strippable(c, classes):
            break
        start += width
    while end > start:
        at = end - 1
        while at > start and data[at] & 0xC0 == 0x80:
            at -= 1
        c, width = _decode(data, at, end)
        if at + width != end or not _is_strippable(c, classes):
            break
        end = at
    return start, end


@njit(cache=True, nogil=True)
def _reference_atoms(data, start, end, kinds, classes, keys_A, info_A):
    """Cut as the reference's spacing and padding imply: at blanks, around the marks it spaces, around "CJK or similar".

    `kinds` is _IN_TEXT (the part of a text that strip() leaves) or _IN_ENTRY (taken as it is).  Returns the number of atoms.
    """
    count, key, size, flags = 0, _U0, 0, AFTER_BLANK | MAY_BEGIN  # of the atom being gathered
    at = start
    while at < end:
        kind, width, is_alone = kinds[data[at]], 1, False
        if kind == _LEAD:
            c, width = _decode(data, at, end)
            is_alone = classes[c] & SIMILAR_TO_CJK != 0
        elif kind == _BLANK or kind == _MARK:
            if size > 0 or flags & AFTER_BLANK:  # also the empty word between two blanks
                keys_A[count] = key
                info_A[count] = size | flags | MAY_END
                count += 1
            key, size, flags = _U0, 0, AFTER_BLANK | MAY_BEGIN
            if kind == _MARK:
                keys_A[count] = data[at]
                info_A[count] = 1 | AFTER_BLANK | MAY_BEGIN | MAY_END
                count += 1
            at += 1
            continue
        elif kind == _PUNCTUATION:
            is_alone = True
        if is_alone and size > 0:
            keys_A[count] = key
            info_A[count] = size | flags
            count += 1
            key, size, flags = _U0, 0, 0
        for k in range(at, at + width):
            if size == MAX_ATOM_BYTES:
                keys_A[count] = key
                info_A[count] = size | flags
                count += 1
                key, size, flags = _U0, 0, 0
            key |= np.uint64(data[k]) << np.uint64(8 * size)
            size += 1
        at += width
        if is_alone:
            keys_A[count] = key
            info_A[count] = size | flags | MAY_BEGIN | MAY_END
            count += 1
            key, size, flags = _U0, 0, 0
    if size > 0 or flags & AFTER_BLANK:
        keys_A[count] = key
        info_A[count] = size | flags | MAY_END
        count += 1
    return count


@njit(cache=True, nogil=True)
def _unicode_atoms(data, start, end, classes, keys_A, info_A):
    """Cut a text in NFC at white space and wherever not both neighbours are SPACED.  Returns the number of atoms."""
    count, key, size, flags = 0, _U0, 0, 0  # of the word being gathered
    blank = AFTER_BLANK
    at = start
    while at < end:
        c, width = _decode(data, at, end)
        bits = classes[c]
        is_spaced = bits & SPACED != 0
        if size > 0 and not is_spaced:
            keys_A[count] = key
            info_A[count] = size | flags | MAY_END
            count += 1
            key, size = _U0, 0
        if bits & SPACE:
            blank = AFTER_BLANK
            at += width
            continue
        if size == 0:
            flags = blank | MAY_BEGIN
            if bits & MARK and count > 0 and blank == 0:  # nothing may end before a combining mark
                info_A[count - 1] &= np.uint32(~MAY_END & 0xFFFFFFFF)
        blank = 0
        for k in range(at, at + width):
            if size == MAX_ATOM_BYTES:
                keys_A[count] = key
                info_A[count] = size | flags
                count += 1
                key, size, flags = _U0, 0, 0
            key |= np.uint64(data[k]) << np.uint64(8 * size)
            size += 1
        at += width
        if not is_spaced:
            keys_A[count] = key
            info_A[count] = size | flags | MAY_END
            count += 1
            key, size = _U0, 0
    if size > 0:
        keys_A[count] = key
        info_A[count] = size | flags | MAY_END
        count += 1
    return count


@njit(cache=True, nogil=True)
def _text_atoms(data, start, end, profile, unicode, keys_A, info_A):
    if profile == REFERENCE:
        start, end = _strip(data, start, end, unicode.classes)
        return _reference_atoms(data, start, end, _IN_TEXT, unicode.classes, keys_A, info_A)
    return _normalised_atoms(data, start, end, profile, unicode, keys_A, info_A)


@njit(cache=True, nogil=True)
def _normalised_atoms(data, start, end, profile, unicode, keys_A, info_A):
    """Atoms of NFC(text), or with folding of NFC(fold(NFC(text))), as the profile says."""
    if not is_nfc(data, start, end, unicode):
        data = nfc(data, start, end, unicode)
        start, end = 0, data.size
    if profile == UNICODE_FOLD:
        folded = np.empty(3 * (end - start) + 1, np.uint8)
        end = fold(data, start, end, unicode, folded)
        data, start = folded, 0
        if not is_nfc(data, start, end, unicode):
            data = nfc(data, start, end, unicode)
            end = data.size
    return _unicode_atoms(data, start, end, unicode.classes, keys_A, info_A)


@njit(cache=True, nogil=True)
def _entry_atoms(data, start, end, profile, unicode, keys_A, info_A):
    if profile == REFERENCE:
        return _reference_atoms(data, start, end, _IN_ENTRY, unicode.classes, keys_A, info_A) if end > start else 0
    return _normalised_atoms(data, start, end, profile, unicode, keys_A, info_A)


@njit(cache=True, nogil=True)
def atom_capacity(offsets):
    """Enough for the longest text's atoms: at most two a byte, whatever the profile makes of it."""
    longest = 0
    for i in range(offsets.size - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return 2 * longest + 2


# --- the table ---------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _home(key, edge, num_slots):
    """The slot where the search for (key, edge) begins."""
    h = (key ^ (edge * _MIX_1)) * _MIX_2
    h = (h ^ (h >> _U32)) * _MIX_3
    return np.int64((h >> _U32) * np.uint64(num_slots) >> _U32)


@njit(cache=True, nogil=True)
def insert_entries(data, offsets, profile, unicode, table_2S, first_with):
    """Fill the empty table, which must have room, with all entries.

    first_with (N,) int32: -1 for an entry that stands in the table, its own id where its normalisation is empty, the id of
    the earlier entry where it equals that after normalisation.  Returns the number of used slots.
    """
    num_slots, used = table_2S.size // 2, 0
    keys_A = np.empty(atom_capacity(offsets), np.uint64)
    info_A = np.empty(keys_A.size, np.uint32)
    for i in range(offsets.size - 1):
        count = _entry_atoms(data, offsets[i], offsets[i + 1], profile, unicode, keys_A, info_A)
        if count == 0:
            first_with[i] = i
            continue
        node = _ROOT
        for k in range(count):
            edge = node << _U5 | np.uint64(info_A[k] & (31 if k else 15))
            slot = _home(keys_A[k], edge, num_slots)
            while table_2S[2 * slot + 1] != _U0 and (
                table_2S[2 * slot] != keys_A[k] or table_2S[2 * slot + 1] >> _U32 != edge
            ):
                slot = slot + 1 if slot + 1 < num_slots else 0
            if table_2S[2 * slot + 1] == _U0:
                table_2S[2 * slot] = keys_A[k]
                table_2S[2 * slot + 1] = edge << _U32
                if node != _ROOT:
                    table_2S[2 * np.int64(node) + 1] |= _U1
                used += 1
            node = np.uint64(slot)
        word = table_2S[2 * np.int64(node) + 1]
        if word & _LOW_32 > _U1:
            first_with[i] = np.int64((word & _LOW_32) >> _U1) - 1
        else:
            table_2S[2 * np.int64(node) + 1] = word | np.uint64(i + 1) << _U1
            first_with[i] = -1
    return used


@njit(cache=True, nogil=True)
def count_atoms(data, offsets, profile, unicode):
    """Atoms of all entries: what a table needs at most."""
    keys_A = np.empty(atom_capacity(offsets), np.uint64)
    info_A = np.empty(keys_A.size, np.uint32)
    total = 0
    for i in range(offsets.size - 1):
        total += _entry_atoms(data, offsets[i], offsets[i + 1], profile, unicode, keys_A, info_A)
    return total


# --- matching ----------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _sort(ids, count):
    """Sort ids[:count]; a few by counting the smaller ones, which the compiler makes wide instructions of."""
    if count > 96:
        ids[:count].sort()
        return
    ranked = np.empty(96, np.int32)
    for i in range(count):
        own, rank = ids[i], 0
        for j in range(count):
            rank += ids[j] < own
        for j in range(i):
            rank += ids[j] == own
        ranked[rank] = own
    ids[:count] = ranked[:count]


@njit(cache=True, nogil=True)
def _grown(array, size):
    larger = np.empty(max(size, 2 * array.size), array.dtype)
    larger[: array.size] = array
    return larger


@njit(cache=True, nogil=True)
def match_texts(data, offsets, validity, first_bit, profile, unicode, table_2S):
    """Match all texts: data uint8, offsets (T + 1,) int64, validity Arrow's bitmap (empty: no nulls) from first_bit on.

    Returns ids int32 and offsets (T + 1,) int64: each text's ids sorted and unique.
    """
    num_texts, num_slots = offsets.size - 1, table_2S.size // 2
    capacity = atom_capacity(offsets)
    keys_A, info_A = np.empty(capacity, np.uint64), np.empty(capacity, np.uint32)
    at_A, node_A = np.empty(capacity, np.int64), np.empty(capacity, np.uint64)
    slot_A, key_A, word_A = np.empty(capacity, np.int64), np.empty(capacity, np.uint64), np.empty(capacity, np.uint64)
    found = np.empty(1024, np.int32)
    ids, ends = np.empty(16 * num_texts + 1024, np.int32), np.zeros(num_texts + 1, np.int64)
    total = 0
    for t in range(num_texts):
        bit = first_bit + t
        if validity.size > 0 and not validity[bit >> 3] >> (bit & 7) & 1:
            ends[t + 1] = total
            continue
        num_atoms = _text_atoms(data, offsets[t], offsets[t + 1], profile, unicode, keys_A, info_A)
        active = 0
        for a in range(num_atoms):
            at_A[active], node_A[active] = a, _ROOT
            active += info_A[a] & MAY_BEGIN != 0
        mask, count = np.uint32(15), 0
        while active > 0:
            # All loads of a level at once: they do not wait for each other, so their cache misses overlap.
            for j in range(active):
                a = at_A[j]
                slot = _home(keys_A[a], node_A[j] << _U5 | np.uint64(info_A[a] & mask), num_slots)
                slot_A[j], key_A[j], word_A[j] = slot, table_2S[2 * slot], table_2S[2 * slot + 1]
            if count + active > found.size:
                found = _grown(found, count + active)
            kept = 0
            for j in range(active):
                a, slot, word = at_A[j], slot_A[j], word_A[j]
                key, info = keys_A[a], info_A[a]
                edge = node_A[j] << _U5 | np.uint64(info & mask)
                if key_A[j] != key or word >> _U32 != edge:
                    while word != _U0:
                        slot = slot + 1 if slot + 1 < num_slots else 0
                        word = table_2S[2 * slot + 1]
                        if table_2S[2 * slot] == key and word >> _U32 == edge:
                            break
                    if word == _U0:
                        continue
                entry = np.int64((word & _LOW_32) >> _U1)
                found[count] = entry - 1
                count += entry != 0 and info & MAY_END != 0
                at_A[kept], node_A[kept] = a + 1, np.uint64(slot)
                kept += word & _U1 != _U0 and a + 1 < num_atoms
            active, mask = kept, np.uint32(31)
        _sort(found, count)
        if total + count > ids.size:
            ids = _grown(ids, total + count)
        last = -1
        for j in range(count):
            ids[total] = found[j]
            total += found[j] != last
            last = found[j]
        ends[t + 1] = total
    return ids[:total], ends
