"""worldclip run, and each stage alone: their flags are their Config's, with the recipe's values as defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from worldclip.cli.flags import Common, executor_of, print_results, read_part, run_folder_of
from worldclip.cli.models import PushFlags, push_exports
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import UserError

STAGE_HELP = {
    "pool": "build or index a pool of pairs",
    "metadata": "entries of each language from word lists, WordNets and Wikipedia",
    "match": "language and entries of each text, counts of each entry",
    "balance": "thresholds and entry probabilities from the counts",
    "curate": "the kept pairs",
    "train": "a model on the kept pairs",
    "evaluate": "a checkpoint's results, or any model's: worldclip evaluate MODEL --out DIR",
    "export": "a checkpoint in other libraries' formats",
}
SLICED = ("pool", "match", "curate")  # stages that several calls may share out among them


@dataclass(frozen=True, kw_only=True)
class _Sliced(Common):
    shards: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Work on the I-th of N parts of the shards alone, as the jobs of an array do beside each other; the same command
    without --shards then finishes the stage."""


@dataclass(frozen=True, kw_only=True)
class _Planned(Common):
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would run, the model's size, its memory and hours, and stop."""


@dataclass(frozen=True, kw_only=True)
class _Pushed(Common, PushFlags):
    """The flags of the stage export."""


@dataclass(frozen=True, kw_only=True)
class RunCommand(Common):
    """Run a whole recipe; what is finished and unchanged is skipped."""

    from_stage: Annotated[str | None, tyro.conf.arg(name="from", metavar="STAGE")] = None
    """Run this stage and all after it anew."""
    until: Annotated[str | None, tyro.conf.arg(metavar="STAGE")] = None
    """Last stage to run."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would run and why, and stop."""


OWN_FLAGS: dict[str, type[Common]] = {"train": _Planned, "export": _Pushed}


def _run(command: RunCommand) -> int:
    from worldclip.recipe import STAGES, run

    recipe = load_recipe(command.recipe, command.set)
    run_dir = run_folder_of(command)
    run(
        recipe,
        run_dir,
        from_stage=command.from_stage,
        until=command.until,
        executor=executor_of(command),
        dry_run=command.dry_run,
    )
    if not command.dry_run:
        last = STAGES.index(command.until or STAGES[-1])
        print_results(run_dir, STAGES[: last + 1], command.json)
    return 0


def run_one_stage(name: str, rest: list[str]) -> int:
    """One stage alone; its flags are its Config's, their defaults the recipe's."""
    from worldclip.core.artifacts import describe_run, write_json, write_text
    from worldclip.core.job import RunLock, run_slice, run_stage
    from worldclip.core.settings import to_toml
    from worldclip.recipe import dismiss_helpers, help_with, is_helper, load_stage, run

    asks_help = any(argument in ("-h", "--help") for argument in rest)
    if rest and rest[0].startswith("-") and not asks_help:
        raise UserError(f"worldclip {name} {rest[0]}: the recipe or the run's folder comes first, then the flags")
    base = load_recipe(rest[0]) if rest and not asks_help else Recipe()
    config = getattr(base, name)
    command_type: Any = dataclasses.make_dataclass(
        f"{name.capitalize()}Command",
        [
            ("config", Annotated[type(config), tyro.conf.arg(name="")], field(default=config)),
        ],
        bases=(_Sliced if name in SLICED else OWN_FLAGS.get(name, Common),),
        frozen=True,
        kw_only=True,
    )
    command_type.__doc__ = STAGE_HELP[name].capitalize() + "."
    command = tyro.cli(command_type, args=rest, prog=f"worldclip {name}")
    recipe = load_recipe(command.recipe, command.set)
    if command.config != config:
        recipe = dataclasses.replace(recipe, **{name: command.config})
        if problems := recipe.problems():
            raise UserError(problems)
    run_dir, executor = run_folder_of(command), executor_of(command)
    part = read_part(command.shards) if isinstance(command, _Sliced) and command.shards else None
    if isinstance(command, _Planned) and command.dry_run:
        run(recipe, run_dir, until=name, dry_run=True)
        return 0
    if is_helper():
        help_with([name], recipe, run_dir)
        return 0
    with RunLock(run_dir, is_shared=part is not None):
        write_text(run_dir / "recipe.toml", to_toml(recipe))
        write_json(run_dir / "run.json", describe_run())
        stage: Any = load_stage(name)
        if part is not None:
            run_slice(stage, name, recipe, run_dir, executor, part)
            return 0
        if not run_stage(stage, name, recipe, run_dir, executor):
            dismiss_helpers(name, recipe)
        from worldclip.report import write_report

        write_report(run_dir)
    print_results(run_dir, [name], command.json)
    if isinstance(command, _Pushed) and command.push:
        push_exports(run_dir / "export", command.push, command.dry_run)
    return 0


COMMANDS: dict[str, Callable[[Any], int]] = {
    "run": _run,
}
