"""Remove from a job's folder what its manifest does not say, with little memory for a million shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from worldclip.core import job_files


@dataclass(frozen=True, slots=True)
class FilePerShard:
    """Files of a job, one per shard: a million paths take a gigabyte, the names of a million shards 0.2."""

    folder: Path
    names: frozenset[str]  # names of the shards
    suffix: str  # end of the file names, after the shard's name

    def has(self, path: str) -> bool:
        """Return whether a path is one of the files."""
        start = f"{self.folder}/"
        return (
            path.startswith(start)
            and path.endswith(self.suffix)
            and path[len(start) : len(path) - len(self.suffix)] in self.names
        )


def remove_stale(folder: Path, keep: Iterable[Path | FilePerShard]) -> None:
    """Remove what is in `folder` and not in `keep`, so that it holds exactly what its manifest says.

    keep: files, and folders that are kept whole.  Markers go first: a marker of outputs that are gone would say that
    they are finished.
    """
    wanted: set[str] = set()
    per_shard: list[FilePerShard] = []
    for item in keep:
        if isinstance(item, FilePerShard):
            per_shard.append(item)
        else:
            wanted.add(str(item))

    def is_kept(path: str) -> bool:
        return path in wanted or any(files.has(path) for files in per_shard)

    if folder.is_dir():
        for only_done in (True, False):
            _remove_below(str(folder), is_kept, in_done=False, only_done=only_done)


def _remove_below(folder: str, is_kept: Callable[[str], bool], *, in_done: bool, only_done: bool) -> bool:
    """Remove the files of a folder and of those in it that are not kept, and folders that are then empty.

    only_done: remove markers only.  Return whether the folder is empty.
    """
    is_empty = True
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False), entry.is_file()) for entry in entries]
    for name, is_folder, is_file in sorted(found, reverse=True):
        path = f"{folder}/{name}"
        if is_kept(path):
            is_empty = False
        elif is_folder:
            below = in_done or name == job_files.DONE
            if _remove_below(path, is_kept, in_done=below, only_done=only_done) and (below or not only_done):
                os.rmdir(path)
            else:
                is_empty = False
        elif is_file and (in_done or not only_done):
            os.unlink(path)
        else:
            is_empty = False
    return is_empty
