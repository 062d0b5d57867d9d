"""Sets of keys: one exact hash table over Arrow's bytes, DataComp's keys.npy, valid and deny lists."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from worldclip.core import artifacts
from worldclip.core.arrow import Strings, string_buffers
from worldclip.core.coin import hash_keys
from worldclip.core.errors import UserError

if TYPE_CHECKING:
    from worldclip.pool.config import PoolConfig

HEX_PAIR = np.dtype("u8,u8")  # a 128-bit key as DataComp's subset files hold it: high half, low half
_HEX_CHARS = 32


class KeyTable:
    """Position of a key among `keys`, by hash and then by its bytes, so never a wrong one."""

    def __init__(self, keys: Strings) -> None:
        """keys: n strings; of equal ones the first counts (`num_repeated` says how many others there are)."""
        data, offsets = string_buffers(keys)
        self.data, self.offsets = data, np.ascontiguousarray(offsets, np.int64)
        self.hashes = hash_keys(keys)
        num_slots = 1 << max(4, (2 * len(self.hashes)).bit_length())  # at most half full
        self.slots = np.full(num_slots, -1, np.int64)
        self.num_repeated = int(_fill(self.data, self.offsets, self.hashes, self.slots))

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, keys: Strings) -> np.ndarray:
        """(n,) int64: position of each of `keys`, -1 where it is not there."""
        data, offsets = string_buffers(keys)
        found = np.empty(len(offsets) - 1, np.int64)
        _find(data, offsets, hash_keys(keys), self.data, self.offsets, self.hashes, self.slots, found)
        return found


@njit(cache=True, nogil=True)
def _same(data_a, start_a, stop_a, data_b, start_b, stop_b):
    if stop_a - start_a != stop_b - start_b:
        return False
    i = 0
    while i < stop_a - start_a and data_a[start_a + i] == data_b[start_b + i]:
        i += 1
    return i == stop_a - start_a


@njit(cache=True, nogil=True)
def _fill(data, offsets, hashes, slots):
    mask = np.uint64(len(slots) - 1)
    num_repeated = 0
    for row in range(len(hashes)):
        slot = hashes[row] & mask
        while slots[slot] >= 0:
            other = slots[slot]
            if hashes[other] == hashes[row] and _same(
                data, offsets[row], offsets[row + 1], data, offsets[other], offsets[other + 1]
            ):
                num_repeated += 1
                break
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] < 0:
            slots[slot] = row
    return num_repeated


@njit(cache=True, nogil=True)
def _find(data, offsets, hashes, table_data, table_offsets, table_hashes, slots, found):
    mask = np.uint64(len(slots) - 1)
    for i in range(len(found)):
        slot = hashes[i] & mask
        found[i] = -1
        while slots[slot] >= 0:
            row = slots[slot]
            if table_hashes[row] == hashes[i] and _same(
                data, offsets[i], offsets[i + 1], table_data, table_offsets[row], table_offsets[row + 1]
            ):
                found[i] = row
                break
            slot = (slot + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def _parse_hex(data, offsets, pairs, is_hex):
    for i in range(len(is_hex)):
        is_hex[i] = offsets[i + 1] - offsets[i] == 32
        if not is_hex[i]:
            continue
        for half in range(2):
            value = np.uint64(0)
            for k in range(16):
                byte = data[offsets[i] + 16 * half + k]
                if 48 <= byte <= 57:
                    digit = byte - 48
                elif 97 <= byte <= 102:
                    digit = byte - 87
                else:
                    is_hex[i] = False
                    digit = 0
                value = (value << np.uint64(4)) | np.uint64(digit)
            pairs[i, half] = value


def hex_pairs(keys: Strings) -> tuple[np.ndarray, np.ndarray]:
    """((n, 2) uint64, is_hex (n,) bool): keys of 32 lower-case hex digits as two numbers each."""
    data, offsets = string_buffers(keys)
    pairs, is_hex = np.zeros((len(offsets) - 1, 2), np.uint64), np.zeros(len(offsets) - 1, np.bool_)
    _parse_hex(data, offsets, pairs, is_hex)
    return pairs, is_hex


def sort_pairs(pairs: np.ndarray) -> np.ndarray:
    """(n, 2) uint64 -> sorted, unique, as DataComp's keys.npy holds them."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    is_new = np.ones(len(pairs), np.bool_)
    is_new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return np.ascontiguousarray(pairs[is_new]).view(HEX_PAIR).reshape(-1)


