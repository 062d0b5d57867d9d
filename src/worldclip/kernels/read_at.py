"""Read a file by position from compiled loops, through a small window, without mapping it.

A map of a file that is cut while it is read ends the process (SIGBUS); a read then gives fewer bytes, which is an error
that can be reported.  Hopping from header to header costs a tenth more than with page faults where the file is in the
page cache, a third more where it is cold (benchmarks/results/tar_scan.md).
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from numba import types

from worldclip.kernels.llvm import inner, kernel

READ_BYTES = 4 << 10  # one read covers the .json, the .txt and the next header of a sample, without its image
# Readers that skip less than NEAR_BYTES ask the system for the next AHEAD_BYTES, as page faults of a map do unasked.
# It takes short jumps for random access otherwise, and a cold file is read four times slower.
NEAR_BYTES, AHEAD_BYTES = 128 << 10, 8 << 20
WINDOW_BYTES = 1 << 20  # the most that `hold` can hold at once; pages that are never filled take no memory

_WILL_NEED = 3  # POSIX_FADV_WILLNEED of Linux
_pread = types.ExternalFunction("pread", types.intp(types.intc, types.uintp, types.uintp, types.int64))
_fadvise = types.ExternalFunction("posix_fadvise", types.intc(types.intc, types.int64, types.int64, types.intc))
_HAS_FADVISE = hasattr(os, "posix_fadvise")


class Window(NamedTuple):
    """A file and the part of it that is in memory."""

    fd: int
    """-1: the window is the whole file, and nothing is ever read."""
    data: np.ndarray
    """(window_bytes,) uint8; read-only for numpy, so that both kinds of windows compile once."""
    bounds: np.ndarray
    """(3,) int64: `data` holds the bytes [start, stop) of the file; the system was asked for those before the third."""
    size: int
    """Bytes of the file when it was opened."""


def window_of_file(fd: int, size: int) -> Window:
    """Return an empty window of an open file."""
    data = np.empty(WINDOW_BYTES, np.uint8)
    data.flags.writeable = False
    return Window(fd, data, np.zeros(3, np.int64), size)


def window_of_bytes(data: np.ndarray) -> Window:
    """Return a window that holds all of `data` (uint8)."""
    data = data.view()
    data.flags.writeable = False
    return Window(-1, data, np.array([0, len(data), 0], np.int64), len(data))


@inner
def hold(window, position, length):
    """Return where byte `position` is in window.data, which then holds `length` bytes from there; -1 if it cannot.

    length: at most WINDOW_BYTES.  -1: the file ends before, or cannot be read.
    """
    start, stop = window.bounds[0], window.bounds[1]
    if start <= position and position + length <= stop:
        return position - start
    if window.fd < 0 or length > len(window.data):
        return -1
    if _HAS_FADVISE and position - stop < NEAR_BYTES and position + AHEAD_BYTES // 2 > window.bounds[2]:
        _fadvise(np.int32(window.fd), position, AHEAD_BYTES, np.int32(_WILL_NEED))
        window.bounds[2] = position + AHEAD_BYTES
    wanted = min(max(length, READ_BYTES), len(window.data))
    filled = 0
    while filled < length:
        address = window.data.ctypes.data + filled
        count = _pread(np.int32(window.fd), np.uint64(address), np.uint64(wanted - filled), position + filled)
        if count <= 0:
            window.bounds[0], window.bounds[1] = 0, 0
            return -1
        filled += count
    window.bounds[0], window.bounds[1] = position, position + filled
    return 0


@kernel
def gather(window, starts, ends, prefix, offsets, values):
    """Write the slices [start, end) of the file to `values` at `offsets`, each after `prefix`.

    Returns the position that could not be read, or -1.
    """
    for row in range(len(starts)):
        at = offsets[row]
        for byte in range(len(prefix)):
            values[at + byte] = prefix[byte]
        at += len(prefix)
        position, end = starts[row], ends[row]
        while position < end:
            length = min(end - position, WINDOW_BYTES)
            offset = hold(window, position, length)
            if offset < 0:
                return position
            for byte in range(length):
                values[at + byte] = window.data[offset + byte]
            at += length
            position += length
    return -1
