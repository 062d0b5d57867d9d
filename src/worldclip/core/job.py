"""Stages and their folders: which must run, one run at a time, nothing left that the manifest does not name.

A stage is done when its manifest holds the present config and inputs.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from worldclip.core.artifacts import MANIFEST, digest, read_manifest
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute.shards import Executor, Report

if TYPE_CHECKING:
    from worldclip.config import Recipe

ALL_SHARDS = slice(None)


class Stage(Protocol):
    """What recipe.py asks of a stage's module."""

    def run(self, recipe: Recipe, run_dir: Path, executor: Executor) -> Report: ...
    def inputs(self, recipe: Recipe, run_dir: Path) -> dict[str, Any]: ...
    def relevant_config(self, recipe: Recipe) -> dict[str, Any]: ...


class SlicedStage(Stage, Protocol):
    """A stage whose shards several calls may share out among them."""

    def run_shards(self, recipe: Recipe, run_dir: Path, executor: Executor, part: slice) -> Sequence[Report]: ...


def run_stage(stage: Stage, name: str, recipe: Recipe, run_dir: Path, executor: Executor) -> bool:
    """Run a stage unless it is finished and unchanged; says which, and why.  True where it ran."""
    reason = why_run(stage, name, recipe, run_dir)
    if reason is None:
        say(name, "is finished and unchanged")
        return False
    say(name, f"starts ({reason})")
    started_at = time.perf_counter()
    (run_dir / name / MANIFEST).unlink(missing_ok=True)  # not done until the new one is written
    stage.run(recipe, run_dir, executor)
    say(name, f"finished in {time.perf_counter() - started_at:.1f} s")
    return True


def run_slice(stage: SlicedStage, name: str, recipe: Recipe, run_dir: Path, executor: Executor, part: slice) -> None:
    """Work on some shards of a stage alone; the stage is finished by a run_stage after all of them."""
    if why_run(stage, name, recipe, run_dir) is None:
        say(name, "is finished and unchanged")
        return
    (run_dir / name / MANIFEST).unlink(missing_ok=True)
    reports = stage.run_shards(recipe, run_dir, executor, part)
    say(name, f"{len(reports):,} shards are done; the same command without --shards finishes the stage")


def why_run(stage: Stage, name: str, recipe: Recipe, run_dir: Path) -> str | None:
    """Why a stage must run, in words that name the changed key or input; None where it need not."""
    manifest = read_manifest(run_dir / name)
    if manifest is None:
        return "not finished before" if (run_dir / name).exists() else "new"
    changes = changed_keys(manifest["config"], stage.relevant_config(recipe))
    if changes:
        return "; ".join(changes)
    changes = changed_keys(manifest["inputs"], stage.inputs(recipe, run_dir))
    return f"its inputs changed: {', '.join(changes[:3])}" if changes else None


def changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`section.key was X, is Y` for each difference of two JSON-able records."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            change
            for key in keys
            for change in changed_keys(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        ]
    if digest(old) == digest(new):
        return []
    short_old, short_new = (text if len(text) <= 60 else text[:57] + "..." for text in (str(old), str(new)))
    return [f"{prefix} was {short_old}, is {short_new}"]


class RunLock:
    """One run at a time in a RUN folder, or any number of calls with --shards (`is_shared`).

    The lock goes with the process, however it ends.
    """

    def __init__(self, run_dir: Path, is_shared: bool = False) -> None:
        self.run_dir, self.is_shared = run_dir, is_shared
        self._file: Any = None

    def __enter__(self) -> RunLock:
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._file = open(self.run_dir / ".lock", "a+")  # held until __exit__
        except OSError as error:
            raise UserError(
                f"--out {self.run_dir} cannot be written ({error.strerror}); choose another folder"
            ) from error
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if self.is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(
                f"{self.run_dir} is in use by {holder}; wait for it, stop it, or give another --out"
            ) from error
        self._file.truncate(0)
        self._file.write("calls with --shards" if self.is_shared else f"process {os.getpid()}")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_shared:  # others may still hold it
            self._file.truncate(0)
        self._file.close()


def remove_stale(folder: Path, keep: Sequence[Path]) -> None:
    """Drop files of shards that are no longer in the pool, so that a folder holds exactly what its manifest says."""
    wanted = set(keep)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
