"""Open files of others only if they are regular: /dev/zero has no end, and a FIFO makes its reader wait.

A path is opened first and looked at afterwards, so that no link can change in between.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

NO_FILE = "is a device, FIFO or socket, not a file"


class NotRegular(OSError):
    """A device, FIFO or socket in the place of a file."""


def open_regular_fd(path: str | Path) -> int:
    """Return a descriptor for reads.  Raises NotRegular, IsADirectoryError, and OSError as os.open."""
    # O_NONBLOCK: a FIFO without a writer would wait here.  It changes nothing for regular files.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise NotRegular(errno.EINVAL, NO_FILE, str(path))


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a file for reads, buffered.  Raises as `open_regular_fd`."""
    return os.fdopen(open_regular_fd(path), "rb")


def read_regular(path: str | Path) -> bytes:
    """Return a file's bytes.  Raises as `open_regular_fd`."""
    with open_regular(path) as file:
        return file.read()
