"""The hash table over byte strings where hashes collide, which chance would never show."""

import numpy as np
import pyarrow as pa

from worldclip.core.arrow import byte_buffers
from worldclip.kernels.byte_table import empty_slots, find_row, find_slot, hash_bytes, insert_rows, put_row
from worldclip.kernels.llvm import kernel


@kernel
def find_all(data, starts, ends, slots, key):
    """Insert all strings under one hash; returns the row that each is then found at."""
    rows = np.empty(len(starts), np.int64)
    for row in range(len(starts)):
        put_row(slots, find_slot(data, starts[row], ends[row], key, data, starts, ends, slots), key, row)
    for row in range(len(starts)):
        rows[row] = find_row(data, starts[row], ends[row], key, data, starts, ends, slots)
    return rows


@kernel
def hashes_of(data, starts, ends):
    return np.array([hash_bytes(data, starts[row], ends[row]) for row in range(len(starts))])


def test_strings_with_equal_hashes_are_told_apart():
    data, offsets = byte_buffers(pa.array(["a", "b", "ab", ""], pa.large_string()))
    slots = empty_slots(4)
    assert find_all(data, offsets[:-1], offsets[1:], slots, np.uint64(2**64 - 1)).tolist() == [0, 1, 2, 3]
    assert slots[:3].all()  # the last slot comes first, then the table begins anew
    assert slots[-1]


def test_hash_depends_on_every_byte_and_on_the_length():
    texts = [b"x" * n for n in range(40)] + [b"x" * n + b"y" + b"x" * (39 - n) for n in range(40)]
    data, offsets = byte_buffers(pa.array(texts, pa.large_binary()))
    assert len(set(hashes_of(data, offsets[:-1], offsets[1:]).tolist())) == len(texts)


def test_first_of_equal_strings_stays():
    data, offsets = byte_buffers(pa.array(["a", "b", "a", "a"], pa.large_string()))
    assert insert_rows(data, offsets[:-1], offsets[1:], empty_slots(4)) == 2
