"""The matcher's compiled loops: bytes -> atoms -> a walk through one hash table.

A boundary of a text is a place where the profile lets an entry begin or end.  Whether a place is one depends on the
two characters beside it alone, so an entry's inner boundaries are the same wherever the entry occurs.  We cut texts and
entries at their boundaries and at blanks, and longer pieces every 8 bytes, into ATOMS: an atom's bytes are one uint64,
so nothing but equal bytes compares equal.  A trie over atoms then finds every occurrence, exactly, in scripts with
spaces (an atom is a word) as in those without (an atom is a character).

Legend: A atoms, B buckets of the table; a bucket is 4 slots in one cache line.
keys_A   uint64  the atom's bytes, the first one lowest, padded with zeros
info_A   uint32  bits 0-3 its length in bytes (0: the empty word between two blanks), then the flags below
table_8B uint64  bucket b is [8b : 8b + 4] the keys of its slots' edges and [8b + 4 : 8b + 8] their words, a word being
                 parent << 37 | length and AFTER_BLANK << 32 | (entry_id + 1, or 0 where no entry ends) << 2 | flags.
                 A node of the trie is the slot of the edge into it, ROOT the one without.  An empty slot's word is 0.
"""

# mypy: disable-error-code="assignment, call-arg, call-overload, var-annotated"
# numba's stubs do not know what its compiled code does with intrinsics and integers.
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from worldclip.unicode_table import COMBINING_SHIFT, FOLDS, MARK, NFC_MAYBE, NFC_NO, SIMILAR_TO_CJK, SPACE, SPACED

REFERENCE, UNICODE, UNICODE_FOLD = 0, 1, 2

AFTER_BLANK, MAY_BEGIN, MAY_END, LAST = 16, 32, 64, 128  # flags of an atom, above the 4 bits of its length
HAS_CHILD, OVERFLOWN = np.uint64(1), np.uint64(2)  # flags of a slot, and of a bucket (in its first slot)
DOUBTFUL = NFC_NO  # classes (or-ed) from here on may belong to a text that is not NFC: NFC_NO, NFC_MAYBE, combining
MAX_ATOM_BYTES = 8
MAX_SLOTS = 2**27 - 1  # 27 bits name a node, and ROOT is the last of them
MAX_ENTRIES = 2**30 - 1
RECENT = 512
FEW = 96  # ids up to which comparing all with all is the fastest sort
BLOCK_ATOMS, BLOCK_TEXTS = 512, 256  # texts walked together: enough searches at once, yet all in the nearest cache

# What each byte is to the reference's spacing: in entries, where only the blank parts words, then in texts.
_OTHER, _BLANK, _MARK = 0, 1, 2
_KINDS = np.zeros(512, np.uint8)
_KINDS[ord(" ")] = _BLANK
_KINDS[[256 + ord(x) for x in " \t\n\r"]] = _BLANK
_KINDS[[256 + ord(x) for x in ",.;:?!`"]] = _MARK

_U0, _U1, _U2, _U5, _U32 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(5), np.uint64(32)
_NOTHING = np.uint64(2**64 - 1)
_LARGEST = np.int32(2**31 - 1)
_U8F, _TOP_BIT = np.uint64(0xFF), np.uint64(0x80)
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # the lowest `size` bytes
_ROOT, _LOW_32 = np.uint64(MAX_SLOTS), np.uint64(0xFFFFFFFF)
# Odd constants with well mixed bits: 2^64 / golden ratio, and two of splitmix64's finaliser.
_MIX_1, _MIX_2, _MIX_3 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# For _plain_run: byte-wise constants, and sums that reach the top bit of a byte from the named character on.
_LOW_7, _TOP_BITS, _BITS_20 = (np.uint64(0x0101010101010101 * b) for b in (0x7F, 0x80, 0x20))
_FROM_A, _BEYOND_Z = (np.uint64(0x0101010101010101 * (0x80 - b)) for b in (ord("a"), ord("z") + 1))
_FROM_0, _BEYOND_9 = (np.uint64(0x0101010101010101 * (0x80 - b)) for b in (ord("0"), ord("9") + 1))


