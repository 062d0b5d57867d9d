"""Look keys up in sets of keys: a hash table over Arrow's bytes, DataComp's keys.npy, valid and deny lists."""

from __future__ import annotations

import fcntl
import functools
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.core import artifacts
from worldclip.core.arrow import Strings, string_buffers
from worldclip.core.errors import BadShard, UserError
from worldclip.core.inputs import fingerprint_of
from worldclip.core.parquet_size import check_parquet
from worldclip.core.regular_file import read_regular
from worldclip.core.sorted_keys import SortedKeys, write_sorted
from worldclip.kernels.byte_table import empty_slots, find_rows, insert_rows

HEX_PAIR = np.dtype("u8,u8")  # a 128-bit key as DataComp's subset files hold it: high half, low half
_HEX_CHARS = 32
BATCH_KEYS = 2**20  # keys in memory at once while a list is sorted


class KeyTable:
    """Finds the position of a key among n keys: an exact hash table over Arrow's own bytes."""

    def __init__(self, keys: Strings) -> None:
        """keys: n strings; of equal ones the first counts, and `num_repeated` is the number of the others."""
        data, offsets = string_buffers(keys)
        self._slots = empty_slots(len(offsets) - 1)
        self._strings = (data, offsets[:-1], offsets[1:])
        self.num_repeated = int(insert_rows(*self._strings, self._slots))

    def find(self, keys: Strings) -> np.ndarray:
        """Return the position of each key, -1 where the table does not have it: (n,) int64."""
        data, offsets = string_buffers(keys)
        rows: np.ndarray = find_rows(data, offsets[:-1], offsets[1:], *self._strings, self._slots)
        return rows


def hex_pairs(keys: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return (two numbers of each key of 32 lower-case hex digits (h, 2) uint64; which keys are such, (n,) bool)."""
    is_hex = pc.match_substring_regex(keys, "^[0-9a-f]{32}$")
    digits = "".join(keys.filter(is_hex).to_pylist())
    pairs = np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64).reshape(-1, 2)
    return pairs, np.asarray(is_hex)


def sort_pairs(pairs: np.ndarray) -> np.ndarray:
    """Return pairs (n, 2) uint64 sorted and unique, as DataComp's keys.npy holds them (HEX_PAIR)."""
    pairs = pairs[np.argsort(pairs[:, 0].copy())]  # a third of the time of a sort by both halves
    high = pairs[:, 0]
    low = pairs[:, 1]
    if ((high[1:] == high[:-1]) & (low[1:] < low[:-1])).any():
        pairs = pairs[np.lexsort((low, high))]
    is_new = np.ones(len(pairs), np.bool_)
    is_new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    if not is_new.all():  # keys of many millions: no copy without need
        pairs = pairs[is_new]
    return np.ascontiguousarray(pairs).view(HEX_PAIR).reshape(-1)


def hex_strings(pairs: np.ndarray) -> pa.Array:
    """Return keys (n,) HEX_PAIR as 32 lower-case hex digits each."""
    digits = pairs.astype(">u8,>u8").tobytes().hex().encode()
    offsets = np.arange(len(pairs) + 1, dtype=np.int64) * _HEX_CHARS
    return pa.LargeStringArray.from_buffers(len(pairs), pa.py_buffer(offsets), pa.py_buffer(digits))


def _read_text(path: Path) -> pa.Array:
    """Return the keys of a .txt, one per line.  Raises ValueError or OSError."""
    lines = map(str.strip, read_regular(path).decode("utf-8-sig").split("\n"))
    return pa.array(filter(None, lines), pa.large_string())


def _batches(path: Path, *, by_shard: bool) -> Iterator[Strings]:
    """Yield the keys of a list, BATCH_KEYS at a time; a map would hold all pages that were read."""
    if path.suffix == ".npy":
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(mapped), BATCH_KEYS):
            offset = mapped.offset + start * HEX_PAIR.itemsize
            yield hex_strings(np.fromfile(path, HEX_PAIR, BATCH_KEYS, offset=offset))
    elif path.suffix == ".txt":
        yield _read_text(path)
    else:
        columns = ["key", "shard"] if by_shard else ["key"]
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_KEYS, columns=columns):
                keys = batch["key"]
                if by_shard:
                    keys = _with_shard(keys, batch["shard"])
                yield keys.drop_null()


def _with_shard(keys: pa.Array | pa.ChunkedArray, shard: pa.Array | pa.Scalar) -> pa.Array | pa.ChunkedArray:
    """Return what a list with a column `shard` holds of keys: each with its shard before it."""
    columns = (column.cast(pa.large_string()) for column in (shard, keys, pa.scalar("\0")))
    return pc.binary_join_element_wise(*columns)


_OF_HEADERS = (EOFError, OverflowError, SyntaxError, SystemError, tokenize.TokenError)  # numpy, on a damaged header
_DAMAGE = (OSError, ValueError, BadShard, *_OF_HEADERS)  # pa.ArrowInvalid is a ValueError


