"""Remove from a job's folder what its manifest does not say."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from worldclip.core import job_files


def files_per_shard(folder: Path, names: Iterable[str], suffix: str) -> list[str]:
    """Return the files of a job, one per shard; a path as text takes a third of the memory of a Path."""
    return [f"{folder}/{name}{suffix}" for name in names]


def remove_stale(folder: Path, keep: Iterable[str | Path]) -> None:
    """Remove what is in `folder` and not in `keep`, so that it holds exactly what its manifest says.

    keep: files, and folders that are kept whole.  Links to folders stay.
    """
    root = os.path.abspath(folder)
    wanted = {os.path.abspath(path) for path in keep}
    files, folders = [], []
    for place, names, file_names in os.walk(root):
        names[:] = [name for name in names if f"{place}/{name}" not in wanted]
        folders += [f"{place}/{name}" for name in names]
        files += [path for name in file_names if (path := f"{place}/{name}") not in wanted]
    # Markers go first: a marker of outputs that are gone would say that they are finished.
    for path in sorted(files, key=lambda path: f"/{job_files.DONE}/" not in path.removeprefix(root)):
        os.unlink(path)
    for path in reversed(folders):
        with suppress(OSError):  # not empty, or a link
            os.rmdir(path)
