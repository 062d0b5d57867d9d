"""Find the members of a tar in one pass: only headers are read, never an image; compiled.

Reads ustar (prefix), v7, GNU (long names) and pax (path, size).  Refuses a tar with a sparse file, whose content is
not in one piece.
Formats: POSIX.1-2001 pax interchange format; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worldclip.kernels.llvm import inner, kernel
from worldclip.kernels.read_at import WINDOW_BYTES, Window, hold

BLOCK = 512
(OK, FULL, UNREADABLE, CUT_HEADER, BAD_CHECKSUM, CUT_MEMBER, NO_END, DATA_AFTER_END, BAD_NUMBER, BAD_EXTRA,
 SPARSE) = range(11)  # fmt: skip
_MEANING = {
    CUT_HEADER: "cut off in the header at byte {at:,}",
    BAD_CHECKSUM: "not a tar, or damaged: the header at byte {at:,} has a wrong checksum",
    CUT_MEMBER: "cut off: the member whose header is at byte {at:,} extends past the end of the file",
    NO_END: "cut off: ends at byte {at:,} without the end mark (two blocks of zeros)",
    DATA_AFTER_END: "has data after the end mark at byte {at:,}; if two tars were joined, split them",
    BAD_NUMBER: "damaged: the header at byte {at:,} has a size that is not a number",
    BAD_EXTRA: "damaged or unusual: the pax or long-name header at byte {at:,} cannot be read",
    SPARSE: "the member at byte {at:,} is stored as a sparse file; pack the tar without --sparse",
}
# State of a scan between calls: where the next header is, members and bytes of names so far, then what the extra
# headers before it say of its member: bytes of its name in `extra` and its size (-1: unsaid).
_POSITION, _COUNT, _NAME_BYTES, _LONG_BYTES, _LONG_SIZE = range(5)
_NAME_END, _START, _SIZE = range(3)  # columns of a member


class Members(NamedTuple):
    """The regular members of a tar, in order."""

    names: np.ndarray
    """(num_bytes,) uint8: the names, one after the other, without a leading `./`."""
    name_offsets: np.ndarray
    """(num_members + 1,) int64."""
    starts: np.ndarray
    """(num_members,) int64: where the content begins."""
    sizes: np.ndarray
    """(num_members,) int64: bytes of the content."""


def scan(window: Window) -> Members:
    """Return the members of a tar.  Raises ValueError that says what is wrong and where; see `read_at` for `window`."""
    if window.size == 0:
        raise ValueError("empty file")
    members = np.empty((1024, 3), np.int64)
    names = np.empty(1 << 16, np.uint8)
    state = np.array([0, 0, 0, -1, -1], np.int64)
    extra = np.empty(WINDOW_BYTES, np.uint8)
    status = _scan(window, members, names, extra, state)
    while status == FULL:
        members = np.concatenate([members, np.empty_like(members)])
        names = np.concatenate([names, np.empty(max(len(names), int(state[_LONG_BYTES])), np.uint8)])
        status = _scan(window, members, names, extra, state)
    if status == UNREADABLE:
        raise Unreadable(int(state[_POSITION]))
    if status != OK:
        raise ValueError(_MEANING[status].format(at=int(state[_POSITION])))
    used = members[: state[_COUNT]]
    return Members(
        names=names[: state[_NAME_BYTES]].copy(),
        name_offsets=np.concatenate([np.zeros(1, np.int64), used[:, _NAME_END]]),
        starts=used[:, _START].copy(),
        sizes=used[:, _SIZE].copy(),
    )


class Unreadable(ValueError):
    """Bytes that the file had when it was opened could not be read; `at`: the first of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        super().__init__(f"cannot be read at byte {at:,}")


@inner
def _number(data, at, length):
    """Return a header's number, octal digits; -1 if it is none, such as GNU's base 256 for 8 GiB and more."""
    value = 0
    position, end = at, at + length
    while position < end and data[position] == 32:
        position += 1
    while position < end and 48 <= data[position] <= 55:
        value = value * 8 + int(data[position]) - 48
        position += 1
    while position < end and data[position] == 32:
        position += 1
    return value if position == end or data[position] == 0 else -1


