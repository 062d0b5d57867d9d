"""The whole recipe, in order.  A stage is a module with run, inputs and relevant_config; this is the only place that
knows which comes after which.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from worldclip.config import Recipe, load_recipe
from worldclip.core.artifacts import describe_run, write_json, write_text
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor
from worldclip.core.job import RunLock, Stage, run_stage
from worldclip.core.settings import to_toml

STAGES = (
    "pool",  #      build or index the pairs
    "metadata",  # 1  WordNets, Wikipedia, word lists -> entries of each language
    "match",  #     2  text -> language, entries; counts
    "balance",  #   3  counts -> thresholds -> entry probabilities
    "curate",  #    4  probabilities -> kept pairs
    "train",  #     5  kept pairs -> checkpoints
    "evaluate",  #  6  checkpoint -> results
    "export",  #    7  checkpoint -> other libraries' formats
)


def run(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    *,
    from_stage: str | None = None,
    until: str | None = None,
    overrides: Sequence[str] = (),
    executor: Executor | None = None,
    dry_run: bool = False,
) -> Path:
    """Run `recipe` (a TOML file, a run's folder or a Recipe) into the folder `out`, which is returned.

    What is finished and unchanged is skipped.  from_stage: run this stage and all after it anew; until: the last
    stage to run.  Raises UserError for mistakes in the recipe and StageFailed where shards failed.
    """
    stages = _select(from_stage, until)
    whole = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    run_dir = run_folder(recipe, out)
    if dry_run:
        _print_plan(whole, run_dir, stages, from_stage)
        return run_dir
    if is_helper():
        help_with(stages, whole, run_dir)
        return run_dir
    with RunLock(run_dir):
        write_text(run_dir / "recipe.toml", to_toml(whole))
        write_json(run_dir / "run.json", describe_run())
        if from_stage:
            start_anew(run_dir, STAGES[STAGES.index(from_stage) :])
        for name in stages:
            if run_stage(load_stage(name), name, whole, run_dir, executor or LocalExecutor()):
                importlib.import_module("worldclip.report").write_report(run_dir)
            else:
                dismiss_helpers(name, whole)
    return run_dir


def is_helper() -> bool:
    """Whether torchrun started this process to help with training only: all of its processes but the first."""
    return int(os.environ.get("RANK", "0")) > 0


def help_with(stages: Sequence[str], recipe: Recipe, run_dir: Path) -> None:
    """A helper's whole work: it waits until the first process trains, and trains with it."""
    if "train" in stages:
        importlib.import_module("worldclip.train").help_train(recipe, run_dir)


def dismiss_helpers(stage: str, recipe: Recipe) -> None:
    """Where training was finished already, nobody needs to wait for it."""
    if stage == "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        importlib.import_module("worldclip.train").dismiss(recipe)


def load_stage(name: str) -> Stage:
    return importlib.import_module(f"worldclip.{name}")


def run_folder(recipe: str | Path | Recipe, out: str | Path | None) -> Path:
    """`out`, else the run's own folder, else runs/<name of the recipe>."""
    if out is not None:
        return Path(out)
    if isinstance(recipe, Recipe):
        raise UserError("out is not given; name the folder that the run goes into")
    path = Path(recipe)
    return path if path.is_dir() else Path("runs") / path.stem


def start_anew(run_dir: Path, stages: Sequence[str]) -> None:
    """Take back the manifests of `stages`; the first one, asked for by name, loses its folder."""
    for stage in stages:
        (run_dir / stage / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(run_dir / stages[0], ignore_errors=True)
    if "train" in stages:
        shutil.rmtree(run_dir / "train", ignore_errors=True)


def _select(from_stage: str | None, until: str | None) -> Sequence[str]:
    problems = [
        f"--{flag} is {stage!r}; a stage is one of {', '.join(STAGES)}"
        for flag, stage in (("from", from_stage), ("until", until))
        if stage is not None and stage not in STAGES
    ]
    if not problems and from_stage and until and STAGES.index(from_stage) > STAGES.index(until):
        problems.append(f"--from {from_stage} comes after --until {until}; the order is {', '.join(STAGES)}")
    if problems:
        raise UserError(problems)
    return STAGES[: STAGES.index(until) + 1] if until else STAGES


def _print_plan(recipe: Recipe, run_dir: Path, stages: Sequence[str], from_stage: str | None) -> None:
    from worldclip.core.job import why_run

    forced = STAGES[STAGES.index(from_stage) :] if from_stage else ()
    stale = False
    for name in stages:
        reason = "asked for by --from" if name in forced else None
        if reason is None:
            reason = "a stage above it runs" if stale else why_run(load_stage(name), name, recipe, run_dir)
        stale = stale or reason is not None
        say(name, f"would run: {reason}" if reason else "is finished and unchanged")
        if name == "train" and reason:
            for line in importlib.import_module("worldclip.train.budget").plan(recipe, run_dir):
                say(name, line)
