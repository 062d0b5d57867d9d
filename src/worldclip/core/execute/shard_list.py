"""Shards of a large pool as columns: a quarter of a kilobyte each, where a list of objects takes one and a half.

A pool of 1.6 million shards is listed by every process that maps over it.  A Shard is made when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.core.artifacts import Json, read_table, table_schema, write_tables
from worldclip.core.errors import UserError
from worldclip.core.execute.shards import Shard
from worldclip.core.inputs import Stamp, fingerprint_of, stamp_of
from worldclip.core.safe_path import UnsafeName, is_safe_name

AT_ONCE = 2**12  # shards that are objects at the same time
SETTLED_NS = 2 * 10**9  # a file that changed later than this before it was hashed may change again under its stamp
_STAMP = struct.Struct("<QQQqq")  # see inputs.Stamp
_COLUMNS = pa.schema(
    # paths may be no UTF-8: the folder of a run lies anywhere
    [("name", pa.string()), ("path", pa.binary()), ("fingerprint", pa.string()), ("stamp", pa.binary())]
)
SHARDS = table_schema("shards", name=pa.string(), fingerprint=pa.string())
STAMPS = table_schema("stamps", path=pa.binary(), fingerprint=pa.string(), stamp=pa.binary())


class InputFile(NamedTuple):
    """A file of a pool, not looked at yet."""

    name: str  # name of its shard
    path: str
    recorded_as: str  # `path` of its fingerprint


class ShardList(Sequence[Shard]):
    """Shards of input files, in a table of Arrow."""

    def __init__(self, table: pa.Table) -> None:
        """table: name, path, fingerprint as JSON, stamp in bytes (null for none)."""
        self._table = table

    @classmethod
    def of_files(cls, files: Sequence[InputFile], known: KnownFiles | None = None) -> ShardList:
        """Return the shards of files as they are now.  Of known files whose stamps did not move nothing is read.

        Raises UnsafeName as a Shard does, and UserError for a name that is not UTF-8.
        """
        rows = known.rows_of(files) if known is not None else np.full(len(files), -1)
        batches = []
        for start in range(0, len(files), AT_ONCE):
            columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS.names}
            for file, row in zip(files[start : start + AT_ONCE], rows[start : start + AT_ONCE].tolist(), strict=True):
                if not is_safe_name(file.name):
                    raise UnsafeName(f"{file.name!r} is not a path below the folder of its outputs")
                stamp = stamp_of(file.path)  # before the fingerprint: a change between the two is noticed
                fingerprint = known.fingerprint(row, stamp) if known is not None and row >= 0 else None
                if fingerprint is None:
                    fingerprint = fingerprint_of(file.path, file.recorded_as)
                columns["name"].append(file.name)
                columns["path"].append(_to_bytes(file.path))
                columns["fingerprint"].append(json.dumps({**fingerprint, "path": file.recorded_as}))
                columns["stamp"].append(_pack(stamp))
            try:
                batches.append(pa.record_batch(columns, _COLUMNS))
            except UnicodeEncodeError as error:
                raise UserError(f"{error.object!r}: a shard's name must be UTF-8; rename the file") from error
        return cls(pa.Table.from_batches(batches, _COLUMNS))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> ShardList: ...
    def __getitem__(self, at: int | slice) -> Shard | ShardList:
        if isinstance(at, slice):
            return ShardList(self._table.take(pa.array(range(len(self))[at], pa.int64())))
        row = range(len(self))[at]
        return _shard(*(column[row].as_py() for column in self._table.columns))

    def __iter__(self) -> Iterator[Shard]:
        for batch in self._table.to_batches(AT_ONCE):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield _shard(*row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Shard.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def is_still(self, files: Sequence[InputFile]) -> bool:
        """Return whether these are the shards of local files whose stamps did not move.  Reads no file."""
        if len(files) != len(self) or (files and self[0].fingerprint["path"] != files[0].recorded_as):
            return False
        start = 0
        for batch in self._table.select(["name", "path", "stamp"]).to_batches(AT_ONCE):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            for file, (name, path, stamp) in zip(files[start : start + len(batch)], rows, strict=True):
                is_same = file.name == name and _to_bytes(file.path) == path
                if not is_same or stamp is None or _pack(stamp_of(file.path)) != stamp:
                    return False
            start += len(batch)
        return True

    def names(self) -> list[str]:
        """Return the names in their order."""
        names: list[str] = self._table.column("name").to_pylist()
        return names

    @cached_property
    def record(self) -> Json:
        """Return what identifies the shards in a manifest: their number, and a digest of names and fingerprints."""
        digest = hashlib.sha256()
        for name, fingerprint in self._identities():
            digest.update(f"{name}\n{fingerprint}\n".encode())
        return {"number": len(self), "digest": digest.hexdigest()[:32]}

    def _identities(self) -> Iterator[tuple[str, str]]:
        for batch in self._table.select(["name", "fingerprint"]).to_batches(AT_ONCE):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def changes(self, older: ShardList) -> Iterator[tuple[str, Json | None, Json | None]]:
        """Yield (name, older fingerprint, fingerprint) of each shard that is not the same in both; None: not in one.

        Both are sorted by name.
        """
        before, after = older._identities(), self._identities()
        old, new = next(before, None), next(after, None)
        while old is not None or new is not None:
            if new is None or (old is not None and old[0] < new[0]):
                assert old is not None
                yield old[0], json.loads(old[1]), None
                old = next(before, None)
            elif old is None or new[0] < old[0]:
                yield new[0], None, json.loads(new[1])
                new = next(after, None)
            else:
                if old[1] != new[1]:
                    yield new[0], json.loads(old[1]), json.loads(new[1])
                old, new = next(before, None), next(after, None)

    def write(self, path: Path) -> None:
        """Write the names and fingerprints."""
        write_tables(path, _in_pieces(self._table.select(SHARDS.names)), SHARDS)


def read_shards(path: Path) -> ShardList:
    """Read what `ShardList.write` wrote: names and fingerprints, without paths and stamps."""
    table = read_table(path, SHARDS)
    nothing = pa.nulls(table.num_rows, pa.binary())
    columns = [table["name"], nothing.fill_null(b""), table["fingerprint"], nothing]
    return ShardList(pa.Table.from_arrays(columns, schema=_COLUMNS))


def read_part(path: Path, part: slice) -> list[tuple[str, Json]]:
    """Read (name, fingerprint) of some of the shards that `ShardList.write` wrote, a piece of the file at a time."""
    chosen: list[tuple[str, Json]] = []
    with pq.ParquetFile(path) as file:
        rows = range(file.metadata.num_rows)[part]
        start = 0
        for batch in file.iter_batches(AT_ONCE, columns=SHARDS.names):
            stop = start + len(batch)
            first = max(0, -((rows.start - start) // rows.step))
            inside = [row - start for row in range(rows.start + first * rows.step, min(stop, rows.stop), rows.step)]
            taken = batch.take(pa.array(inside, pa.int64())).to_pylist()
            chosen += [(row["name"], json.loads(row["fingerprint"])) for row in taken]
            start = stop
    return chosen


class KnownFiles:
    """Fingerprints of files under their stamps: of an earlier listing, or of an earlier process."""

    def __init__(self, table: pa.Table) -> None:
        """table: path, fingerprint, stamp."""
        self._table = table

    @classmethod
    def of(cls, shards: ShardList) -> KnownFiles:
        """Return the files of a list; it takes no further memory."""
        return cls(shards._table.select(STAMPS.names))

    @classmethod
    def read(cls, record: Path) -> KnownFiles | None:
        """Read what `write_stamps` wrote; None if the file is not there."""
        return cls(read_table(record, STAMPS)) if record.exists() else None

    def rows_of(self, files: Sequence[InputFile]) -> np.ndarray:
        """Return the row of each file, -1 for an unknown one: (files,) int32."""
        paths = pa.array((_to_bytes(file.path) for file in files), pa.binary())
        rows = pc.index_in(paths, value_set=self._table.column("path").combine_chunks())
        found: np.ndarray = rows.fill_null(-1).to_numpy()
        return found

    def fingerprint(self, row: int, stamp: Stamp) -> Json | None:
        """Return the fingerprint of a file if its contents were hashed under this stamp, else None."""
        packed = _pack(stamp)
        known = self._table.column("stamp")[row].as_py()
        # The number of the device differs between machines that share a file system.
        if packed is None or known is None or packed[8:] != known[8:]:
            return None
        fingerprint: Json = json.loads(self._table.column("fingerprint")[row].as_py())
        return fingerprint if "sha256" in fingerprint else None


def write_stamps(record: Path, shards: ShardList) -> None:
    """Write the hashes of local files by path, each under its stamp; files that changed just now are left out."""
    latest = time.time_ns() - SETTLED_NS

    def pieces() -> Iterator[pa.Table]:
        for piece in _in_pieces(shards._table.select(STAMPS.names)):
            stamps = piece.column("stamp").to_pylist()
            is_settled = [stamp is not None and max(_STAMP.unpack(stamp)[-2:]) < latest for stamp in stamps]
            is_hashed = pc.match_substring(piece.column("fingerprint"), '"sha256"')
            yield piece.filter(pc.and_(pa.chunked_array([pa.array(is_settled)]), is_hashed))

    write_tables(record, pieces(), STAMPS)


def _in_pieces(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, AT_ONCE):
        yield table.slice(start, AT_ONCE)


def _shard(name: str, path: bytes, fingerprint: str, stamp: bytes | None) -> Shard:
    return Shard(
        name=name,
        path=path.decode("utf-8", "surrogateescape"),
        fingerprint=json.loads(fingerprint),
        stamp=() if stamp is None else _STAMP.unpack(stamp),
    )


def _to_bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _pack(stamp: Stamp) -> bytes | None:
    return _STAMP.pack(*stamp) if stamp else None
