"""Cut texts and entries into TOKENS, the letters of the alphabet that the matcher's trie is over; compiled.

A boundary of a text is a position where the profile lets an entry begin or end.  Whether a position is one depends only
on the two characters next to it, so an entry's inner boundaries are the same wherever the entry occurs.  Texts and
entries are cut at their boundaries and at blanks, and longer pieces every 7 bytes: a token is one uint64, so equal
numbers are equal tokens and no string is ever compared.  In scripts with spaces a token is a word, in those without it
is a character.

Legend: token n is a pair of uint64.
tokens_2N[2n]      its key: its bytes, the first one lowest, padded with zeros; in the top byte their number (0 is the
                   empty word between two blanks) and AFTER_BLANK
tokens_2N[2n + 1]  text << 32 | MAY_END | GOES_ON (not the text's last) | MAY_BEGIN

Example: in profile unicode "red, apple" has three tokens, `red`, `,` and `apple`.  An entry may begin and end at each,
so all have MAY_BEGIN and MAY_END.  `red` and `apple` also have AFTER_BLANK: the beginning of a text counts as a blank.
"""

from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import alphanumeric_mask, as_read_only, inlined, inner, load_8, store_pair, trailing_zeros
from worldclip.kernels.nfc import fold, is_nfc, nfc
from worldclip.kernels.unicode_table import COMBINING_SHIFT, MARK, NFC_MAYBE, NFC_NO, SIMILAR_TO_CJK, SPACE, SPACED
from worldclip.kernels.utf8 import LOW_BYTES, decode, word_at

REFERENCE, UNICODE_FOLD = 0, 2  # positions in profiles.PROFILES

MAX_TOKEN_BYTES = 7  # the eighth byte of a key holds the length
AFTER_BLANK = 16  # a bit above a token's length, which is at most 7
MAY_BEGIN, GOES_ON, MAY_END = 1 << 29, 1 << 30, 1 << 31  # trie.py compares the last two with bits of its own

# What each byte is to the reference's spacing: [:256] in entries, where only the blank parts words, [256:] in texts.
_OTHER, _BLANK, _MARK, _END = 0, 1, 2, 3
_KINDS = np.zeros(512, np.uint8)
_KINDS[ord(" ")] = _BLANK
_KINDS[[256 + ord(x) for x in " \t\n\r"]] = _BLANK
_KINDS[[256 + ord(x) for x in ",.;:?!`"]] = _MARK

_U0, _U56, _NO_MAY_END = np.uint64(0), np.uint64(56), ~np.uint64(MAY_END)
_SHORT = 2 * MAX_TOKEN_BYTES  # bytes of a word that is put out at once, without a loop: most words of most texts
_ROOM = MAX_TOKEN_BYTES + 8  # bytes that are read to put out such a word
_MASKED = 64  # bytes that one mask covers
_DOUBTFUL = NFC_NO | NFC_MAYBE


