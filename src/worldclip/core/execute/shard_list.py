"""The list of a pool's shards: what identifies it in a manifest, and its file, by which changes are named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from worldclip.core.artifacts import Json, read_table, table_schema, write_table
from worldclip.core.errors import UserError
from worldclip.core.execute.shards import Shard

SHARDS = table_schema("shards", name=pa.string(), path=pa.string(), fingerprint=pa.string())


class InputFile(NamedTuple):
    """A file of a pool, not looked at yet."""

    name: str  # name of its shard
    path: str
    recorded_as: str  # `path` of its fingerprint


class ShardList(list[Shard]):
    """Shards of input files, sorted by name."""

    @classmethod
    def of_files(cls, files: Iterable[InputFile]) -> ShardList:
        """Return the shards of files as they are now.  Raises UserError for a name that is not UTF-8, UnsafeName."""
        shards = cls()
        for name, path, recorded_as in files:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"{name!r}: a shard's name must be UTF-8; rename the file") from error
            shards.append(Shard.of_file(name, path, recorded_as))
        return shards

    @classmethod
    def read(cls, path: Path) -> ShardList:
        """Read what `write` wrote."""
        rows = read_table(path, SHARDS).to_pylist()
        return cls(Shard(**{**row, "fingerprint": json.loads(row["fingerprint"])}) for row in rows)

    def names(self) -> list[str]:
        """Return the names in their order."""
        return [shard.name for shard in self]

    @property
    def record(self) -> Json:
        """Return what identifies the shards in a manifest: their number, and a digest of names and fingerprints."""
        digest = hashlib.sha256()
        for shard in self:
            digest.update(f"{shard.name}\n{json.dumps(shard.fingerprint)}\n".encode())
        return {"number": len(self), "digest": digest.hexdigest()[:32]}

    def changes(self, older: Sequence[Shard]) -> Iterator[tuple[str, Json | None, Json | None]]:
        """Yield (name, older fingerprint, fingerprint) of each shard that is not the same in both; None: not in one."""
        before = {shard.name: shard.fingerprint for shard in older}
        after = {shard.name: shard.fingerprint for shard in self}
        for name in sorted(before | after):
            if before.get(name) != after.get(name):
                yield name, before.get(name), after.get(name)

    def write(self, path: Path) -> None:
        """Write name, path and fingerprint of each shard."""
        columns = {
            "name": self.names(),
            "path": [shard.path for shard in self],
            "fingerprint": [json.dumps(shard.fingerprint) for shard in self],
        }
        write_table(path, pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), SHARDS)