@inner
def _checksum_is_right(data, at):
    """Return whether the checksum is the sum of the header's bytes, its own eight read as blanks."""
    total = 0
    for position in range(at, at + BLOCK):
        total += 32 if at + 148 <= position < at + 156 else int(data[position])
    return _number(data, at + 148, np.int64(8)) == total


@inner
def _is_zero(data, start, end):
    for position in range(start, end):  # noqa: SIM110  numba compiles no generators
        if data[position] != 0:
            return False
    return True


@inner
def _rest_is_zero(window, position):
    """Return OK if the file holds only zeros from `position` on, DATA_AFTER_END or UNREADABLE."""
    while position < window.size:
        length = min(window.size - position, WINDOW_BYTES)
        at = hold(window, position, length)
        if at < 0:
            return UNREADABLE
        if not _is_zero(window.data, at, at + length):
            return DATA_AFTER_END
        position += length
    return OK


@inner
def _length(data, at, limit):
    """Return the number of bytes before the first zero, at most `limit`."""
    length = 0
    while length < limit and data[at + length] != 0:
        length += 1
    return length


@inner
def _begins_with(data, at, end, key):
    """Return whether data[at:end] begins with the bytes `key`."""
    if end - at < len(key):
        return False
    for offset in range(len(key)):  # noqa: SIM110
        if data[at + offset] != key[offset]:
            return False
    return True


@inner
def _copy(data, at, length, target, start):
    """Write data[at : at + length] to target[start:]; return where it ends."""
    for offset in range(length):
        target[start + offset] = data[at + offset]
    return start + length


_PATH, _PAX_SIZE, _GNU_SPARSE = b"path=", b"size=", b"GNU.sparse."


@inner
def _read_pax(data, at, size, is_global, extra, state):
    """Read a pax header into `extra` and `state`: OK, BAD_EXTRA or SPARSE.

    Each record is "LENGTH KEY=VALUE\\n", and LENGTH counts all of it.  Of records with one key the last one counts.
    """
    path_at, path_bytes, stated_size = -1, -1, -1
    position, end = at, at + size
    while position < end and data[position] != 0:
        start, length = position, 0
        while position < end and 48 <= data[position] <= 57 and length < 1 << 32:
            length = length * 10 + int(data[position]) - 48
            position += 1
        record_end = start + length
        if position == start or position >= end or data[position] != 32 or record_end > end:
            return BAD_EXTRA
        key, value_end = position + 1, record_end - 1
        equals = key
        while equals < value_end and data[equals] != 61:  # "="
            equals += 1
        if equals == key or equals >= value_end or data[value_end] != 10:  # "\n"
            return BAD_EXTRA
        if _begins_with(data, key, value_end, _GNU_SPARSE):
            return SPARSE
        if _begins_with(data, key, value_end, _PATH):
            path_at, path_bytes = equals + 1, value_end - equals - 1
        elif _begins_with(data, key, value_end, _PAX_SIZE):
            stated_size = 0
            for digit in range(equals + 1, value_end):
                if data[digit] < 48 or data[digit] > 57 or stated_size > 1 << 58:
                    return BAD_EXTRA
                stated_size = stated_size * 10 + int(data[digit]) - 48
        position = record_end
    if is_global:
        return BAD_EXTRA if path_at >= 0 or stated_size >= 0 else OK
    if (path_at >= 0 and state[_LONG_BYTES] >= 0) or (stated_size >= 0 and state[_LONG_SIZE] >= 0):
        return BAD_EXTRA
    if path_at >= 0:
        while path_bytes > 0 and data[path_at + path_bytes - 1] == 47:  # "/"
            path_bytes -= 1
        _copy(data, path_at, path_bytes, extra, 0)
        state[_LONG_BYTES] = path_bytes
    if stated_size >= 0:
        state[_LONG_SIZE] = stated_size
    return OK