@inner
def token_capacity(offsets):
    """Return a bound for the tokens of the longest text: two per byte, which no profile's normalisation exceeds."""
    longest = 0
    for i in range(offsets.size - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return 2 * longest + 4


@inlined
def put_tokens(data, start, end, is_text, profile, classes, text, tokens_2N, count):
    """Append the tokens of a text, or of an entry, to the first `count`.

    Returns the new number of tokens, and whether the text may not be normal: `put_normal_tokens` must cut it then.
    """
    if profile == REFERENCE:
        if is_text:
            start, end = _strip(data, start, end, classes)
        elif start == end:
            return count, False
        return _cut_reference(data, start, end, is_text, classes, text, tokens_2N, count), False
    if profile == UNICODE_FOLD:
        return count, True
    return _cut_unicode(data, start, end, classes, text, tokens_2N, count)


@inner
def put_normal_tokens(data, start, end, profile, unicode, text, tokens_2N, count):
    """Append the tokens of NFC(text), with folding of NFC(fold(NFC(text))).  Returns the new number of tokens."""
    if profile == UNICODE_FOLD:
        data, end = _folded(data, start, end, unicode)
        start = np.int64(0)
    # The cut itself says whether the text may not be NFC, so nearly every text is cut once and not checked.
    total, is_doubtful = _cut_unicode(data, start, end, unicode.classes, text, tokens_2N, count)
    if is_doubtful and not is_nfc(data, start, end, unicode):
        data = nfc(data, start, end, unicode)
        total, _ = _cut_unicode(data, np.int64(0), data.size, unicode.classes, text, tokens_2N, count)
    return total


@inner
def _folded(data, start, end, unicode):
    """Return the full case folding of NFC(text), as a new array and its size."""
    out = np.empty(3 * (end - start) + 8, np.uint8)
    size, seen = fold(data, start, end, unicode, out)
    if (seen & _DOUBTFUL or seen >> COMBINING_SHIFT) and not is_nfc(data, start, end, unicode):
        composed = nfc(data, start, end, unicode)
        out = np.empty(3 * composed.size + 8, np.uint8)
        size, _ = fold(composed, np.int64(0), composed.size, unicode, out)
    return as_read_only(out), size


@inner
def _is_strippable(c, classes):
    return classes[c] & SPACE or 0x1C <= c <= 0x1F


@inlined
def _strip(data, start, end, classes):
    """Return (start, end) of what `str.strip()` leaves."""
    if start < end and 0x20 < data[start] < 0x80 and 0x20 < data[end - 1] < 0x80:
        return start, end  # nearly all texts in English
    while start < end:
        c, width = decode(word_at(data, start), end - start)
        if not _is_strippable(c, classes):
            break
        start += width
    while end > start:
        at = end - 1
        while at > start and data[at] & 0xC0 == 0x80:  # back over continuation bytes
            at -= 1
        c, width = decode(word_at(data, at), end - at)
        if at + width != end or not _is_strippable(c, classes):
            break
        end = at
    return start, end


# --- pieces of texts ----------------------------------------------------------------------------------


@inlined
def _alphanumeric_at(data, at):
    """Return `alphanumeric_mask`, also near the end of `data`."""
    if at + _MASKED <= data.size:
        return alphanumeric_mask(data, at)
    mask = _U0
    for k in range(data.size - at):
        a = data[at + k]
        lower = a | 0x20
        mask |= np.uint64(97 <= lower <= 122 or 48 <= a <= 57) << np.uint64(k)
    return mask


@inlined
def _put(key, info, text, tokens_2N, count):
    """Write one token; info: its length and AFTER_BLANK, MAY_BEGIN and MAY_END."""
    store_pair(tokens_2N, count, key | np.uint64(info & 31) << _U56, text | np.uint64(info | GOES_ON))


@inlined
def _put_word(data, at, size, flags, text, tokens_2N, count):
    """Write a whole word of at most _SHORT bytes; returns the new number of tokens.

    Two tokens are written whether or not the second is needed: a branch on the length of a word is mispredicted often.
    """
    first = min(size, MAX_TOKEN_BYTES)
    tail = max(size - MAX_TOKEN_BYTES, 0)
    ends = MAY_END if tail == 0 else 0
    _put(load_8(data, at) & LOW_BYTES[first], first | flags | ends, text, tokens_2N, count)
    _put(load_8(data, at + MAX_TOKEN_BYTES) & LOW_BYTES[tail], tail | MAY_END, text, tokens_2N, count + 1)
    return count + 1 + (tail > 0)


@inlined
def _append(word, width, key, size, flags, text, tokens_2N, count):
    """Append the first `width` (at most 7) bytes of `word` to the piece (key, size, flags); a full token is written.

    Returns the new key, size, flags and number of tokens.
    """
    word &= LOW_BYTES[width]
    if size == 0:
        return word, width, flags, count
    if size < MAX_TOKEN_BYTES:
        key |= word << np.uint64(8 * size)
    if size + width <= MAX_TOKEN_BYTES:
        return key, size + width, flags, count
    _put(key & LOW_BYTES[MAX_TOKEN_BYTES], MAX_TOKEN_BYTES | flags, text, tokens_2N, count)
    taken = MAX_TOKEN_BYTES - size
    return word >> np.uint64(8 * taken), width - taken, 0, count + 1


@inner
def _append_run(data, at, run, key, size, flags, text, tokens_2N, count):
    """Do as `_append` for a run of any length."""
    for k in range(0, run, MAX_TOKEN_BYTES):
        width = min(run - k, MAX_TOKEN_BYTES)
        key, size, flags, count = _append(word_at(data, at + k), width, key, size, flags, text, tokens_2N, count)
    return key, size, flags, count


# --- the two profiles' cuts ---------------------------------------------------------------------------


@inlined
def _cut_reference(data, start, end, is_text, classes, text, tokens_2N, count):
    """Cut as the reference's spacing and padding imply: at blanks, around the marks it spaces, around "CJK or similar".

    A text is what strip() leaves of it; an entry is taken as it is, and its marks are not spaced.  Appends to the first
    `count` tokens; returns the new number.
    """
    first_kind = 256 if is_text else 0
    # The piece being gathered: a word that began before `at`.  int64, not the literal 0, for which numba would compile
    # all that it is passed to a second time; so in `_cut_unicode`.
    key = _U0
    size = np.int64(0)
    flags = AFTER_BLANK | MAY_BEGIN
    mask = _U0  # which of the 64 bytes from masked_at on are ASCII letters and digits
    masked_at = start - _MASKED
    at = start
    while at < end:
        if data[at] < 0x80:
            if at - masked_at >= _MASKED - _SHORT:
                mask = _alphanumeric_at(data, at)
                masked_at = at
            run = min(trailing_zeros(~(mask >> np.uint64(at - masked_at))), end - at)
            kind = _KINDS[first_kind + np.int64(data[at + run])] if at + run < end else _END
            if size == 0 and run <= _SHORT and kind != _OTHER and at + _ROOM <= data.size:
                # The common case: a short word between blanks or marks, in one go with what ends it.
                total = _put_word(data, at, run, flags, text, tokens_2N, count)
                if run > 0 or flags & AFTER_BLANK:  # also the empty word between two blanks
                    count = total
                at += run + 1
                if kind == _END:
                    return count
                _put(np.uint64(data[at - 1]), 1 | AFTER_BLANK | MAY_BEGIN | MAY_END, text, tokens_2N, count)
                count += kind == _MARK
                flags = AFTER_BLANK | MAY_BEGIN
                continue
            if run > 0:
                key, size, flags, count = _append_run(data, at, run, key, size, flags, text, tokens_2N, count)
                at += run
                continue
            if kind != _OTHER:
                if size > 0 or flags & AFTER_BLANK:
                    _put(key, size | flags | MAY_END, text, tokens_2N, count)
                    count += 1
                key = _U0
                size = np.int64(0)
                flags = AFTER_BLANK | MAY_BEGIN
                _put(np.uint64(data[at]), 1 | AFTER_BLANK | MAY_BEGIN | MAY_END, text, tokens_2N, count)
                count += kind == _MARK
                at += 1
                continue
        word = word_at(data, at)
        c, width = decode(word, end - at)
        word &= LOW_BYTES[width]
        at += width
        if classes[c] & SIMILAR_TO_CJK:
            if size > 0:
                _put(key, size | flags, text, tokens_2N, count)
                count += 1
                flags = 0
            _put(word, width | (flags & AFTER_BLANK) | MAY_BEGIN | MAY_END, text, tokens_2N, count)
            count += 1
            key = _U0
            size = np.int64(0)
            flags = 0
        else:
            key, size, flags, count = _append(word, width, key, size, flags, text, tokens_2N, count)
    if size > 0 or flags & AFTER_BLANK:
        _put(key, size | flags | MAY_END, text, tokens_2N, count)
        count += 1
    return count


@inlined
def _put_short(data, start, size, after, is_blank, blank, text, tokens_2N, count):
    """Append the ASCII word of `size` bytes, if any, and the ASCII character after it, unless that is a blank.

    Returns the new number of tokens.
    """
    total = _put_word(data, start, size, blank | MAY_BEGIN, text, tokens_2N, count)
    if size > 0:
        count = total
        blank = 0
    _put(np.uint64(after), 1 | blank | MAY_BEGIN | MAY_END, text, tokens_2N, count)
    return count + (not is_blank)


@inlined
def _cut_unicode(data, start, end, classes, text, tokens_2N, count):
    """Cut a text in NFC at whitespace and wherever not both neighbours are SPACED.

    Appends to the first `count` tokens; returns the new number, and whether the text may not be NFC.
    """
    first = count
    # The word being gathered, and whether a blank goes before it.
    key = _U0
    size = np.int64(0)
    blank = AFTER_BLANK
    # For the quick check of NFC: all classes, or-ed, and whether combining classes ever fall.
    seen = np.uint16(0)
    is_unordered = False
    last = 0
    mask = _U0  # which of the 64 bytes from masked_at on are ASCII letters and digits
    masked_at = start - _MASKED
    at = start
    while at < end:
        if size == 0:
            flags = blank | MAY_BEGIN
        if data[at] < 0x80:
            if at - masked_at >= _MASKED - _SHORT:
                mask = _alphanumeric_at(data, at)
                masked_at = at
            run = min(trailing_zeros(~(mask >> np.uint64(at - masked_at))), end - at)
            after = np.int64(data[at + run]) if at + run < end else 32
            if size == 0 and run <= _SHORT and after < 0x80 and at + _ROOM <= data.size:
                # The common case: a short ASCII word, in one go with the ASCII character after it.
                is_blank = classes[after] & SPACE != 0
                count = _put_short(data, at, run, after, is_blank, blank, text, tokens_2N, count)
                blank = AFTER_BLANK if is_blank else 0
                last = 0
                at += run + 1
                continue
            if run > 0:
                key, size, flags, count = _append_run(data, at, run, key, size, flags, text, tokens_2N, count)
                blank = 0
                last = 0
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
            tokens_2N[2 * count - 1] &= _NO_MAY_END
        if bits & SPACED:
            key, size, flags, count = _append(word, width, key, size, flags, text, tokens_2N, count)
            blank = 0
            continue
        if size > 0:
            _put(key, size | flags | (0 if bits & MARK else MAY_END), text, tokens_2N, count)
            count += 1
            key = _U0
            size = np.int64(0)
        if bits & SPACE:
            blank = AFTER_BLANK
        else:
            _put(word, width | blank | MAY_BEGIN | MAY_END, text, tokens_2N, count)
            count += 1
            blank = 0
    if size > 0:
        _put(key, size | flags | MAY_END, text, tokens_2N, count)
        count += 1
    return count, is_unordered or seen & _DOUBTFUL != 0