def _problem_with(path: Path) -> str | None:
    """Return why a file is not a list of keys that fits the memory; None if it is one."""
    if not path.is_file():
        return "is not a file"
    try:
        if path.suffix == ".npy":
            dtype = np.load(path, mmap_mode="r", allow_pickle=False).dtype
            return None if dtype == HEX_PAIR else f"holds {dtype}"
        if path.suffix == ".txt":
            _read_text(path)
            return None
        if path.suffix == ".csv":
            return f"is a CSV (duckdb -c \"COPY (FROM '{path}') TO '{path.with_suffix('.parquet')}'\")"
        footer = pq.read_metadata(path)
        schema = pq.read_schema(path)
        check_parquet(path, path.stat().st_size, footer, held_rows=BATCH_KEYS)
    except _DAMAGE as error:
        return f"cannot be read ({error})"
    if schema.names.count("key") != 1:
        return f"has the columns {', '.join(schema.names)}"
    kind = schema.field("key").type
    return None if kind in (pa.string(), pa.large_string()) else f"has keys of type {kind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyList:
    """Names a file of keys and the digest of its contents."""

    setting: str  # pool.valid_keys or pool.deny_keys: the key of the recipe that names the file
    path: str
    digest: str
    by_shard: bool  # true for a table with a column `shard`: a row then applies only to that shard's pair
    sorted_as: Path  # file of its keys, which the first look-up writes

    @property
    def num_keys(self) -> int:
        """Number of keys, equal ones included."""
        return len(sort_list(self))


_open_sorted = functools.lru_cache(maxsize=16)(SortedKeys)  # a list that is mapped again is read from the disk again


def sort_list(key_list: KeyList) -> SortedKeys:
    """Return the keys of a list, which are sorted once; other calls wait for the one that does."""
    path = key_list.sorted_as
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.parent / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                write_sorted(path, _batches(Path(key_list.path), by_shard=key_list.by_shard))
    return _open_sorted(path)


def key_lists(valid_keys: str | None, deny_keys: Sequence[str], folder: Path) -> tuple[KeyList, ...]:
    """Return the valid list (pool.valid_keys) and the deny lists (pool.deny_keys).

    folder: where their sorted keys are.  Raises UserError that names every file that is not a list of keys.
    """
    files = [("pool.deny_keys", path) for path in deny_keys]
    if valid_keys is not None:
        files = [("pool.valid_keys", valid_keys), *files]
    _refuse_other_files(files)
    lists = []
    for setting, path in files:
        digest = digest_of(path)
        by_shard = not path.endswith((".npy", ".txt")) and "shard" in pq.read_schema(path).names
        sorted_as = folder / f"{digest}.npy"
        lists.append(KeyList(setting=setting, path=path, digest=digest, by_shard=by_shard, sorted_as=sorted_as))
    return tuple(lists)


def read_list(path: str, setting: str) -> pa.ChunkedArray:
    """Return the keys of a list in its order, each once, whichever shard it names; setting: what names the list.

    Raises UserError for a file that is not a list of keys.
    """
    _refuse_other_files([(setting, path)])
    batches = [pa.array(batch, pa.large_string()) for batch in _batches(Path(path), by_shard=False)]
    return pa.chunked_array([pa.chunked_array(batches, pa.large_string()).unique()])


def _refuse_other_files(files: Iterable[tuple[str, str]]) -> None:
    """Raise UserError that names every file that is not a list of keys; files: setting and path of each."""
    problems = []
    for setting, path in files:
        problem = _problem_with(Path(path))
        if problem:
            remedy = "give a .txt with one key per line, Parquet with a column `key` of strings, or a keys.npy"
            problems.append(f"{setting} is {path!r}, which {problem}; {remedy}")
    if problems:
        raise UserError(problems)


def digests(key_lists: Sequence[KeyList]) -> list[dict[str, str]]:
    """Return what identifies the lists, as an input of a stage."""
    return [{"setting": key_list.setting, "digest": key_list.digest} for key_list in key_lists]


def changed_lists(key_lists: Sequence[KeyList], recorded: Sequence[Mapping[str, str]]) -> list[str]:
    """Return setting and path of each list that is new or changed since a stage recorded its `digests`."""
    return [f"{item.setting} {item.path!r}" for item in key_lists if digests([item])[0] not in recorded]


def digest_of(path: str) -> str:
    """Return what identifies the contents of a list."""
    return artifacts.digest(fingerprint_of(path, Path(path).name))


def is_valid(keys: pa.Array | pa.ChunkedArray, lists: Sequence[KeyList], shard: str) -> np.ndarray:
    """Return (n,) bool: which keys of the pool's shard `shard` are in the valid list (if any) and in no deny list."""
    valid = np.ones(len(keys), np.bool_)
    for key_list in lists:
        listed = is_listed(keys, key_list, shard)
        if key_list.setting != "pool.valid_keys":
            listed = ~listed
        valid &= listed
    return valid


def is_listed(keys: pa.Array | pa.ChunkedArray, key_list: KeyList, shard: str) -> np.ndarray:
    """Return whether a list names each key of the pool's shard `shard`: (n,) bool."""
    if key_list.by_shard:
        keys = _with_shard(keys, pa.scalar(shard))
    return sort_list(key_list).contains(keys)
