"""Texts and entries as ATOMS, the letters of the alphabet that the matcher's trie is over; compiled.

A boundary of a text is a place where the profile lets an entry begin or end.  Whether a place is one depends on the
two characters beside it alone, so an entry's inner boundaries are the same wherever the entry occurs.  We cut texts and
entries at their boundaries and at blanks, and longer pieces every 7 bytes: an atom is one uint64, so nothing but equal
atoms compares equal.  In scripts with spaces an atom is a word, in those without it is a character.

Legend: atom a is a pair of uint64.
atoms_2A[2a]      its key: its bytes, the first one lowest, padded with zeros; in the top byte how many they are (0 is
                  the empty word between two blanks) and AFTER_BLANK
atoms_2A[2a + 1]  text << 32 | MAY_END | GOES_ON (not the text's last) | MAY_BEGIN
"""

# mypy: disable-error-code="assignment, call-arg, call-overload, var-annotated"
# numba's stubs do not know what its compiled code does with intrinsics and integers.
from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import alphanumeric_mask, inlined, inner, load_8, store_pair, trailing_zeros
from worldclip.kernels.nfc import fold, is_nfc, nfc
from worldclip.kernels.unicode_table import COMBINING_SHIFT, MARK, NFC_MAYBE, NFC_NO, SIMILAR_TO_CJK, SPACE, SPACED
from worldclip.kernels.utf8 import LOW_BYTES, decode, word_at

REFERENCE, UNICODE, UNICODE_FOLD = 0, 1, 2  # positions in text.PROFILES

MAX_ATOM_BYTES = 7
AFTER_BLANK = 16  # beside an atom's length
MAY_BEGIN, GOES_ON, MAY_END = 1 << 29, 1 << 30, 1 << 31

# What each byte is to the reference's spacing: in entries, where only the blank parts words, then in texts.
_OTHER, _BLANK, _MARK, _END = 0, 1, 2, 3
_KINDS = np.zeros(512, np.uint8)
_KINDS[ord(" ")] = _BLANK
_KINDS[[256 + ord(x) for x in " \t\n\r"]] = _BLANK
_KINDS[[256 + ord(x) for x in ",.;:?!`"]] = _MARK

_U0, _U56, _NO_MAY_END = np.uint64(0), np.uint64(56), ~np.uint64(MAY_END)
_SHORT = 2 * MAX_ATOM_BYTES  # bytes of a word that is put out in one go; most words of most texts are
_ROOM = MAX_ATOM_BYTES + 8  # bytes that are read to put out a word
_MASKED = 64  # bytes that one mask tells of
_DOUBTFUL = NFC_NO | NFC_MAYBE


