"""The coin against the published vectors and a plain XXH64."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip import curate
from worldclip.core import coin

MASK = 2**64 - 1
P1, P2, P3 = 11400714785074694791, 14029467366897019727, 1609587929392839161
P4, P5 = 9650029242287828579, 2870177450012600261


def rotl(x: int, r: int) -> int:
    return (x << r | x >> 64 - r) & MASK


def plain_xxh64(data: bytes) -> int:
    def mix(acc: int, word: int) -> int:
        return rotl((acc + word * P2) & MASK, 31) * P1 & MASK

    length, h = len(data), P5
    if length >= 32:
        accs = [(P1 + P2) & MASK, P2, 0, -P1 & MASK]
        while len(data) >= 32:
            accs = [mix(acc, int.from_bytes(data[8 * k : 8 * k + 8], "little")) for k, acc in enumerate(accs)]
            data = data[32:]
        h = sum(rotl(acc, r) for acc, r in zip(accs, (1, 7, 12, 18), strict=True)) & MASK
        for acc in accs:
            h = ((h ^ mix(0, acc)) * P1 + P4) & MASK
    h = (h + length) & MASK
    while len(data) >= 8:
        h = (rotl(h ^ mix(0, int.from_bytes(data[:8], "little")), 27) * P1 + P4) & MASK
        data = data[8:]
    if len(data) >= 4:
        h = (rotl(h ^ int.from_bytes(data[:4], "little") * P1 & MASK, 23) * P2 + P3) & MASK
        data = data[4:]
    for byte in data:
        h = rotl(h ^ byte * P5 & MASK, 11) * P1 & MASK
    h = (h ^ h >> 33) * P2 & MASK
    h = (h ^ h >> 29) * P3 & MASK
    return h ^ h >> 32


def plain_uniform(key: str, *values: int) -> float:
    h = plain_xxh64(key.encode())
    for value in values:
        h = (h + value + 0x9E3779B97F4A7C15) & MASK
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & MASK
        h = (h ^ h >> 27) * 0x94D049BB133111EB & MASK
        h ^= h >> 31
    return (h >> 11) * 2**-53


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("000000000", 0, 0, 0, 0), 0.1945941320636071),
        (("000000000", 0, 0, 0, 1), 0.4030198837369374),
        (("red apple", 3, 42, 7, 0), 0.8684517442360835),
        (("", 0, 0, 1, 3), 0.9604962770114444),
    ],
)
def test_published_vectors(arguments, expected):
    key, *rest = arguments
    assert curate.uniform(key, *rest) == expected
    assert curate.uniform([key], *rest).tolist() == [expected]
    assert plain_uniform(*arguments) == expected


def test_xxh64_of_known_strings():
    # https://github.com/Cyan4973/xxHash: XXH64("", 0) and XXH64("abc", 0)
    assert coin.hash_keys(["", "abc"]).tolist() == [0xEF46DB3751D8E999, 0x44BC2CF5AD770999]


def test_xxh64_agrees_with_a_plain_hash_for_lengths_0_to_100():
    keys = [("aé漢🌍" * 30).encode()[:n].decode("utf-8", "ignore") + "x" * (n % 4) for n in range(101)]
    keys += ["k" * n for n in range(101)]
    assert coin.hash_keys(keys).tolist() == [plain_xxh64(key.encode()) for key in keys]


# numbers from 0 up and the largest seed of 64 bits
NUMBERS = st.integers(0, 2**31 - 1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=80), NUMBERS), max_size=8), st.integers(0, MASK), NUMBERS, st.integers(0, 3))
def test_uniform_agrees_with_a_plain_implementation(pairs, seed, epoch, stream):
    keys, text_idx = [key for key, _ in pairs], [idx for _, idx in pairs]
    expected = [plain_uniform(key, idx, seed, epoch, stream) for key, idx in pairs]
    assert curate.uniform(keys, text_idx, seed, epoch, stream).tolist() == expected


def test_every_kind_of_array_gives_the_same_numbers():
    keys = ["a", "", "ключ", "鍵", "b" * 40]
    expected = curate.uniform(keys, 2, 5, 1).tolist()
    string, large = pa.array(keys, pa.string()), pa.array(keys, pa.large_string())
    kinds = [
        np.array(keys),
        np.array(keys, object),
        string,
        large,
        pa.chunked_array([string.slice(0, 2), string.slice(2)]),
        pa.chunked_array([large]),
        string.dictionary_encode(),
    ]
    for kind in kinds:
        assert curate.uniform(kind, 2, 5, 1).tolist() == expected
    assert curate.uniform(large.slice(1, 3), np.array([2, 2, 2], np.int32), 5, 1).tolist() == expected[1:4]
    assert curate.uniform([], 0, 0, 0).shape == (0,)
    assert curate.uniform(pa.chunked_array([], pa.string()), 0, 0, 0).shape == (0,)


def test_null_key_raises():
    with pytest.raises(ValueError, match="1 of 2 keys are null"):
        curate.uniform(pa.array(["a", None]), 0, 0, 0)


def test_numbers_are_uniform_and_unrelated_between_streams():
    keys = [str(i) for i in range(100_000)]
    keep, draw = curate.uniform(keys, 0, 0, 0, coin.KEEP), curate.uniform(keys, 0, 0, 0, coin.TEXT_DRAW)
    assert abs(keep.mean() - 0.5) < 0.005
    assert np.histogram(keep, bins=10, range=(0, 1))[0].min() > 9_500
    assert abs(np.corrcoef(keep, draw)[0, 1]) < 0.01


def test_splitmix64_mixes_arrays_as_the_compiled_coin_mixes_numbers():
    states = np.array([[0, 1], [2**63, 2**64 - 1]], np.uint64)
    assert coin.splitmix64(states).tolist() == [[coin._mix(state) for state in row] for row in states]


def test_sample_of_a_union_is_the_sample_of_the_samples():
    records = [{"key": f"key {i % 50}", "text_idx": i // 50} for i in range(200)]
    parts = [coin.sample_records(records[start : start + 30], 10) for start in range(0, 200, 30)]
    whole = coin.sample_records(records, 10)
    assert coin.sample_records([record for part in parts for record in part], 10) == whole
    numbers = [coin.uniform(record["key"], record["text_idx"], 0, 0, coin.ORDER) for record in records]
    assert whole == [records[i] for i in sorted(range(200), key=numbers.__getitem__)[:10]]
    assert coin.sample_records([], 10) == []