_inner = njit(cache=True, nogil=True, no_cpython_wrapper=True)  # for functions that only other kernels call


# --- machine instructions that numba does not offer -----------------------------------------------


def _pointer(context, builder, array_type, array, at, bits):
    """Where array[at] lies, as a pointer to integers of `bits` bits."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.IntType(bits).as_pointer())


@intrinsic
def load_8(typing_context, array, at):
    """The 8 bytes at array[at:] as a uint64, the first one lowest (array: uint8; the machine: little-endian)."""

    def codegen(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature.args[0], *arguments, 64), align=1)

    return types.uint64(array, at), codegen


@intrinsic
def trailing_zeros(typing_context, word):
    """How many of a uint64's lowest bits are 0; 64 if none is set."""

    def codegen(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


@intrinsic
def prefetch(typing_context, array, at):
    """Ask for the cache line of array[at] without waiting for it."""

    def codegen(context, builder, signature, arguments):
        pointer, number = _pointer(context, builder, signature.args[0], *arguments, 8), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], function_type)
        builder.call(hint, [pointer, number(0), number(3), number(1)])  # to read; keep in all caches; data
        return context.get_dummy_value()

    return types.none(array, at), codegen


@intrinsic
def slot_mask(typing_context, table_8B, at, key, edge):
    """Bit s is set if slot s of the bucket at table_8B[at:] holds (key, edge); at most one is."""

    def codegen(context, builder, signature, arguments):
        four = ir.VectorType(ir.IntType(64), 4)

        def load(offset):
            place = builder.add(arguments[1], ir.Constant(ir.IntType(64), offset))
            pointer = _pointer(context, builder, signature.args[0], arguments[0], place, 64)
            return builder.load(builder.bitcast(pointer, four.as_pointer()), align=8)

        def spread(value):
            first = builder.insert_element(ir.Constant(four, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4)
            return builder.shuffle_vector(first, first, zeros)

        is_key = builder.icmp_unsigned("==", load(0), spread(arguments[2]))
        edges = builder.lshr(load(4), ir.Constant(four, [32] * 4))
        is_slot = builder.and_(is_key, builder.icmp_unsigned("==", edges, spread(arguments[3])))
        return builder.zext(builder.bitcast(is_slot, ir.IntType(4)), ir.IntType(64))

    return types.uint64(table_8B, types.int64, types.uint64, types.uint64), codegen


# --- bytes to characters --------------------------------------------------------------------------


@_inner
def _word_at(data, at):
    """The 8 bytes at `at` as a uint64, the first one lowest; zeros behind the end of `data`."""
    if at + 8 <= data.size:
        return load_8(data, at)
    word = _U0
    for k in range(data.size - at):
        word |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return word


@_inner
def _decode(word, room):
    """The code point at the head of `word`, and its bytes, at most `room`; what is no UTF-8 is U+FFFD and 1 byte."""
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
        return 0xFFFD, 1
    return c, width


@_inner
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


@_inner
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


# --- NFC and case folding, in UTF-8 ---------------------------------------------------------------


@_inner
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
    """Whether the text surely is NFC: UAX 15's quick check, and most of its "maybe" decided by the character before."""
    seen = np.uint8(0)
    for at in range(start, end):
        seen |= data[at]
    if seen < 0x80:
        return True
    at, last, last_combining = start, np.int64(0), 0
    while at < end:
        c, width = _decode(_word_at(data, at), end - at)
        at += width
        bits = unicode.classes[c]
        combining = bits >> COMBINING_SHIFT
        if bits & NFC_NO or (combining != 0 and last_combining > combining):
            return False
        if bits & NFC_MAYBE:
            if last_combining == 0 and _composite(last, c, unicode) >= 0:
                return False
            # Behind other marks, be they inside a composite letter, it may yet move forward and compose.
            if combining != 0 and (last_combining != 0 or _index(unicode.decompose_from, last) >= 0):
                return False
        last, last_combining = c, combining
    return True


@_inner
def _decompose(data, start, end, unicode, points):
    """Full canonical decomposition into `points`, not yet ordered; returns how many."""
    count, at = 0, start
    while at < end:
        c, width = _decode(_word_at(data, at), end - at)
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


@_inner
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


@_inner
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


@_inner
def fold(data, start, end, unicode, out):
    """Write the full case folding to `out`, which has 3 bytes a byte; returns its size and all classes seen, or-ed."""
    at, size, seen = start, 0, np.uint16(0)
    while at < end:
        a = data[at]
        if a < 0x80:
            out[size] = a + 32 if 65 <= a <= 90 else a
            at += 1
            size += 1
            continue
        c, width = _decode(_word_at(data, at), end - at)
        seen |= unicode.classes[c]
        if unicode.classes[c] & FOLDS:
            found = _index(unicode.fold_from, c)
            for k in range(unicode.fold_index[found], unicode.fold_index[found + 1]):
                size = _encode(np.int64(unicode.folded[k]), out, size)
        else:
            for k in range(at, at + width):
                out[size] = data[k]
                size += 1
        at += width
    return size, seen


# --- characters to atoms --------------------------------------------------------------------------


@_inner
def _plain_run(word, room):
    """How many of the bytes of `word`, at most `room`, are ASCII letters or digits, from the first on.

    Both profiles keep such a run together, and most of most texts is such runs.
    """
    low = word & _LOW_7
    lower = low | _BITS_20
    letters = (lower + _FROM_A) & ~(lower + _BEYOND_Z)
    digits = (low + _FROM_0) & ~(low + _BEYOND_9)
    others = ~((letters | digits) & ~word) & _TOP_BITS
    return min(trailing_zeros(others) >> 3, room)


@_inner
def _is_strippable(c, classes):
    return classes[c] & SPACE or 0x1C <= c <= 0x1F


@_inner
def _strip(data, start, end, classes):
    """The part that `str.strip()` leaves: (start, end)."""
    if start < end and 0x20 < data[start] < 0x80 and 0x20 < data[end - 1] < 0x80:
        return start, end  # nearly all texts in English
    while start < end:
        c, width = _decode(_word_at(data, start), end - start)
        if not _is_strippable(c, classes):
            break
        start += width
    while end > start:
        at = end - 1
        while at > start and data[at] & 0xC0 == 0x80:
            at -= 1
        c, width = _decode(_word_at(data, at), end - at)
        if at + width != end or not _is_strippable(c, classes):
            break
        end = at
    return start, end


@_inner
def _append(word, width, key, size, flags, keys_A, info_A, count):
    """Add the first `width` (at most 8) bytes of `word` to the piece (key, size, flags); a full atom is put out first.

    Returns key, size, flags, count.
    """
    word &= _MASKS[width]
    if size == 0:
        return word, width, flags, count
    if size < MAX_ATOM_BYTES:
        key |= word << np.uint64(8 * size)
    if size + width <= MAX_ATOM_BYTES:
        return key, size + width, flags, count
    keys_A[count] = key
    info_A[count] = MAX_ATOM_BYTES | flags
    taken = MAX_ATOM_BYTES - size
    return word >> np.uint64(8 * taken), width - taken, 0, count + 1


@_inner
def _reference_atoms(data, start, end, is_text, classes, keys_A, info_A, count):
    """Cut as the reference's spacing and padding imply: at blanks, around the marks it spaces, around "CJK or similar".

    A text is what strip() leaves of it; an entry is taken as it is and its marks are not spaced.  Atoms are put behind
    the first `count`; returns how many there are then.
    """
    first_kind = 256 if is_text else 0
    key, size, flags = _U0, 0, AFTER_BLANK | MAY_BEGIN  # of the piece being gathered
    at = start
    while at < end:
        word = _word_at(data, at)
        run = 0 if word & _TOP_BIT else _plain_run(word, end - at)
        if run > 0:
            key, size, flags, count = _append(word, run, key, size, flags, keys_A, info_A, count)
            at += run
            if run == 8 or at >= end:
                continue
            word >>= np.uint64(8 * run)
            if word & _TOP_BIT:
                continue
        kind = _KINDS[first_kind + np.int64(word & _U8F)]
        if kind in (_BLANK, _MARK):
            if size > 0 or flags & AFTER_BLANK:  # also the empty word between two blanks
                keys_A[count] = key
                info_A[count] = size | flags | MAY_END
                count += 1
            key, size, flags = _U0, 0, AFTER_BLANK | MAY_BEGIN
            if kind == _MARK:
                keys_A[count] = word & _U8F
                info_A[count] = 1 | AFTER_BLANK | MAY_BEGIN | MAY_END
                count += 1
            at += 1
            continue
        c, width = _decode(word, end - at)
        word &= _MASKS[width]
        at += width
        if classes[c] & SIMILAR_TO_CJK:
            if size > 0:
                keys_A[count] = key
                info_A[count] = size | flags
                count += 1
                flags = 0
            keys_A[count] = word
            info_A[count] = width | (flags & AFTER_BLANK) | MAY_BEGIN | MAY_END
            count += 1
            key, size, flags = _U0, 0, 0
        else:
            key, size, flags, count = _append(word, width, key, size, flags, keys_A, info_A, count)
    if size > 0 or flags & AFTER_BLANK:
        keys_A[count] = key
        info_A[count] = size | flags | MAY_END
        count += 1
    return count


@_inner
def _unicode_atoms(data, start, end, classes, keys_A, info_A, count):
    """Cut a text in NFC at white space and wherever not both neighbours are SPACED.

    Atoms are put behind the first `count`.  Returns how many there are then, and all classes seen or-ed together.
    """
    first, seen = count, np.uint16(0)
    key, size, flags, blank = _U0, 0, 0, AFTER_BLANK  # of the word being gathered, and what goes before it
    at = start
    while at < end:
        word = _word_at(data, at)
        run = 0 if word & _TOP_BIT else _plain_run(word, end - at)
        if run > 0:
            if size == 0:
                flags = blank | MAY_BEGIN
            key, size, flags, count = _append(word, run, key, size, flags, keys_A, info_A, count)
            blank = 0
            at += run
            if run == 8 or at >= end:
                continue
            word >>= np.uint64(8 * run)
            if word & _TOP_BIT:
                continue
        c, width = _decode(word, end - at)
        word &= _MASKS[width]
        bits = classes[c]
        seen |= bits
        if bits & SPACED:
            if size == 0:
                flags = blank | MAY_BEGIN
                if bits & MARK and blank == 0 and count > first:  # nothing may end before a combining mark
                    info_A[count - 1] &= ~np.uint32(MAY_END)
            key, size, flags, count = _append(word, width, key, size, flags, keys_A, info_A, count)
            blank = 0
            at += width
            continue
        if size > 0:
            keys_A[count] = key
            info_A[count] = size | flags | MAY_END
            count += 1
            key, size = _U0, 0
        if bits & SPACE:
            blank = AFTER_BLANK
        else:
            if bits & MARK and blank == 0 and count > first:
                info_A[count - 1] &= ~np.uint32(MAY_END)
            keys_A[count] = word
            info_A[count] = width | blank | MAY_BEGIN | MAY_END
            count += 1
            blank = 0
        at += width
    if size > 0:
        keys_A[count] = key
        info_A[count] = size | flags | MAY_END
        count += 1
    return count, seen


@_inner
def _folded(data, start, end, unicode):
    """The full case folding of NFC(text), a new array and its size."""
    is_composed = False
    while True:
        out = np.empty(3 * (end - start) + 8, np.uint8)
        size, seen = fold(data, start, end, unicode, out)
        if seen < DOUBTFUL or is_composed or is_nfc(data, start, end, unicode):
            return out, size
        data, is_composed = nfc(data, start, end, unicode), True
        start, end = 0, data.size


@_inner
def _normalised_atoms(data, start, end, profile, unicode, keys_A, info_A, count):
    """Atoms of NFC(text), or with folding of NFC(fold(NFC(text))), as the profile says."""
    if profile == UNICODE_FOLD:
        data, end = _folded(data, start, end, unicode)
        start = 0
    is_composed = False
    while True:
        total, seen = _unicode_atoms(data, start, end, unicode.classes, keys_A, info_A, count)
        if seen < DOUBTFUL or is_composed or is_nfc(data, start, end, unicode):
            return total
        data, is_composed = nfc(data, start, end, unicode), True
        start, end = 0, data.size


@_inner
def _plain_atoms(data, start, end, is_text, profile, classes, keys_A, info_A, count):
    """Put the atoms of a text, or of an entry, behind the first `count`; returns how many there are then.

    -1 if the text must be normalised first.  Most are in NFC and hold no character that can raise a doubt.
    """
    if profile == REFERENCE:
        if is_text:
            start, end = _strip(data, start, end, classes)
        elif start == end:
            return count
        return _reference_atoms(data, start, end, is_text, classes, keys_A, info_A, count)
    if profile == UNICODE_FOLD:
        return -1
    total, seen = _unicode_atoms(data, start, end, classes, keys_A, info_A, count)
    return total if seen < DOUBTFUL else -1


@_inner
def atom_capacity(offsets):
    """Enough for the longest text's atoms: at most two a byte, whatever the profile makes of it."""
    longest = 0
    for i in range(offsets.size - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return 2 * longest + 2


# --- the table ------------------------------------------------------------------------------------


@_inner
def _home(key, edge, num_buckets):
    """The bucket where the search for (key, edge) begins."""
    h = (key ^ (edge * _MIX_1)) * _MIX_2
    h = (h ^ (h >> _U32)) * _MIX_3
    return np.int64((h >> _U32) * np.uint64(num_buckets) >> _U32)


@_inner
def _search(table_8B, bucket, key, edge, num_buckets):
    """(slot, whether it is there) of an edge whose search begins in `bucket`; if not, the first empty slot."""
    while True:
        mask = slot_mask(table_8B, 8 * bucket, key, edge)
        if mask != _U0:
            return 4 * bucket + trailing_zeros(mask), True
        for s in range(4):
            if table_8B[8 * bucket + 4 + s] == _U0:
                return 4 * bucket + s, False
        bucket = bucket + 1 if bucket + 1 < num_buckets else 0


@_inner
def _word_place(slot):
    """Where a slot's word stands in the table."""
    return 8 * (slot >> 2) + 4 + (slot & 3)


@njit(cache=True, nogil=True)
def insert_entries(data, offsets, profile, unicode, table_8B, first_with):
    """Put all entries into the empty table, which must have room; or count their atoms, if it has no buckets at all.

    first_with (N,) int32: -1 for an entry that stands in the table, its own id where its normalisation is empty, the
    id of the earlier entry where it equals that after normalisation.  Returns the number of used slots (or of atoms).
    """
    classes, num_buckets, used = unicode.classes, table_8B.size // 8, 0
    keys_A = np.empty(atom_capacity(offsets), np.uint64)
    info_A = np.empty(keys_A.size, np.uint32)
    for i in range(offsets.size - 1):
        start, end = offsets[i], offsets[i + 1]
        count = _plain_atoms(data, start, end, False, profile, classes, keys_A, info_A, 0)
        if count < 0:
            count = _normalised_atoms(data, start, end, profile, unicode, keys_A, info_A, 0)
        if num_buckets == 0 or count == 0:
            first_with[i] = i
            used += count
            continue
        node, at = _ROOT, 0
        for k in range(count):
            edge = node << _U5 | np.uint64(info_A[k] & (31 if k else 15))
            home = _home(keys_A[k], edge, num_buckets)
            slot, is_known = _search(table_8B, home, keys_A[k], edge, num_buckets)
            if not is_known:
                table_8B[_word_place(slot) - 4], table_8B[_word_place(slot)] = keys_A[k], edge << _U32
                if node != _ROOT:
                    table_8B[at] |= HAS_CHILD
                if slot >> 2 != home:
                    table_8B[8 * home + 4] |= OVERFLOWN
                used += 1
            node, at = np.uint64(slot), _word_place(slot)
        known = np.int64((table_8B[at] & _LOW_32) >> _U2) - 1
        first_with[i] = known
        if known < 0:
            table_8B[at] |= np.uint64(i + 1) << _U2
    return used


# --- matching -------------------------------------------------------------------------------------


@_inner
def _grown(array, size):
    larger = np.empty(max(size, 2 * array.size), array.dtype)
    for k in range(array.size):
        larger[k] = array[k]
    return larger


@_inner
def _walk(num_atoms, keys_A, info_A, text_A, at_A, edge_A, home_A, table_8B, found):
    """Follow the trie from every atom that may begin an entry, all of them a level at a time.

    Puts text << 32 | entry_id of what ends there, unordered, into `found` (made larger where needed); returns how many
    there are, and `found`.  Places are unsigned where they can be, which spares numba's test for negative ones.
    """
    num_buckets, count, active = table_8B.size // 8, _U0, _U0
    for a in range(num_atoms):
        at_A[active] = a
        edge_A[active] = _ROOT << _U5 | np.uint64(info_A[a] & 15)
        active += np.uint64(info_A[a] & MAY_BEGIN != 0)
    while active > _U0:
        if count + active > np.uint64(found.size):
            found = _grown(found, np.int64(count + active))
        # A level's searches do not wait for each other: ask memory for all their cache lines first.
        for j in range(np.int64(active)):
            home = _home(keys_A[at_A[j]], edge_A[j], num_buckets)
            prefetch(table_8B, 8 * home)
            home_A[j] = home
        kept = _U0
        for j in range(np.int64(active)):
            a, home, edge = np.int64(at_A[j]), np.int64(home_A[j]), edge_A[j]
            mask = slot_mask(table_8B, 8 * home, keys_A[a], edge)
            slot = 4 * home + (trailing_zeros(mask) & 3)
            word = table_8B[_word_place(slot)] if mask != _U0 else _U0
            if (mask == _U0) & (table_8B[8 * home + 4] & OVERFLOWN != _U0):
                slot, _ = _search(table_8B, home, keys_A[a], edge, num_buckets)
                word = table_8B[_word_place(slot)]
            info, entry = info_A[a], (word & _LOW_32) >> _U2
            found[count] = np.uint64(text_A[a]) << _U32 | entry - _U1
            count += np.uint64((entry != _U0) & (info & MAY_END != 0))
            at_A[kept] = a + 1
            edge_A[kept] = np.uint64(slot) << _U5 | np.uint64(info_A[a + 1] & 31)
            kept += np.uint64((word & HAS_CHILD != _U0) & (info & LAST == 0))
        active = kept
    return np.int64(count), found


@_inner
def _sort_many(ids, start, end, other, tally):
    """Sort ids[start:end] by their bytes, the lowest first, moving them to `other` and back."""
    largest = ids[start]
    for k in range(start, end):
        largest = max(largest, ids[k])
    shift = 0
    while largest >> shift > 0:
        for b in range(256):
            tally[b] = 0
        for k in range(start, end):
            tally[ids[k] >> shift & 255] += 1
        place = 0
        for b in range(256):
            tally[b], place = place, place + tally[b]
        for k in range(start, end):
            b = ids[k] >> shift & 255
            other[tally[b]] = ids[k]
            tally[b] += 1
        for k in range(end - start):
            ids[start + k] = other[k]
        shift += 8


@_inner
def _sort_few(ids, start, end, own):
    """Sort ids[start:end], counting the smaller ones of each, in wide instructions; repeated ids leave gaps of -1."""
    count = end - start
    padded = (count + 15) & ~15
    for i in range(count):
        own[i] = ids[start + i]
        ids[start + i] = -1
    for i in range(count, padded):
        own[i] = _LARGEST
    for i in range(count):
        this, rank = own[i], np.int32(0)
        for j in range(padded):
            rank = np.int32(rank + (own[j] < this))  # int32 throughout, for eight at once
        ids[start + rank] = this


@_inner
def _group(found, count, num_texts, recent, starts, grouped):
    """Put the ids of found[:count] into `grouped` by text; text t's are at [starts[t] : starts[t + 1]].

    Most repetitions, such as those of a frequent letter, are dropped on the way: `recent` remembers what was seen last
    by its lower bits.
    """
    for k in range(recent.size):
        recent[k] = _NOTHING
    for t in range(num_texts + 2):
        starts[t] = 0
    kept = 0
    for k in range(count):
        this = found[k]
        place = this & np.uint64(RECENT - 1)
        is_new = recent[place] != this
        recent[place] = this
        found[kept] = this
        kept += is_new
        starts[(this >> _U32) + _U2] += is_new
    for t in range(num_texts + 1):
        starts[t + 1] += starts[t]
    for k in range(kept):
        t = (found[k] >> _U32) + _U1
        grouped[starts[t]] = found[k] & _LOW_32
        starts[t] += 1


@njit(cache=True, nogil=True)
def match_texts(data, offsets, validity, first_bit, profile, unicode, table_8B):
    """Match all texts: data uint8, offsets (T + 1,) int64, validity Arrow's bitmap (empty: no nulls) from first_bit on.

    Returns ids int32 and offsets (T + 1,) int64: each text's ids sorted and unique.
    """
    num_texts = offsets.size - 1
    capacity = BLOCK_ATOMS + atom_capacity(offsets) + 1
    keys_A, info_A = np.empty(capacity, np.uint64), np.empty(capacity, np.uint32)
    text_A, at_A = np.empty(capacity, np.uint32), np.empty(capacity, np.uint32)
    edge_A, home_A = np.empty(capacity, np.uint64), np.empty(capacity, np.uint32)
    found, grouped, other = np.empty(4096, np.uint64), np.empty(4096, np.int32), np.empty(4096, np.int32)
    recent, starts = np.empty(RECENT, np.uint64), np.empty(BLOCK_TEXTS + 2, np.int64)
    tally = np.empty(256, np.int64)
    ids, ends = np.empty(16 * num_texts + 4096, np.int32), np.zeros(num_texts + 1, np.int64)
    # numba counts a reference, an atomic operation, for every array looked up or assigned: none of that for each text.
    classes, has_nulls = unicode.classes, validity.size > 0
    total, text = 0, 0
    while text < num_texts:
        num_atoms, first = 0, text
        while text < num_texts and num_atoms < BLOCK_ATOMS and text - first < BLOCK_TEXTS:
            atoms, bit, start, end = num_atoms, first_bit + text, offsets[text], offsets[text + 1]
            if not has_nulls or validity[bit >> 3] >> (bit & 7) & 1:
                atoms = _plain_atoms(data, start, end, True, profile, classes, keys_A, info_A, num_atoms)
                if atoms < 0:
                    atoms = _normalised_atoms(data, start, end, profile, unicode, keys_A, info_A, num_atoms)
            for a in range(num_atoms, atoms):
                text_A[a] = text - first
            if atoms > num_atoms:
                info_A[atoms - 1] |= LAST
            num_atoms = atoms
            text += 1
        count, found = _walk(num_atoms, keys_A, info_A, text_A, at_A, edge_A, home_A, table_8B, found)
        if grouped.size < count:
            grouped, other = np.empty(found.size, np.int32), np.empty(found.size, np.int32)
        if ids.size < total + count:
            ids = _grown(ids, total + count)
        _group(found, count, text - first, recent, starts, grouped)
        for t in range(text - first):
            if starts[t + 1] - starts[t] <= FEW:
                _sort_few(grouped, starts[t], starts[t + 1], other)
            else:
                _sort_many(grouped, starts[t], starts[t + 1], other, tally)
            last = -1
            for k in range(starts[t], starts[t + 1]):
                ids[total] = grouped[k]
                total += (grouped[k] != last) & (grouped[k] != -1)
                last = grouped[k]
            ends[first + t + 1] = total
    return ids[:total], ends
