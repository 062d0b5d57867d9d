"""Begin a run with the finished stages of another one: files are linked, not copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from worldclip.contracts import layout
from worldclip.contracts.records import read_cpu_time
from worldclip.core.artifacts import describe_run, folder_aside, read_manifest, write_json
from worldclip.core.errors import UserError
from worldclip.core.job import lock_folder
from worldclip.train.schedule import trained_precision

OWN = shutil.ignore_patterns("wandb_id")  # a run's name in Weights & Biases: the new run gets one of its own
APPENDED = (".jsonl",)  # grows in place when a stage resumes; every other file is replaced by a rename, never changed


def branch(source: Path, run_dir: Path, stages: Sequence[str]) -> list[str]:
    """Link the finished stages of the run `source` into `run_dir`; return the names of those that are new there.

    Stages that `run_dir` has already stay.  Files are hard links, or copies on another file system.  Raises UserError
    if `source` is no run, is in use, or is `run_dir` itself.
    """
    if not layout.recipe(source).is_file():
        raise UserError(f"--from-run {source}: holds no recipe.toml; give the folder of a run")
    if source.resolve() == run_dir.resolve():
        raise UserError(f"--from-run {source}: is the run itself; choose another --out")
    linked = []
    with lock_folder(source, is_shared=True), lock_folder(run_dir):
        if not layout.train_dir(run_dir).exists():
            write_json(layout.branched(run_dir), {"precision": trained_precision(source)})
        for stage in stages:
            if read_manifest(source / stage) is not None and not (run_dir / stage).exists():
                with folder_aside(run_dir / stage) as aside:  # an interrupted call leaves no half of a stage
                    shutil.copytree(source / stage, aside, copy_function=_link, ignore=OWN, dirs_exist_ok=True)
                    os.replace(aside, run_dir / stage)
                linked.append(stage)
        if linked and not layout.run_record(run_dir).exists():
            write_json(layout.run_record(run_dir), {**describe_run(), "cpu_time": read_cpu_time(source)})
    return linked


def _link(source: str, target: str) -> None:
    if source.endswith(APPENDED):
        shutil.copy2(source, target)
    else:
        link_file(source, target)


def link_file(source: str | Path, target: str | Path) -> None:
    """Link a finished file, which is never changed in place; copy it to another file system."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