@inner
def _read_extra(window, position, kind, at, size, extra, state):
    """Read a header about the next member: "L" GNU's long name, "x", "X", "g" pax, "K" a link's target."""
    if size > WINDOW_BYTES - BLOCK:
        return BAD_EXTRA
    padded = (size + BLOCK - 1) // BLOCK * BLOCK
    if padded > window.size - at:
        return CUT_MEMBER
    offset = hold(window, at, padded)
    if offset < 0:
        return UNREADABLE
    data = window.data
    if not _is_zero(data, offset + size, offset + padded):
        return BAD_EXTRA
    if kind == 75:
        return OK
    if kind == 76:
        if state[_LONG_BYTES] >= 0:
            return BAD_EXTRA
        state[_LONG_BYTES] = _length(data, offset, size)
        _copy(data, offset, state[_LONG_BYTES], extra, 0)
        return OK
    return _read_pax(data, offset, size, kind == 103, extra, state)


@kernel
def _scan(window, members, names, extra, state):
    """Fill `members` and `names` until the end, a fault, or FULL.

    At a fault state[_POSITION] is its byte.  FULL: no room for the next member; call again with more.
    """
    while True:
        position = state[_POSITION]
        if position >= window.size:
            return NO_END
        if position + BLOCK > window.size:
            return CUT_HEADER
        offset = hold(window, position, np.int64(BLOCK))
        if offset < 0:
            return UNREADABLE
        data = window.data
        if data[offset] == 0 and _is_zero(data, offset, offset + BLOCK):
            return _rest_is_zero(window, position)
        if not _checksum_is_right(data, offset):
            return BAD_CHECKSUM
        kind = data[offset + 156]
        is_extra = kind == 75 or kind == 76 or kind == 88 or kind == 103 or kind == 120  # K L X g x
        # v7 marks a folder by the last slash of its name.
        is_folder = kind == 0 and _ends_with_slash(data, offset)
        has_content = not (49 <= kind <= 54 or is_folder)  # links, devices and folders have none
        size = _number(data, offset + 124, np.int64(12))
        if has_content and not is_extra and state[_LONG_SIZE] >= 0:
            size = state[_LONG_SIZE]
        if size < 0:
            return BAD_NUMBER
        at = position + BLOCK
        if not has_content:
            size = 0
        if size > window.size - at:
            return CUT_MEMBER
        if is_extra:
            status = _read_extra(window, position, kind, at, size, extra, state)
            if status != OK:
                return status
        else:
            if kind == 83:  # S
                return SPARSE
            if not is_folder and (kind == 0 or kind == 48 or kind == 55):  # v7 0 7
                if state[_COUNT] == len(members) or state[_NAME_BYTES] + max(state[_LONG_BYTES], 256) > len(names):
                    return FULL
                end = _place_name(data, offset, extra, names, state)
                member = members[state[_COUNT]]
                member[_NAME_END], member[_START], member[_SIZE] = end, at, size
                state[_NAME_BYTES] = end
                state[_COUNT] += 1
            state[_LONG_BYTES], state[_LONG_SIZE] = -1, -1
        state[_POSITION] = at + (size + BLOCK - 1) // BLOCK * BLOCK


@inner
def _ends_with_slash(data, header):
    length = _length(data, header, np.int64(100))
    return length > 0 and data[header + length - 1] == 47


@inner
def _place_name(data, header, extra, names, state):
    """Append a member's name to `names`, without a leading `./`; return where it ends.

    An extra header's name replaces that of the header.
    """
    start = state[_NAME_BYTES]
    end = start
    if state[_LONG_BYTES] >= 0:
        end = _copy(extra, 0, state[_LONG_BYTES], names, end)
    else:
        is_posix = data[header + 257] == 117 and data[header + 262] == 0  # "ustar\0"; GNU's magic ends in a blank
        if is_posix and data[header + 345] != 0:
            prefix = header + 345
            end = _copy(data, prefix, _length(data, prefix, np.int64(155)), names, end)
            names[end] = 47
            end += 1
        end = _copy(data, header, _length(data, header, np.int64(100)), names, end)
    dots = 0
    while end - start - dots > 2 and names[start + dots] == 46 and names[start + dots + 1] == 47:  # "./"
        dots += 2
    return _copy(names, start + dots, end - dots - start, names, start) if dots else end