@inner
def atom_capacity(offsets):
    """Enough for the longest text's atoms: at most two a byte, whatever the profile makes of it."""
    longest = 0
    for i in range(offsets.size - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return 2 * longest + 4


@inlined
def put_atoms(data, start, end, is_text, profile, classes, text, atoms_2A, count):
    """Put the atoms of a text, or of an entry, behind the first `count`.

    Returns how many there are then, and whether the text may not be normal: `put_normal_atoms` decides then.
    """
    if profile == REFERENCE:
        if is_text:
            start, end = _strip(data, start, end, classes)
        elif start == end:
            return count, False
        return _reference_atoms(data, start, end, is_text, classes, text, atoms_2A, count), False
    if profile == UNICODE_FOLD:
        return count, True
    return _unicode_atoms(data, start, end, classes, text, atoms_2A, count)


@inner
def put_normal_atoms(data, start, end, profile, unicode, text, atoms_2A, count):
    """As `put_atoms`, of NFC(text), or with folding of NFC(fold(NFC(text))).  Returns how many there are then."""
    if profile == UNICODE_FOLD:
        data, end = _folded(data, start, end, unicode)
        start = 0
    total, is_doubtful = _unicode_atoms(data, start, end, unicode.classes, text, atoms_2A, count)
    if is_doubtful and not is_nfc(data, start, end, unicode):
        data = nfc(data, start, end, unicode)
        total, _ = _unicode_atoms(data, 0, data.size, unicode.classes, text, atoms_2A, count)
    return total


@inner
def _folded(data, start, end, unicode):
    """The full case folding of NFC(text), a new array and its size."""
    out = np.empty(3 * (end - start) + 8, np.uint8)
    size, seen = fold(data, start, end, unicode, out)
    if (seen & _DOUBTFUL or seen >> COMBINING_SHIFT) and not is_nfc(data, start, end, unicode):
        composed = nfc(data, start, end, unicode)
        out = np.empty(3 * composed.size + 8, np.uint8)
        size, _ = fold(composed, 0, composed.size, unicode, out)
    return out, size


@inner
def _is_strippable(c, classes):
    return classes[c] & SPACE or 0x1C <= c <= 0x1F


@inlined
def _strip(data, start, end, classes):
    """The part that `str.strip()` leaves: (start, end)."""
    if start < end and 0x20 < data[start] < 0x80 and 0x20 < data[end - 1] < 0x80:
        return start, end  # nearly all texts in English
    while start < end:
        c, width = decode(word_at(data, start), end - start)
        if not _is_strippable(c, classes):
            break
        start += width
    while end > start:
        at = end - 1
        while at > start and data[at] & 0xC0 == 0x80:
            at -= 1
        c, width = decode(word_at(data, at), end - at)
        if at + width != end or not _is_strippable(c, classes):
            break
        end = at
    return start, end


# --- pieces of texts ----------------------------------------------------------------------------------


@inlined
def _alphanumeric_at(data, at):
    """`alphanumeric_mask` also near the end of `data`."""
    if at + _MASKED <= data.size:
        return alphanumeric_mask(data, at)
    mask = _U0
    for k in range(data.size - at):
        a, lower = data[at + k], data[at + k] | 0x20
        mask |= np.uint64(97 <= lower <= 122 or 48 <= a <= 57) << np.uint64(k)
    return mask


@inlined
def _put(key, info, text, atoms_2A, count):
    """Put out one atom; info: its length and AFTER_BLANK, MAY_BEGIN and MAY_END."""
    store_pair(atoms_2A, count, key | np.uint64(info & 31) << _U56, text | np.uint64(info | GOES_ON))


@inlined
def _put_word(data, at, size, flags, text, atoms_2A, count):
    """Put out a whole word of at most _SHORT bytes, two atoms without a branch; returns how many atoms there are."""
    first, rest = min(size, MAX_ATOM_BYTES), max(size - MAX_ATOM_BYTES, 0)
    ends = MAY_END if rest == 0 else 0
    _put(load_8(data, at) & LOW_BYTES[first], first | flags | ends, text, atoms_2A, count)
    _put(load_8(data, at + MAX_ATOM_BYTES) & LOW_BYTES[rest], rest | MAY_END, text, atoms_2A, count + 1)
    return count + 1 + (rest > 0)


@inlined
def _append(word, width, key, size, flags, text, atoms_2A, count):
    """Add the first `width` (at most 7) bytes of `word` to the piece (key, size, flags); a full atom is put out first.

    Returns key, size, flags, count.
    """
    word &= LOW_BYTES[width]
    if size == 0:
        return word, width, flags, count
    if size < MAX_ATOM_BYTES:
        key |= word << np.uint64(8 * size)
    if size + width <= MAX_ATOM_BYTES:
        return key, size + width, flags, count
    _put(key & LOW_BYTES[MAX_ATOM_BYTES], MAX_ATOM_BYTES | flags, text, atoms_2A, count)
    taken = MAX_ATOM_BYTES - size
    return word >> np.uint64(8 * taken), width - taken, 0, count + 1


@inner
def _append_run(data, at, run, key, size, flags, text, atoms_2A, count):
    """As `_append`, for a run of any length."""
    for k in range(0, run, MAX_ATOM_BYTES):
        word, width = word_at(data, at + k), min(run - k, MAX_ATOM_BYTES)
        key, size, flags, count = _append(word, width, key, size, flags, text, atoms_2A, count)
    return key, size, flags, count


# --- the two profiles' cuts ---------------------------------------------------------------------------


@inlined
def _reference_atoms(data, start, end, is_text, classes, text, atoms_2A, count):
    """Cut as the reference's spacing and padding imply: at blanks, around the marks it spaces, around "CJK or similar".

    A text is what strip() leaves of it; an entry is taken as it is and its marks are not spaced.  Atoms are put behind
    the first `count`; returns how many there are then.
    """
    first_kind = 256 if is_text else 0
    key, size, flags = _U0, 0, AFTER_BLANK | MAY_BEGIN  # of the piece being gathered
    mask, masked_at = _U0, start - _MASKED
    at = start
    while at < end:
        if data[at] < 0x80:
            if at - masked_at >= _MASKED - _SHORT:
                mask, masked_at = _alphanumeric_at(data, at), at
            run = min(trailing_zeros(~(mask >> np.uint64(at - masked_at))), end - at)
            kind = _KINDS[first_kind + np.int64(data[at + run])] if at + run < end else _END
            if size == 0 and run <= _SHORT and kind != _OTHER and at + _ROOM <= data.size:
                total = _put_word(data, at, run, flags, text, atoms_2A, count)
                count = total if run > 0 or flags & AFTER_BLANK else count  # also the empty word between two blanks
                at += run + 1
                if kind == _END:
                    return count
                _put(np.uint64(data[at - 1]), 1 | AFTER_BLANK | MAY_BEGIN | MAY_END, text, atoms_2A, count)
                count += kind == _MARK
                flags = AFTER_BLANK | MAY_BEGIN
                continue
            if run > 0:
                key, size, flags, count = _append_run(data, at, run, key, size, flags, text, atoms_2A, count)
                at += run
                continue
            if kind != _OTHER:
                if size > 0 or flags & AFTER_BLANK:
                    _put(key, size | flags | MAY_END, text, atoms_2A, count)
                    count += 1
                key, size, flags = _U0, 0, AFTER_BLANK | MAY_BEGIN
                _put(np.uint64(data[at]), 1 | AFTER_BLANK | MAY_BEGIN | MAY_END, text, atoms_2A, count)
                count += kind == _MARK
                at += 1
                continue
        word = word_at(data, at)
        c, width = decode(word, end - at)
        word &= LOW_BYTES[width]
        at += width
        if classes[c] & SIMILAR_TO_CJK:
            if size > 0:
                _put(key, size | flags, text, atoms_2A, count)
                count += 1
                flags = 0
            _put(word, width | (flags & AFTER_BLANK) | MAY_BEGIN | MAY_END, text, atoms_2A, count)
            count += 1
            key, size, flags = _U0, 0, 0
        else:
            key, size, flags, count = _append(word, width, key, size, flags, text, atoms_2A, count)
    if size > 0 or flags & AFTER_BLANK:
        _put(key, size | flags | MAY_END, text, atoms_2A, count)
        count += 1
    return count


@inlined
def _unicode_atoms(data, start, end, classes, text, atoms_2A, count):
    """Cut a text in NFC at white space and wherever not both neighbours are SPACED.

    Atoms are put behind the first `count`.  Returns how many there are then, and whether the text may not be NFC.
    """
    first, seen, is_unordered, last = count, np.uint16(0), False, 0
    key, size, flags, blank = _U0, 0, 0, AFTER_BLANK  # of the word being gathered, and what goes before it
    mask, masked_at = _U0, start - _MASKED
    at = start
    while at < end:
        if data[at] < 0x80:
            if at - masked_at >= _MASKED - _SHORT:
                mask, masked_at = _alphanumeric_at(data, at), at
            run = min(trailing_zeros(~(mask >> np.uint64(at - masked_at))), end - at)
            behind = np.int64(data[at + run]) if at + run < end else 32
            if size == 0 and run <= _SHORT and behind < 0x80 and at + _ROOM <= data.size:
                total = _put_word(data, at, run, blank | MAY_BEGIN, text, atoms_2A, count)
                count, blank = (total, 0) if run > 0 else (count, blank)
                _put(np.uint64(behind), 1 | blank | MAY_BEGIN | MAY_END, text, atoms_2A, count)
                is_blank = classes[behind] & SPACE != 0
                count += not is_blank
                blank = AFTER_BLANK if is_blank else 0
                last = 0
                at += run + 1
                continue
            if run > 0:
                if size == 0:
                    flags = blank | MAY_BEGIN
                key, size, flags, count = _append_run(data, at, run, key, size, flags, text, atoms_2A, count)
                blank = last = 0
                at += run
                continue
        word = word_at(data, at)
        c, width = decode(word, end - at)
        word &= LOW_BYTES[width]
        at += width
        bits = classes[c]
        combining = np.int64(bits >> COMBINING_SHIFT)
        seen |= bits
        is_unordered |= combining != 0 and last > combining
        last = combining
        if bits & MARK and size == 0 and blank == 0 and count > first:  # nothing may end before a combining mark
            atoms_2A[2 * count - 1] &= _NO_MAY_END
        if bits & SPACED:
            if size == 0:
                flags = blank | MAY_BEGIN
            key, size, flags, count = _append(word, width, key, size, flags, text, atoms_2A, count)
            blank = 0
            continue
        if size > 0:
            ends = 0 if bits & MARK else MAY_END
            _put(key, size | flags | ends, text, atoms_2A, count)
            count += 1
            key, size = _U0, 0
        if bits & SPACE:
            blank = AFTER_BLANK
        else:
            _put(word, width | blank | MAY_BEGIN | MAY_END, text, atoms_2A, count)
            count += 1
            blank = 0
    if size > 0:
        _put(key, size | flags | MAY_END, text, atoms_2A, count)
        count += 1
    return count, is_unordered or seen & _DOUBTFUL != 0
