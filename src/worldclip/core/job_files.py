"""The files that every job's folder may have: its lock, recipe and report, and the markers of finished shards.

Three records state the format of what is written: `run.json` that of a run with all its files, `manifest.json` that of
the folder of a stage or tool, `trainer/state.json` that of a checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError
from worldclip.core.regular_file import read_regular

FORMAT_VERSION = 1  # major format of all files; raised where an older worldclip would misread one (CONTRIBUTING.md)
DONE = "done"  # folder of the markers of finished shards
_MODEL_FILES = ("config.json", "open_clip_config.json", "onnx")  # a folder with one of them holds a model


def path_in(relative: str) -> Callable[[Path], Path]:
    """Return the function of a path in RUN, or in another folder."""
    return lambda folder: folder / relative


lock = path_in(".lock")  # held by the process that works on the folder, and names it
recipe = path_in("recipe.toml")  # the recipe that a run was made by; it loads as it is
report_json = path_in("report.json")  # report of a job
run_record = path_in("run.json")  # what made a run: format, versions, machine and git revision


def done_dir(folder: Path, step: str = "") -> Path:
    """Return the folder of the markers in a job's folder; step: which of the job's maps over shards, if it has many."""
    return folder / DONE / step


def marker(folder: Path, shard_name: str, step: str = "") -> Path:
    """Return the marker of a finished shard in a job's folder; step: of `done_dir`."""
    return marker_in(done_dir(folder, step), shard_name)


def marker_in(done: Path, shard_name: str) -> Path:
    """Return the marker of a finished shard in a folder of markers."""
    return done / f"{shard_name}.json"


def is_run(path: Path) -> bool:
    """Return whether a folder is a run: it has recipe.toml, and is no exported model, which has a copy of it.

    Raises UserError for a run of a newer format.
    """
    # os.path says no for a folder that may not be entered, where Path would raise PermissionError
    if not os.path.isfile(recipe(path)) or any(os.path.exists(path / name) for name in _MODEL_FILES):
        return False
    refuse_newer_run(path)
    return True


def refuse_newer_run(run_dir: Path) -> None:
    """Raise UserError for a run of a newer format; whatever opens a run asks before it reads another file of it."""
    read_record(run_record(run_dir))


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a JSON record that states a format, None if there is no file.  Raises UserError for a newer format."""
    if not path.exists():
        return None
    try:
        record = json.loads(read_regular(path).decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); remove it and run the same command again") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is not a JSON object; remove it and run the same command again")
    problem = newer_format(path, record.get("format_version", 0))
    if problem:
        raise UserError(problem)
    return record


def newer_format(path: Path, version: object) -> str | None:
    """Return the problem of a file whose format is newer than this worldclip's; None for a format that it reads."""
    if isinstance(version, int) and version <= FORMAT_VERSION:
        return None
    return f"{path} has format {version!r}, and this worldclip reads up to {FORMAT_VERSION}; install a newer worldclip"
