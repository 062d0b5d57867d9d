"""Find the members of a tar in one pass over its mapped bytes: only headers are read, never an image; compiled.

Reads all that tar writers write: v7, ustar (prefix), GNU (long names, large numbers) and pax (path, size).
Formats: POSIX.1-2001 pax interchange format; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import numba
import numpy as np

BLOCK = 512
# Columns of a member: its name is data[PREFIX : PREFIX + PREFIX_SIZE], "/" where that is not empty, then
# data[NAME : NAME + NAME_SIZE]; its content is data[AT : AT + SIZE].
PREFIX, PREFIX_SIZE, NAME, NAME_SIZE, AT, SIZE = range(6)

OK, CUT_HEADER, BAD_CHECKSUM, CUT_MEMBER, NO_END, DATA_AFTER_END, SPARSE, BAD_NUMBER, BAD_PAX = range(9)
_MEANING = {
    CUT_HEADER: "cut off in the header at byte {at:,}",
    BAD_CHECKSUM: "not a tar, or damaged: the header at byte {at:,} has a wrong checksum",
    CUT_MEMBER: "cut off: the member whose header is at byte {at:,} extends past the end of the file",
    NO_END: "cut off: ends at byte {at:,} without the end mark (two blocks of zeros)",
    DATA_AFTER_END: "has data after the end mark at byte {at:,}; if two tars were joined, split them",
    SPARSE: "has a sparse member at byte {at:,}, which is not supported; rewrite the tar without --sparse",
    BAD_NUMBER: "damaged: the header at byte {at:,} has a size that is not a number",
    BAD_PAX: "damaged: the pax header at byte {at:,} cannot be read",
}


def scan(data: np.ndarray) -> np.ndarray:
    """Return the positions of the regular members of the tar `data` (uint8), in order: (num_members, 6) int64.

    Raises ValueError that says what is wrong and where.
    """
    if len(data) == 0:
        raise ValueError("empty file")
    members = np.empty((len(data) // BLOCK, 6), np.int64)  # as many as fit; pages never written take no memory
    count, status, at = _scan(data, members)
    if status != OK:
        raise ValueError(_MEANING[status].format(at=at))
    return members[:count].copy()


@numba.njit(cache=True, nogil=True)
def _number(data: np.ndarray, at: int, length: int) -> int:
    """Return a header's number: octal digits, or base 256 if the top bit is set (GNU).  -1 if it is neither."""
    if data[at] & 0x80:
        value = int(data[at]) & 0x7F
        for position in range(at + 1, at + length):
            if value >= 1 << 55:
                return -1
            value = (value << 8) | int(data[position])
        return -1 if data[at] == 0xFF else value
    value = 0
    position, end = at, at + length
    while position < end and data[position] == 32:
        position += 1
    while position < end and data[position] != 0 and data[position] != 32:
        if data[position] < 48 or data[position] > 55:
            return -1
        value = value * 8 + int(data[position]) - 48
        position += 1
    return value


@numba.njit(cache=True, nogil=True)
def _checksum_is_right(data: np.ndarray, at: int) -> bool:
    """Return whether the checksum is the sum of the header's bytes, its own eight read as blanks.

    Some old writers summed signed bytes.
    """
    unsigned = 0
    signed = 0
    for position in range(at, at + BLOCK):
        byte = int(data[position])
        if at + 148 <= position < at + 156:
            byte = 32
        unsigned += byte
        signed += byte if byte < 128 else byte - 256
    stated = _number(data, at + 148, 8)
    return stated in (unsigned, signed)


@numba.njit(cache=True, nogil=True)
def _is_zero(data: np.ndarray, start: int, end: int) -> bool:
    for position in range(start, end):  # noqa: SIM110  numba compiles no generators
        if data[position] != 0:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _length(data: np.ndarray, at: int, limit: int) -> int:
    """Return the number of bytes before the first zero, at most `limit`."""
    length = 0
    while length < limit and data[at + length] != 0:
        length += 1
    return length


