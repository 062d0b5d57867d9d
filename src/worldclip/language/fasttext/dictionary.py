"""Read the dictionary of a fastText model and recognise its special tokens; compiled."""

# mypy: disable-error-code="assignment, call-arg, call-overload, var-annotated"
# numba's stubs do not know what its compiled code does with intrinsics and integers.
from __future__ import annotations

import numpy as np

from worldclip.kernels.byte_table import find_row, hash_bytes
from worldclip.kernels.llvm import inner, kernel, load_8
from worldclip.kernels.utf8 import LOW_BYTES, word_at

LABEL_PREFIX = b"__label__"

_PREFIX_HEAD, _PREFIX_LAST = np.uint64(int.from_bytes(LABEL_PREFIX[:8], "little")), LABEL_PREFIX[8]
_END = np.uint64(int.from_bytes(b"</s>", "little"))


@inner
def is_label(data, start, end):
    """Return whether the token begins with `__label__`: it is then a label to fastText, never a word."""
    return end - start >= 9 and load_8(data, start) == _PREFIX_HEAD and data[start + 8] == _PREFIX_LAST


@inner
def is_end(data, start, end):
    """Return whether the token is `</s>`, after which fastText reads no further."""
    return end - start == 4 and word_at(data, start) & LOW_BYTES[4] == _END


@kernel
def scan_dictionary(data, size):
    """Return (starts, ends, counts, number of bytes) of the `size` entries at the head of `data`.

    The number of bytes is -1 if `data` is cut short.
    """
    starts = np.empty(size, np.int64)
    ends = np.empty(size, np.int64)
    counts = np.zeros(size, np.int64)
    at = 0
    for i in range(size):
        starts[i] = at
        while at < len(data) and data[at] != 0:
            at += 1
        ends[i] = at
        if at + 10 > len(data):
            return starts, ends, counts, -1
        for byte in range(8):
            counts[i] |= np.int64(data[at + 1 + byte]) << (8 * byte)
        at += 10  # the zero, the count (8) and the kind (1)
    return starts, ends, counts, at


@kernel
def find_end(dictionary, starts, ends, slots):
    """Return the entry id of `</s>`, -1 if the dictionary does not have it."""
    token = np.array([ord("<"), ord("/"), ord("s"), ord(">")], np.uint8)
    return find_row(token, 0, 4, hash_bytes(token, 0, 4), dictionary, starts, ends, slots)
