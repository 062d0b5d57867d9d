"""Commands that take a recipe: run, each stage.

The flags of a stage's command are the fields of its config: each is an override of the recipe, as --set is.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from worldclip.cli import command
from worldclip.cli.overview import commands_of
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout
from worldclip.contracts.records import skipped_shards
from worldclip.core.artifacts import read_json
from worldclip.core.command import Command, SetFlag, ShardsFlag, read_slice
from worldclip.core.console import note
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor
from worldclip.core.marks import Folder, Metavar
from worldclip.core.printable import command_line
from worldclip.evaluate.config import NO_DATASET
from worldclip.recipe import STEPS, run_folder, run_stages, stage_names, walk
from worldclip.train.launch import is_helper_rank

SHARD_SUFFIXES = (".tar", ".parquet", ".jsonl", ".csv", ".tsv")


def run_recipe(
    recipe: str,
    *,
    out: Annotated[str | None, Folder()] = None,
    set: SetFlag = (),
    from_: Annotated[str | None, Metavar("STAGE")] = None,
    from_run: Annotated[Path | None, Metavar("RUN")] = None,
    until: Annotated[str | None, Metavar("STAGE")] = None,
    dry_run: bool = False,
    executor: Executor,
) -> tuple[Any, str]:
    """Run a whole recipe; skip finished and unchanged stages.

    Returns the reports of its stages and the table of results; of a dry run why each stage would run.

    out: folder of the run (default: the given run, or runs/<name of the recipe>).
    set: override a key of the recipe, section.key=value; repeatable (none: back to the default).
    from_: rerun this stage and all after it.
    from_run: begin with the finished stages of this run, linked instead of copied; what the recipe changes runs again.
    until: last stage to run.
    dry_run: print what would run and why, and stop; what would stop the run is an error here too.

    Examples:
        worldclip run recipes/emoji.toml --until curate
        worldclip run runs/my_images --set balance.tail_fraction=0.06 --dry-run
    """
    started_at = time.perf_counter()
    load_recipe(recipe, set)  # what is no recipe is said before anything about the run's folder
    context = walk(
        recipe, _own_folder(recipe, out),
        from_stage=from_, from_run=from_run, until=until, overrides=set, executor=executor, dry_run=dry_run,
    )  # fmt: skip
    if dry_run:
        return {"run": str(context.dir), "stages": context.reports}, ""
    return results(context.dir, stage_names()[: stage_names().index(until or stage_names()[-1]) + 1], started_at)


def _own_folder(recipe: str, out: str | None) -> Path:
    """Return the folder of the run.  Raises UserError for one that holds a pool, which would read the run's tables."""
    folder = run_folder(recipe, out)
    if not layout.is_run(folder) and folder.is_dir():
        shards = sorted(path.name for path in folder.iterdir() if path.name.endswith(SHARD_SUFFIXES))
        if shards:
            raise UserError(
                f"--out {folder} holds files of pairs such as {shards[0]}; choose another folder for the run"
            )
    return folder


def _key_of_flag(flag: str) -> str:
    """Return how `run`, which has no flags of stages, sets the key that a stage has a flag for; "" for other flags."""
    name = flag.removeprefix("--").replace("-", "_")
    keys = []
    for item in command.config_flags(Recipe()):
        key = item.key.removeprefix("config.")
        if key.partition(".")[2] == name:
            keys.append(f"--set {key}={item.value_name}")
    if not keys:
        return ""
    return f"; it is a key of the recipe: {' or '.join(keys)}"


RUN = Command(run_recipe, remedy_of=_key_of_flag)
"""Run a whole recipe; skip finished and unchanged stages."""


def results(run_dir: Path, stages: Sequence[str], started_at: float) -> tuple[dict[str, Any], str]:
    """Return the reports of `stages`, and the table of results if evaluate is among them.

    Print how long the call took, what its last stage has, in which folder, what to do next, and broken shards.
    started_at: of the call, by time.perf_counter.
    """
    from worldclip.pool.stage import skipped_lines
    from worldclip.report.numbers import duration
    from worldclip.tools.status import counts_text, stage_status

    reports: dict[str, Any] = dict.fromkeys(stages)
    for stage in stages:
        path = layout.report_json(run_dir / stage)
        if path.exists():
            reports[stage] = read_json(path)
    table = layout.results_table(run_dir)
    text = table.read_text(encoding="utf-8") if "evaluate" in stages and table.exists() else ""
    stage = stages[-1]
    counts = counts_text(stage_status(run_dir, stage)) or stage
    note(f"done in {duration(time.perf_counter() - started_at)}: {counts}; in {run_dir / stage}")
    if layout.report_html(run_dir).exists():
        note(f"report: {layout.report_html(run_dir)}")
    if stage == "curate":
        note(f"next: {command_line('explore', run_dir, '--out', 'explorer')}")
    elif stage == "train":
        note(f"next: {command_line('evaluate', run_dir)}")
    elif stage in ("evaluate", "export"):
        note(f"next: {command_line('embed', run_dir, 'POOL', '--out', 'embedded')}")
    elif not layout.stage_report(run_dir, "curate").exists():
        note(f"next: {command_line('run', run_dir)}")
    for line in skipped_lines(skipped_shards(run_dir)):
        note(line)
    return {"run": str(run_dir), "stages": reports}, text


def run_stage(
    recipe: str,
    *,
    stage: str,
    overrides: Sequence[str],
    out: Annotated[str | None, Folder()] = None,
    set: SetFlag = (),
    shards: ShardsFlag = None,
    dry_run: bool = False,
    executor: Executor,
) -> tuple[Any, str]:
    """Run one stage; return its report and, of evaluate, the table of results.

    The `overrides` of the recipe are --set and the flags of the stage's keys; the last one of a key wins.

    out: folder of the run (default: the given run, or runs/<name of the recipe>).
    set: override a key of the recipe, section.key=value; repeatable (none: back to the default).
    dry_run: print what would run, the model's size, FLOPs and memory, and stop.
    """
    started_at = time.perf_counter()
    config = load_recipe(recipe, overrides)
    if stage == "evaluate" and not config.evaluate.dataset_names:
        raise UserError(NO_DATASET)
    run_dir = _own_folder(recipe, out)
    if stage == "train" and dry_run:
        context = run_stages(config, run_dir, [stage], executor=executor, dry_run=True)
        return {"run": str(context.dir), "stages": context.reports}, ""
    part = read_slice(shards) if shards else None
    recorded = None
    if stage == "export":  # one of many: its flags are no part of the run, and the next call does not repeat them
        recorded = dataclasses.replace(config, export=load_recipe(recipe).export)
    run_stages(config, run_dir, [stage], executor=executor, part=part, recorded=recorded)
    if part is not None or is_helper_rank():
        return None, ""
    return results(run_dir, [stage], started_at)


STAGES_WITH = {
    "shards": ("pool", "match", "curate"),
    "dry_run": ("train",),
}


def run_one_stage(stage: str, arguments: Sequence[str]) -> int:
    """Run the command of a stage; return exit code 0."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        raise UserError(f"worldclip {stage} {arguments[0]}: the recipe or the run's folder comes first, then the flags")
    summary = next(step.help for step in STEPS if step.stage == stage)
    summary += commands_of(stage, f"\n\nCommands that begin with {stage} (worldclip COMMAND --help):")
    without = [flag for flag, stages in STAGES_WITH.items() if stage not in stages]
    config = getattr(Recipe(), stage)
    return command.run_command(
        Command(run_stage), stage, summary, arguments, without=without, config=config, section=stage, stage=stage
    )