@numba.njit(cache=True, nogil=True)
def _pax(data: np.ndarray, at: int, size: int) -> tuple[bool, int, int, int]:
    """Return (is well formed, start of `path`, its length, `size`) of a pax header; -1 for what it does not have.

    Each record is "LENGTH KEY=VALUE\\n", and LENGTH counts all of it.
    """
    path_at, path_length, stated_size = -1, -1, -1
    position, end = at, at + size
    while position < end and data[position] != 0:
        start, length = position, 0
        while position < end and 48 <= data[position] <= 57 and length < 1 << 32:
            length = length * 10 + int(data[position]) - 48
            position += 1
        record_end = start + length
        if position >= end or data[position] != 32 or record_end > end or record_end <= position + 1:
            return False, -1, -1, -1
        key = position + 1
        is_named = record_end - 1 - key >= 5 and data[key + 4] == 61  # "="
        first = data[key]
        if is_named and first == 112 and data[key + 1] == 97 and data[key + 2] == 116 and data[key + 3] == 104:
            path_at, path_length = key + 5, record_end - 1 - (key + 5)  # path=
        if is_named and first == 115 and data[key + 1] == 105 and data[key + 2] == 122 and data[key + 3] == 101:
            stated_size = 0  # size=
            for digit in range(key + 5, record_end - 1):
                if data[digit] < 48 or data[digit] > 57 or stated_size > 1 << 58:
                    return False, -1, -1, -1
                stated_size = stated_size * 10 + int(data[digit]) - 48
        position = record_end
    return True, path_at, path_length, stated_size


@numba.njit(cache=True, nogil=True)
def _scan(data: np.ndarray, members: np.ndarray) -> tuple[int, int, int]:
    """Fill `members`; returns (their number, status, byte of the status)."""
    count = 0
    total = len(data)
    position = 0
    # A long name or a size from extra headers, which come before the header of the member that they describe.
    long_at, long_size, pax_size = -1, -1, -1
    while True:
        if position >= total:
            return count, NO_END, position
        if position + BLOCK > total:
            return count, CUT_HEADER, position
        if data[position] == 0 and _is_zero(data, position, position + BLOCK):
            return count, OK if _is_zero(data, position, total) else DATA_AFTER_END, position
        if not _checksum_is_right(data, position):
            return count, BAD_CHECKSUM, position
        kind = data[position + 156]
        size = _number(data, position + 124, 12)
        at = position + BLOCK
        is_regular = kind == 0 or kind == 48 or kind == 55  # v7, "0", contiguous "7"
        if is_regular and pax_size >= 0:
            size = pax_size
        if size < 0:
            return count, BAD_NUMBER, position
        if 49 <= kind <= 54:  # links, devices, folders have no content
            size = 0
        if size > total - at:
            return count, CUT_MEMBER, position
        if kind == 83:  # "S"
            return count, SPARSE, position
        if kind == 76:  # "L": the next member's name
            long_at, long_size = at, _length(data, at, size)
        elif kind == 120:  # "x": pax, for the next member
            is_right, path_at, path_size, pax_size = _pax(data, at, size)
            if not is_right:
                return count, BAD_PAX, position
            if path_at >= 0:
                long_at, long_size = path_at, path_size
        elif kind != 75 and kind != 103:  # "K": a long link's target; "g": pax for all members, without names
            if is_regular:
                _place_name(data, position, long_at, long_size, members[count])
                members[count, 4], members[count, 5] = at, size
                count += 1
            long_at, long_size, pax_size = -1, -1, -1
        position = at + (size + BLOCK - 1) // BLOCK * BLOCK


@numba.njit(cache=True, nogil=True)
def _place_name(data: np.ndarray, header: int, long_at: int, long_size: int, member: np.ndarray) -> None:
    """Write the position of a member's name, without a leading `./`; with long_at >= 0 an extra header holds it."""
    member[0] = 0
    member[1] = 0
    if long_at >= 0:
        member[2] = long_at
        member[3] = long_size
    else:
        is_posix = data[header + 257] == 117 and data[header + 262] == 0  # "ustar\0"; GNU's magic ends in a blank
        if is_posix:
            member[0] = header + 345
            member[1] = _length(data, header + 345, 155)
        member[2] = header
        member[3] = _length(data, header, 100)
    first = 0 if member[1] else 2  # column of the name's first part
    while member[first + 1] > 2 and data[member[first]] == 46 and data[member[first] + 1] == 47:  # "./"
        member[first] += 2
        member[first + 1] -= 2
