"""Find which entries occur in a text, for many texts at once: `Matcher`.

Texts and entries become tokens (`tokenise.py`), a trie over tokens finds the entries (`trie.py`), and `loop.py` goes
over the texts.  A matcher is one array, which any number of processes share memory-mapped; it keeps no entry as a
string.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from worldclip.core import artifacts
from worldclip.core.arrow import NO_BYTES, byte_buffers, seal
from worldclip.core.errors import UserError
from worldclip.kernels.unicode_table import UNICODE_VERSION, load_table
from worldclip.language.profiles import PROFILES
from worldclip.match.matcher.fill import fill_table
from worldclip.match.matcher.loop import match_texts
from worldclip.match.matcher.trie import MAX_ENTRIES, has_whole_levels

Texts: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[str | None]

FORMAT_VERSION = 3  # version of the compiled files; raised when the same entries would give another table
META = "matcher.json"
TABLE = "table.npy"
AGAIN = "compile it again (of a run: remove metadata/manifest.json and metadata/done/matchers, run the metadata stage)"
NUM_NAMED = 20  # entries named in one error message


class Matcher:
    """Finds every entry of a list that occurs in a text, overlapping and nested ones too, as the profile defines it.

    entries: str, ids are positions.  Raises ValueError that names entries which are empty or equal after the profile's
    normalisation.
    profile: `reference` (byte for byte what the reference does), `unicode` (bounded words in every script) or
    `unicode_fold`, which is `unicode` with match.fold_case; see language/profiles.py.
    """

    num_entries: int
    num_dead: int  # entries that can never match: empty after normalisation, or equal to an earlier one
    profile: str  # also the name of the folder to save to
    digest: str  # digest of the entries, see `entries_digest`

    def __init__(self, entries: Texts, profile: str = "reference") -> None:
        self._compile(entries, profile, strict=True)

    @classmethod
    def build(cls, entries: Texts, profile: str) -> Matcher:
        """Build as `Matcher(...)`, but dead entries keep their ids and are only counted (`num_dead`)."""
        matcher = cls.__new__(cls)
        matcher._compile(entries, profile, strict=False)
        return matcher

    def match(self, text: str) -> np.ndarray:
        """Return the ids of the entries in `text`: int32, sorted, unique."""
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        return self._match(data, seal(np.array([0, data.size], np.int64)), NO_BYTES, 0)[0]

    def match_batch(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of each text: entry_ids int32 and offsets (num_texts + 1,) int64.

        texts: an Arrow string, large_string (dictionary and view types are cast), chunked array or a sequence of str; a
        null matches nothing.  Arrow's memory is read in place, and the GIL is released meanwhile.
        """
        parts = [self._match(*_buffers(chunk)) for chunk in _chunks(texts)]
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0] + [ids.size for ids, _ in parts])
        offsets = [ends[1:] + start for (_, ends), start in zip(parts, starts, strict=False)]
        ids = [np.zeros(0, np.int32), *(ids for ids, _ in parts)]
        return np.concatenate(ids), np.concatenate([np.zeros(1, np.int64), *offsets])

    def save(self, folder: str | Path) -> None:
        """Write the table and, last, the record with the digest of its entries."""
        folder = Path(folder)
        artifacts.write_array(folder / TABLE, self._table)
        meta = {name: getattr(self, name) for name in ("profile", "num_entries", "num_dead", "digest")}
        artifacts.write_json(folder / META, {"version": FORMAT_VERSION, "unicode": UNICODE_VERSION, **meta})

    @classmethod
    def load(cls, folder: str | Path, digest: str | None = None) -> Matcher:
        """Open a saved matcher, memory-mapped.

        digest: `entries_digest` of the entries that it must have been compiled from.  Raises UserError if it was not.
        """
        folder = Path(folder)
        meta_path = folder / META
        table_path = folder / TABLE
        if not meta_path.is_file() or not table_path.is_file():
            raise UserError(f"{folder} is not a finished matcher ({META}, {TABLE}); {AGAIN}")
        meta = artifacts.read_json(meta_path)
        expected = {"version": FORMAT_VERSION, "unicode": UNICODE_VERSION}
        if digest is not None:
            expected["digest"] = digest
        problems = []
        for key, value in expected.items():
            if meta.get(key) != value:
                problems.append(f"{folder} has {key} {meta.get(key)!r}, expected {value!r}; {AGAIN}")
        if problems:
            raise UserError(problems)
        matcher = cls.__new__(cls)
        for name in ("profile", "num_entries", "num_dead", "digest"):
            setattr(matcher, name, meta[name])
        matcher._table = np.asarray(np.load(table_path, mmap_mode="r", allow_pickle=False))
        if not has_whole_levels(matcher._table):
            raise UserError(f"{table_path} is damaged; {AGAIN}")
        return matcher

    def __len__(self) -> int:
        return self.num_entries

    def _compile(self, entries: Texts, profile: str, strict: bool) -> None:
        if profile not in PROFILES:
            raise UserError(f"profile is {profile!r}; it must be one of {', '.join(PROFILES)}")
        column = _one_array(entries)
        if column.null_count:
            raise UserError(f"entry {column.is_null().index(True).as_py()} is null; entries are strings")
        if len(column) >= MAX_ENTRIES:
            raise UserError(f"{len(column):,} entries in one list; a matcher holds fewer than {MAX_ENTRIES:,}")
        data, offsets, *_ = _buffers(column)
        self.profile = profile
        self.num_entries = len(column)
        self.digest = _digest(data, offsets)
        table, first_with = fill_table(data, offsets, PROFILES.index(profile), load_table())
        self._table = seal(table)
        dead = np.flatnonzero(first_with >= 0)
        self.num_dead = dead.size
        if strict and dead.size:
            raise UserError(_name_dead(column, dead, first_with, profile))

    def _match(
        self, data: np.ndarray, offsets: np.ndarray, validity: np.ndarray, first_bit: int
    ) -> tuple[np.ndarray, np.ndarray]:
        profile = PROFILES.index(self.profile)
        matches: tuple[np.ndarray, np.ndarray] = match_texts(
            data, offsets, validity, first_bit, profile, load_table(), self._table
        )
        return matches


