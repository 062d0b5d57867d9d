"""Draw a uniform number as a hash of what it decides, never from the state of a generator.

h = XXH64(UTF-8 key, seed 0); for v in (text_idx, seed, epoch, stream): h = splitmix64(h + v); u = (h >> 11) * 2**-53.
The same pairs for any number of workers, any order and any resume, offline and online.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from worldclip.core.arrow import Strings, string_buffers
from worldclip.kernels.compiled import compiled, inlined

KEEP, TEXT_DRAW, CROP, ORDER = 0, 1, 2, 3  # streams: the decision that a number is drawn for

# XXH64's primes: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
_P1, _P2 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F)
_P3, _P4 = np.uint64(0x165667B19E3779F9), np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_MINUS_P1 = np.uint64(-0x9E3779B185EBCA87 % 2**64)
_P1_PLUS_P2 = np.uint64((0x9E3779B185EBCA87 + 0xC2B2AE3D27D4EB4F) % 2**64)


@inlined
def _rotl(x, bits):
    return (x << bits) | (x >> (np.uint64(64) - bits))  # bits: a uint64, since numba compiles for each literal apart


@inlined
def _read_u32(data, i):
    word = np.uint64(0)
    for k in range(4):
        word |= np.uint64(data[i + k]) << np.uint64(8 * k)
    return word


@inlined
def _read_u64(data, i):
    return _read_u32(data, i) | (_read_u32(data, i + 4) << np.uint64(32))


@inlined
def _round(acc, word):
    return _rotl(acc + word * _P2, np.uint64(31)) * _P1


@compiled
def xxh64(data, start, stop, seed):
    """Return XXH64 of the bytes data[start:stop] (uint8) as uint64; seed: uint64."""
    i = start
    if stop - start >= 32:
        acc_1, acc_2, acc_3, acc_4 = seed + _P1_PLUS_P2, seed + _P2, seed, seed + _MINUS_P1
        while i + 32 <= stop:
            acc_1 = _round(acc_1, _read_u64(data, i))
            acc_2 = _round(acc_2, _read_u64(data, i + 8))
            acc_3 = _round(acc_3, _read_u64(data, i + 16))
            acc_4 = _round(acc_4, _read_u64(data, i + 24))
            i += 32
        h = _rotl(acc_1, np.uint64(1)) + _rotl(acc_2, np.uint64(7))
        h += _rotl(acc_3, np.uint64(12)) + _rotl(acc_4, np.uint64(18))
        for acc in (acc_1, acc_2, acc_3, acc_4):
            h = (h ^ _round(np.uint64(0), acc)) * _P1 + _P4
    else:
        h = seed + _P5
    h += np.uint64(stop - start)
    while i + 8 <= stop:
        h = _rotl(h ^ _round(np.uint64(0), _read_u64(data, i)), np.uint64(27)) * _P1 + _P4
        i += 8
    if i + 4 <= stop:
        h = _rotl(h ^ (_read_u32(data, i) * _P1), np.uint64(23)) * _P2 + _P3
        i += 4
    while i < stop:
        h = _rotl(h ^ (np.uint64(data[i]) * _P5), np.uint64(11)) * _P1
        i += 1
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


def splitmix64(x: Any) -> Any:
    """Return the next output of splitmix64 from state x: a uint64, or a uint64 array of any shape.

    https://prng.di.unimi.it/splitmix64.c
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_mix = inlined(splitmix64)


@compiled
def uniform_of_hash(key_hash, text_idx, seed, epoch, stream):
    """Return `uniform` of a key with XXH64 `key_hash` (all arguments uint64) as float64 in [0, 1)."""
    h = _mix(key_hash + text_idx)
    h = _mix(h + seed)
    h = _mix(h + epoch)
    h = _mix(h + stream)
    return np.float64(h >> np.uint64(11)) * 2.0**-53


@compiled
def _hash_keys(data, offsets, seed, hashes):
    for i in range(len(hashes)):
        hashes[i] = xxh64(data, offsets[i], offsets[i + 1], seed)


@compiled
def _uniform_of_hashes(hashes, text_idx, seed, epoch, stream, out):
    for i in range(len(out)):
        out[i] = uniform_of_hash(hashes[i], np.uint64(text_idx[i]), seed, epoch, stream)


def hash_keys(keys: Strings, seed: int = 0) -> np.ndarray:
    """Return XXH64 of each key's UTF-8 bytes: (n,) uint64."""
    data, offsets = string_buffers(keys)
    hashes = np.empty(len(offsets) - 1, np.uint64)
    _hash_keys(data, offsets, _u64(seed), hashes)
    return hashes


def uniform_of_hashes(hashes: np.ndarray, text_idx: Any, seed: int, epoch: int, stream: int = KEEP) -> np.ndarray:
    """Return `uniform` of keys with XXH64 `hashes` (n,) uint64; text_idx: one number or (n,) integers."""
    text_idx = np.broadcast_to(np.asarray(text_idx, np.int64), hashes.shape)
    out = np.empty(len(hashes), np.float64)
    _uniform_of_hashes(hashes, text_idx, _u64(seed), _u64(epoch), _u64(stream), out)
    return out


def uniform(keys: str | Strings, text_idx: Any, seed: int, epoch: int, stream: int = KEEP) -> Any:
    """Return numbers in [0, 1) that depend only on the arguments: (n,) float64, or one float for a single key.

    keys: one str, or n of them (list, numpy or Arrow array); text_idx: one number or n; stream: the decision.
    """
    if isinstance(keys, str):
        return float(uniform_of_hashes(hash_keys([keys]), text_idx, seed, epoch, stream)[0])
    return uniform_of_hashes(hash_keys(keys), text_idx, seed, epoch, stream)


def sample_numbers(keys: Strings, text_idx: Any = 0) -> np.ndarray:
    """Return the number of each text that decides whether a report shows it, (n,) float64: the smallest are shown."""
    return uniform_of_hashes(hash_keys(keys), text_idx, 0, 0, ORDER)


def sample_rows(keys: Strings, text_idx: Any, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows int64, numbers float64) of the `num` texts with the smallest `sample_numbers`, smallest first."""
    numbers = sample_numbers(keys, text_idx)
    rows = np.argsort(numbers, kind="stable")[:num]
    return rows, numbers[rows]


Record = TypeVar("Record", bound=Mapping[str, Any])


def sample_records(records: Sequence[Record], num: int) -> list[Record]:
    """Return the sample of records that have a `key` and may have a `text_idx`.

    The sample of a union is the sample of the parts' samples, so shards are sampled one by one.
    """
    keys = [record["key"] for record in records]
    rows, _ = sample_rows(keys, [record.get("text_idx", 0) for record in records], num)
    return [records[row] for row in rows]


def _u64(value: int) -> np.uint64:
    return np.uint64(int(value) % 2**64)
