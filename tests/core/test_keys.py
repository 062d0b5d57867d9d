"""Key tables and keys.npy."""

from __future__ import annotations

import numpy as np

from worldclip.core import keys


def test_key_table_finds_every_key_and_no_other():
    some = [f"key {i}" for i in range(1000)] + ["", "äöü"]
    table = keys.KeyTable([*some, "key 3", ""])
    assert table.num_repeated == 2
    assert table.find(some[::-1]).tolist() == list(range(len(some)))[::-1]
    assert table.find(["key", "key 1000", "key 3 "]).tolist() == [-1, -1, -1]
    assert keys.KeyTable([]).find(["a"]).tolist() == [-1]


def test_hex_keys_are_datacomps_pairs():
    names = ["00112233445566778899aabbccddeeff", "ffffffffffffffff0000000000000001", "short", "A" * 32, "g" * 32]
    pairs, is_hex = keys.hex_pairs(names)
    assert is_hex.tolist() == [True, True, False, False, False]
    expected = [(int(name[:16], 16), int(name[16:], 16)) for name in names[:2]]
    assert [tuple(pair) for pair in pairs[:2].tolist()] == expected
    kept = keys.sort_pairs(pairs[[1, 0, 1]])
    assert kept.dtype == np.dtype("u8,u8")
    assert kept.tolist() == sorted(expected)
    assert keys.hex_strings(kept).to_pylist() == names[:2]