def entries_digest(entries: Texts) -> str:
    """Return SHA-256 of the entries in their order, 64 hex digits: a saved matcher records it."""
    data, offsets, *_ = _buffers(_one_array(entries))
    return _digest(data, offsets)


def _digest(data: np.ndarray, offsets: np.ndarray) -> str:
    sha256 = hashlib.sha256(np.diff(offsets).astype("<i8", copy=False).data)
    sha256.update(data[offsets[0] : offsets[-1]].data)
    return sha256.hexdigest()


def _chunks(texts: Texts) -> list[pa.Array]:
    """Return the texts as Arrow arrays of strings or bytes, without copying what Arrow already holds as such."""
    if isinstance(texts, str | bytes):
        raise TypeError("expected many texts, got one; use Matcher.match(text)")
    if not isinstance(texts, pa.Array | pa.ChunkedArray):
        try:
            texts = pa.array(texts, pa.large_string())
        except UnicodeEncodeError:  # lone surrogates match nothing; the rest of their text does
            encoded = [None if text is None else text.encode("utf-8", "surrogatepass") for text in texts]
            return [pa.array(encoded, pa.large_binary())]
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    plain = (pa.string(), pa.large_string(), pa.large_binary())
    return [chunk if chunk.type in plain else chunk.cast(pa.large_string()) for chunk in chunks]


def _one_array(entries: Texts) -> pa.Array:
    chunks = [chunk.cast(pa.large_binary()) for chunk in _chunks(entries)]
    return pa.concat_arrays([pa.array([], pa.large_binary()), *chunks])


def _buffers(array: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return (bytes uint8, offsets (n + 1,) int64, validity bitmap or empty, its first bit), in Arrow's own memory."""
    data, offsets = byte_buffers(array)
    if not array.null_count:
        return data, offsets, NO_BYTES, 0
    return data, offsets, seal(np.frombuffer(array.buffers()[0], np.uint8)), array.offset


def _name_dead(entries: pa.Array, dead: np.ndarray, first_with: np.ndarray, profile: str) -> list[str]:
    """Return a problem for each dead entry, up to NUM_NAMED."""

    def name(i: int) -> str:
        return f"entry {i} ({entries[i].as_py().decode('utf-8', 'surrogatepass')!r})"

    problems = []
    for i in dead[:NUM_NAMED].tolist():
        fault, remedy = "is empty", "remove it"
        if first_with[i] != i:
            fault, remedy = f"equals {name(int(first_with[i]))}", "remove one"
        problems.append(f"{name(i)} {fault} after the normalisation of profile {profile}; {remedy}")
    if dead.size > NUM_NAMED:
        problems.append(f"and {dead.size - NUM_NAMED:,} more entries that are empty or not unique")
    return problems
