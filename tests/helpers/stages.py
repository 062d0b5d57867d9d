"""One stage of a recipe at a time, as tests call it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldclip.config import Recipe
from worldclip.core.artifacts import MANIFEST, write_text
from worldclip.core.execute import Executor, LocalExecutor
from worldclip.core.job import Job, Report, Run
from worldclip.core.settings import to_toml
from worldclip.recipe import sections_of

QUIET = LocalExecutor(workers=1, quiet=True)  # in this process: most worlds of tests are too small to share
FUNCTIONS = {"pool": "index", "metadata": "build"}  # the function of any other stage has its name


def context(recipe: Recipe, run_dir: Path, executor: Executor | None = None) -> Run:
    """Return the context that recipe.run gives to the stages."""
    return Run(dir=run_dir, sections=sections_of(recipe), executor=executor or QUIET)


def run_stage(name: str, recipe: Recipe, run_dir: Path, executor: Executor | None = None) -> bool:
    """Run a stage unless it is finished and unchanged; return whether it ran."""
    _write_recipe(recipe, run_dir)
    run = context(recipe, run_dir, executor)
    _function(name)(run)
    return name in run.reports


def finish(name: str, recipe: Recipe, run_dir: Path, executor: Executor | None = None) -> Report:
    """Run a stage whether or not it is finished, and return its report.  report.html is not written."""
    (run_dir / name / MANIFEST).unlink(missing_ok=True)
    _write_recipe(recipe, run_dir)
    run = context(recipe, run_dir, executor)
    _function(name)(run)
    return run.reports[name]


def why_run(name: str, recipe: Recipe, run_dir: Path) -> str | None:
    """Return why a stage must run; None if it is finished and unchanged."""
    return job_of(name, recipe, run_dir).reason_to_run()


def job_of(name: str, recipe: Recipe, run_dir: Path) -> Job:
    """Return the job of a stage, without running it."""
    probe = _Probe(dir=run_dir, sections=sections_of(recipe))
    _function(name)(probe)
    assert probe.job_of_stage is not None
    return probe.job_of_stage


@dataclass(kw_only=True)
class _Probe(Run):
    """A context that keeps a stage's job instead of running it."""

    job_of_stage: Job | None = None

    def stage(self, job: Job, **other: Any) -> bool:
        self.job_of_stage = job
        return True


def _write_recipe(recipe: Recipe, run_dir: Path) -> None:
    if not (run_dir / "recipe.toml").exists():
        write_text(run_dir / "recipe.toml", to_toml(recipe))


def _function(name: str) -> Callable[[Run], None]:
    return getattr(importlib.import_module(f"worldclip.{name}.stage"), FUNCTIONS.get(name, name))
