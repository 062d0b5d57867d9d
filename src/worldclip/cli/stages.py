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
    from worldclip.recipe import run, stage_names

    run_dir = run(
        load_recipe(command.recipe, command.set),
        run_folder_of(command),
        from_stage=command.from_stage,
        until=command.until,
        executor=executor_of(command),
        dry_run=command.dry_run,
    )
    if not command.dry_run:
        last = stage_names().index(command.until or stage_names()[-1])
        print_results(run_dir, stage_names()[: last + 1], command.json)
    return 0


def run_one_stage(name: str, rest: list[str]) -> int:
    """Run one stage; its flags are its Config's, their defaults the recipe's."""
    from worldclip.recipe import run_stages, stage_names
    from worldclip.train.launch import is_helper_rank

    command, base = _parse_stage(name, rest)
    recipe = load_recipe(command.recipe, command.set)
    if command.config != getattr(base, name):
        recipe = dataclasses.replace(recipe, **{name: command.config})
        if problems := recipe.problems():
            raise UserError(problems)
    run_dir, executor = run_folder_of(command), executor_of(command)
    if isinstance(command, _Planned) and command.dry_run:
        names = stage_names()[: stage_names().index(name) + 1]
        run_stages(recipe, run_dir, names, executor=executor, dry_run=True)
        return 0
    part = read_part(command.shards) if isinstance(command, _Sliced) and command.shards else None
    run_stages(recipe, run_dir, [name], executor=executor, part=part)
    if part is None and not is_helper_rank():
        print_results(run_dir, [name], command.json)
    if isinstance(command, _Pushed) and command.push:
        push_exports(run_dir / "export", command.push, command.dry_run)
    return 0


def _parse_stage(name: str, rest: list[str]) -> tuple[Any, Recipe]:
    """Return the command, and the recipe without overrides that its flags have their defaults from."""
    from worldclip.recipe import steps

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
    command_type.__doc__ = next(step.help for step in steps() if step.stage == name) + "."
    return tyro.cli(command_type, args=rest, prog=f"worldclip {name}"), base


COMMANDS: dict[str, Callable[[Any], int]] = {
    "run": _run,
}