def _hex_strings(pairs: np.ndarray) -> pa.Array:
    halves = [pairs[name].astype(">u8").view(np.uint8).reshape(-1, 8) for name in ("f0", "f1")]
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    raw = np.concatenate(halves, axis=1)
    text = np.stack([digits[raw >> 4], digits[raw & 15]], axis=2).reshape(-1)
    offsets = np.arange(len(pairs) + 1, dtype=np.int64) * _HEX_CHARS
    return pa.LargeStringArray.from_buffers(len(pairs), pa.py_buffer(offsets), pa.py_buffer(text))


def read_keys(path: Path, shard: str | None = None) -> pa.Array | pa.ChunkedArray:
    """Keys of a keys.npy of (u8,u8) or of the column `key` of a Parquet file; of one shard, where `shard` is given."""
    if path.suffix == ".npy":
        return _hex_strings(np.load(path, allow_pickle=False))
    of_shard = None if shard is None else [("shard", "==", shard)]
    return pq.read_table(path, columns=["key"], filters=of_shard).column("key").cast(pa.large_string()).drop_null()


def _problem_with(path: Path) -> str | None:
    """Why a file is no list of keys, from its header alone; None where it is one."""
    if not path.is_file():
        return "is not a file"
    try:
        if path.suffix == ".npy":
            dtype = np.load(path, mmap_mode="r", allow_pickle=False).dtype
            return None if dtype == HEX_PAIR else f"holds {dtype}"
        schema = pq.read_schema(path)
    except (OSError, ValueError) as error:  # pa.ArrowInvalid is a ValueError
        return f"cannot be read ({error})"
    if "key" not in schema.names:
        return f"has the columns {', '.join(schema.names)}"
    kind = schema.field("key").type
    return None if kind in (pa.string(), pa.large_string()) else f"has keys of type {kind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyList:
    """A file of keys, and what its contents are known by."""

    setting: str
    """The key of the recipe that names it: pool.valid_keys or pool.deny_keys."""
    path: str
    digest: str
    by_shard: bool
    """Parquet with a column `shard`: a row is about that shard's pair alone."""


def key_lists(config: PoolConfig) -> tuple[KeyList, ...]:
    """The valid list and the deny lists of a recipe; raises UserError naming every file that is none."""
    named = [("pool.valid_keys", config.valid_keys)] if config.valid_keys is not None else []
    named += [("pool.deny_keys", path) for path in config.deny_keys]
    problems = [
        f"{setting} is {path!r}, which {problem}; give a keys.npy of (u8,u8) or Parquet with a string column `key`"
        for setting, path in named
        if (problem := _problem_with(Path(path)))
    ]
    if problems:
        raise UserError(problems)
    return tuple(
        KeyList(
            setting=setting,
            path=path,
            digest=artifacts.digest(artifacts.fingerprint(Path(path), Path(path).parent)),
            by_shard=not path.endswith(".npy") and "shard" in pq.read_schema(path).names,
        )
        for setting, path in named
    )


@functools.cache
def _table(key_list: KeyList) -> KeyTable:
    return KeyTable(read_keys(Path(key_list.path)))


def is_valid(keys: pa.Array | pa.ChunkedArray, lists: Sequence[KeyList], shard: str) -> np.ndarray:
    """(n,) bool: in the valid list (where there is one) and in no deny list.  keys: of the pool's shard of that name.

    A list is read once a process, of one with a column `shard` the shard's part at each call.
    """
    valid = np.ones(len(keys), np.bool_)
    for key_list in lists:
        table = KeyTable(read_keys(Path(key_list.path), shard)) if key_list.by_shard else _table(key_list)
        is_in = table.find(keys) >= 0
        valid &= is_in if key_list.setting == "pool.valid_keys" else ~is_in
    return valid
