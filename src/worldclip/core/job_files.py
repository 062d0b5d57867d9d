"""The files that every job's folder may have: its lock, recipe and report, and the markers of finished shards."""

from __future__ import annotations

from pathlib import Path

OWNER = "job "  # begins the line of a lock that names the tool whose folder it is
DONE = "done"  # folder of the markers of finished shards
_MODEL_FILES = ("config.json", "open_clip_config.json", "onnx")  # a folder with one of them holds a model


def lock(folder: Path) -> Path:
    """Return the file that the process that works on the folder holds, and which names it."""
    return folder / ".lock"


def owner_of(folder: Path) -> str | None:
    """Return the tool that began to write a folder, as its lock says; None if the lock does not say, or is absent."""
    try:
        lines = lock(folder).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((line.removeprefix(OWNER) for line in lines if line.startswith(OWNER)), None)


def recipe(folder: Path) -> Path:
    """Return the recipe that a run was made by; it loads as it is."""
    return folder / "recipe.toml"


def report_json(folder: Path) -> Path:
    """Return the report of a job."""
    return folder / "report.json"


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
    """Return whether a folder is a run: it has recipe.toml, and is no exported model, which has a copy of it."""
    return recipe(path).is_file() and not any((path / name).exists() for name in _MODEL_FILES)
