"""Groups of files as units of work; each is made when it is asked for, so that a million files take little memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from worldclip.core.artifacts import digest
from worldclip.core.execute.shards import Shard


@dataclass(frozen=True, slots=True)
class FileGroups(Sequence[Shard]):
    """Consecutive files below a folder, in groups whose fingerprints name their files: [name, size, mtime_ns] each."""

    root: Path
    names: Sequence[str]
    """Names of the shards."""
    suffix: str
    """Ending of each file, after its shard's name."""
    starts: Sequence[int]  # position of each group's first name, and the number of names at the end

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> list[Shard]: ...
    def __getitem__(self, at: int | slice) -> Shard | list[Shard]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        number = range(len(self))[at]
        files = []
        for name in self.names[self.starts[number] : self.starts[number + 1]]:
            stat = os.stat(self.root / f"{name}{self.suffix}")
            files.append([f"{name}{self.suffix}", stat.st_size, stat.st_mtime_ns])
        return Shard(name=_unit_name(number), path=str(self.root), fingerprint={"files": files})

    def unit_names(self) -> list[str]:
        """Return the names of the groups."""
        return [_unit_name(number) for number in range(len(self))]

    def digest(self) -> str:
        """Return what identifies all files as they are now."""
        return digest([digest(group.fingerprint) for group in self])


def _unit_name(number: int) -> str:
    return f"{number:06}"


def files_of(group: Shard) -> Iterator[Path]:
    """Yield the files of a group."""
    for name, _, _ in group.fingerprint["files"]:
        yield Path(group.path) / name


def equal_starts(number: int, size: int) -> list[int]:
    """Return the `starts` of FileGroups for groups of `size` files."""
    return [*range(0, number, size), number]
