"""Remove from a job's folder what its manifest does not say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from pathlib import Path

from worldclip.core import job_files


def files_per_shard(folder: Path, names: Iterable[str], suffix: str) -> list[str]:
    """Return the files of a job, one per shard; a path as text takes a third of the memory of a Path."""
    return [f"{folder}/{name}{suffix}" for name in names]


def remove_stale(folder: Path, keep: Iterable[str | Path]) -> None:
    """Remove what is in `folder` and not in `keep`, so that it holds exactly what its manifest says.

    keep: files, and folders that are kept whole.  Markers go first: a marker of outputs that are gone would say that
    they are finished.
    """
    wanted = {str(path) for path in keep}
    if folder.is_dir():
        for only_done in (True, False):
            _remove_below(str(folder), wanted, in_done=False, only_done=only_done)


def _remove_below(folder: str, wanted: Set[str], *, in_done: bool, only_done: bool) -> bool:
    """Remove the files of a folder and of those in it that are not kept, and folders that are then empty.

    only_done: remove markers only.  Return whether the folder is empty.
    """
    is_empty = True
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False), entry.is_file()) for entry in entries]
    for name, is_folder, is_file in sorted(found, reverse=True):
        path = f"{folder}/{name}"
        if path in wanted:
            is_empty = False
        elif is_folder:
            below = in_done or name == job_files.DONE
            if _remove_below(path, wanted, in_done=below, only_done=only_done) and (below or not only_done):
                os.rmdir(path)
            else:
                is_empty = False
        elif is_file and (in_done or not only_done):
            os.unlink(path)
        else:
            is_empty = False
    return is_empty
