"""The recipe on one screen: eight stages, in the data's order.  `run` walks them; nothing else lists the stages."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from worldclip.contracts import layout
from worldclip.core.errors import UserError
from worldclip.core.local_path import require_local
from worldclip.core.printable import command_line

if TYPE_CHECKING:  # imported inside the functions: `worldclip --help` needs only the names of the stages
    from worldclip.config import Recipe
    from worldclip.core.execute import Executor
    from worldclip.core.job import Run


class Step(NamedTuple):
    """A stage of the recipe."""

    stage: str
    help: str  # what goes in -> what comes out


STEPS = (
    Step("pool", "pairs: tars, Parquet, JSONL -> where every text and image is"),
    Step("metadata", "WordNets, Wikipedia, word lists -> entries of each language"),
    Step("match", "text -> language, entries; counts of each entry"),
    Step("balance", "counts -> thresholds, entry probabilities"),
    Step("curate", "probabilities -> kept pairs"),
    Step("train", "kept pairs -> checkpoints"),
    Step("evaluate", "checkpoint -> results"),
    Step("export", "checkpoint -> other libraries' formats"),
)
"""The calls of `recipe` in order: the one list of stages, for the command line and the report."""
LARGEST_LR = 0.01  # of AdamW; those of our recipes are 4e-5 to 2e-3


def recipe(run: Run) -> None:
    """Run the stages in order; each skips itself if it is not asked for, or finished and unchanged."""
    from worldclip import balance, curate, export, match, metadata, pool
    from worldclip.evaluate.stage import evaluate
    from worldclip.train.stage import train

    pool.index(run)
    metadata.build(run)
    match.match(run)
    balance.balance(run)
    curate.curate(run)
    train(run)
    evaluate(run)
    export.export(run)


def stage_names() -> tuple[str, ...]:
    """Return the names of the stages in order."""
    return tuple(step.stage for step in STEPS)


def run(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    *,
    from_stage: str | None = None,
    from_run: str | Path | None = None,
    until: str | None = None,
    overrides: Sequence[str] = (),
    executor: Executor | None = None,
    dry_run: bool = False,
) -> Path:
    """Run a recipe into the folder `out` and return that folder.  Finished and unchanged stages are skipped.

    recipe: a TOML file, the name of a recipe of ours (`emoji`), the folder of a run, or a Recipe.  from_stage: rerun
    this stage and all after it.  from_run: begin with the finished stages of this run, linked.  until: the last stage
    to run.  Raises UserError for mistakes in the recipe and StageFailed if shards failed.
    """
    return walk(
        recipe, out, from_stage=from_stage, from_run=from_run, until=until,
        overrides=overrides, executor=executor, dry_run=dry_run,
    ).dir  # fmt: skip


def walk(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    *,
    from_stage: str | None = None,
    from_run: str | Path | None = None,
    until: str | None = None,
    overrides: Sequence[str] = (),
    executor: Executor | None = None,
    dry_run: bool = False,
) -> Run:
    """Run a recipe as `run` does; return the context, with the stages' reports or what a dry run says of each."""
    from worldclip.config import Recipe, load_recipe
    from worldclip.core.execute import LocalExecutor
    from worldclip.core.settings import with_absolute_places
    from worldclip.train.launch import is_helper_rank

    names = _select(from_stage, until)
    config = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    without_overrides = None
    if overrides and not isinstance(recipe, Recipe):
        with contextlib.suppress(UserError):  # it may be whole only with them
            without_overrides = load_recipe(recipe)
    restarted: Sequence[str] = ()
    if from_stage:
        restarted = stage_names()[stage_names().index(from_stage) :]
    run_dir = run_folder(recipe, out)
    if from_run is not None:
        if dry_run:
            raise UserError("--dry-run links no stages of --from-run; leave out one of the two")
        if not is_helper_rank():  # the first rank links the stages
            _branch(Path(from_run), run_dir, with_absolute_places(config))
    return run_stages(
        config, run_dir, names, restarted=restarted, executor=executor or LocalExecutor(), dry_run=dry_run,
        without_overrides=without_overrides,
    )  # fmt: skip


def run_stages(
    config: Recipe,
    run_dir: Path,
    names: Sequence[str],
    *,
    executor: Executor,
    restarted: Sequence[str] = (),
    part: slice | None = None,
    dry_run: bool = False,
    recorded: Recipe | None = None,
    without_overrides: Recipe | None = None,
) -> Run:
    """Walk `recipe` for some of its stages, under the lock of RUN; return the context with the stages' reports.

    restarted: stages whose results are taken back, each after its checks.  part: work on these shards of one stage
    alone.  recorded: what RUN/recipe.toml then holds (default: config).  without_overrides: what a new run's holds of a
    stage that refuses its overrides.
    """
    from worldclip.core.console import logged_to
    from worldclip.core.job import Run, lock_folder
    from worldclip.core.settings import with_absolute_places
    from worldclip.pool.files import check_run_folder
    from worldclip.report import write_report
    from worldclip.train.launch import is_helper_rank

    config = with_absolute_places(config)
    context = Run(
        dir=run_dir,
        sections=sections_of(config),
        executor=executor,
        only=frozenset(names),
        restarted=frozenset(restarted),
        part=part,
        is_dry=dry_run,
        after_stage=write_report,
    )
    if "train" in names and not is_helper_rank():
        _say_large_lr(config, run_dir)
    if dry_run:
        check_run_folder(run_dir, stage_names())
        recipe(context)
        problems: list[str] = []
        for report in context.reports.values():
            problems += report["problems"]
        _refuse(problems)
        return context
    if is_helper_rank():  # torchrun started this process only for training; the first rank does the rest
        context.only = frozenset(names) & {"train"}
        recipe(context)
        return context
    check_run_folder(run_dir, stage_names())
    _refuse_keys_above(context, names[0])
    _refuse_outdated_above(context, names[0])
    check = dataclasses.replace(context, is_dry=True, preflight=[])
    # A first walk, in which no stage works (is_dry).  It collects in `preflight` what would stop one later: packages,
    # devices, datasets, disk.
    recipe(check)
    _refuse(check.preflight or [])
    with lock_folder(run_dir, is_shared=part is not None), logged_to(layout.run_log(run_dir)):
        _run_locked(context, executor, with_absolute_places(recorded or config), without_overrides)
    return context


def _run_locked(context: Run, executor: Executor, recorded: Recipe, without_overrides: Recipe | None) -> None:
    """Walk `recipe` and note what ran, with which recipe, and the CPU time of the workers; the lock is held.

    recorded, without_overrides: as in run_stages.
    """
    from worldclip.config import load_recipe
    from worldclip.contracts.records import add_cpu_time, read_cpu_time
    from worldclip.core.artifacts import describe_run, write_json, write_text
    from worldclip.core.settings import to_toml, with_absolute_places

    run_dir = context.dir
    write_json(layout.run_record(run_dir), {**describe_run(), "cpu_time": read_cpu_time(run_dir)})
    executor.cpu_time.clear()  # of another run
    before = load_recipe(run_dir) if layout.recipe(run_dir).is_file() else without_overrides
    recipe_toml = to_toml(recorded)
    context.write_recipe = lambda: write_text(layout.recipe(run_dir), recipe_toml)
    try:
        recipe(context)
    except UserError:
        is_written = context.write_recipe is None
        if is_written and context.current_stage is not None and before is not None:
            _take_back_refused(run_dir, context.current_stage, recorded, with_absolute_places(before))
        raise
    finally:
        with contextlib.suppress(OSError):  # of a full disk, which is said where it stops a stage
            add_cpu_time(run_dir, executor.cpu_time)
    context.keep_recipe()


def _say_large_lr(config: Recipe, run_dir: Path) -> None:
    """Warn of a learning rate that is probably a typing error; a bound would refuse runs that were trained by it."""
    from worldclip.core.artifacts import read_manifest
    from worldclip.core.console import say

    lr = config.train.lr
    if lr > LARGEST_LR and read_manifest(layout.train_dir(run_dir)) is None:
        say("train", f"warning: train.lr = {lr:g} is unusually large for AdamW; recipes of worldclip take 4e-5 to 2e-3")


def _take_back_refused(run_dir: Path, stage: str, recorded: Recipe, before: Recipe) -> None:
    """Write RUN/recipe.toml with the sections from before the call, of a stage that stopped it and of all below it.

    The next call would otherwise be refused for a value that it does not give.  Checkpoints keep the values that they
    were trained by.
    """
    from worldclip.core.artifacts import write_text
    from worldclip.core.changes import changed_keys
    from worldclip.core.console import say
    from worldclip.core.settings import to_dict, to_toml

    if stage == "train" and layout.checkpoints(layout.train_dir(run_dir)):
        return
    below = stage_names()[stage_names().index(stage) :]
    names = [*below, "languages"] if stage == "metadata" else below
    kept = dataclasses.replace(recorded, **{name: getattr(before, name) for name in names})
    changes = changed_keys(to_dict(kept), to_dict(recorded))
    if changes:
        write_text(layout.recipe(run_dir), to_toml(kept))
        say(stage, f"stopped; {layout.recipe(run_dir)} does not keep {', '.join(change.name for change in changes)}")


def _branch(source: Path, run_dir: Path, config: Recipe) -> None:
    """Link the stages of another run: up to curate, whose shards are reused one by one, and all if nothing differs.

    Training is never linked under another config: its checkpoints would be refused; nor is the index of another pool.
    """
    from worldclip.config import load_recipe
    from worldclip.core.console import say
    from worldclip.pool.files import check_run_folder
    from worldclip.tools.branch import branch

    names = stage_names()
    check_run_folder(run_dir, names)
    older = load_recipe(source)
    old = sections_of(older)
    new = sections_of(config)
    after_train = names[names.index("train") + 1 :]
    if any(old[name] != new[name] for name in old if name not in after_train):
        names = names[: names.index("train")]
    if older.pool.location != config.pool.location:
        names = names[names.index("metadata") :]
    linked = branch(source, run_dir, names)
    say("branch", f"linked from {source}: {', '.join(linked) or 'nothing new'}")


def _refuse_keys_above(context: Run, first: str) -> None:
    """Raise UserError where the recipe changes a key of a finished stage above the `first` that is asked for.

    RUN/recipe.toml would state a value by which nothing was made.
    """
    from worldclip.config import load_recipe
    from worldclip.core.artifacts import read_manifest
    from worldclip.core.changes import changed_keys
    from worldclip.core.job import Run

    if not layout.recipe(context.dir).is_file():
        return
    older = Run(dir=context.dir, sections=sections_of(load_recipe(context.dir)))
    problems = []
    for stage in stage_names()[: stage_names().index(first)]:
        if read_manifest(context.dir / stage) is not None:
            changes = changed_keys(older.deciding(stage), context.deciding(stage))
            problems += [f"{change}; {stage} is finished with it: give the key to worldclip run" for change in changes]
    _refuse(problems)


def _refuse_outdated_above(context: Run, first: str) -> None:
    """Raise UserError for a finished stage above the `first` that is asked for, where one above it ran again since."""
    from worldclip.contracts.records import outdated_stages

    problems = []
    for stage, reason in outdated_stages(context.dir, {}).items():
        if stage_names().index(stage) < stage_names().index(first):
            remedy = f"run first: {command_line('run', context.dir, '--until', stage)}"
            checkpoint = layout.best_checkpoint(context.dir)
            if stage == "train" and checkpoint is not None:  # which no later training overwrites
                remedy = (
                    f"take its checkpoint by itself, {command_line(first, checkpoint, '--out', 'DIR')}, or move the "
                    "folder away and train anew"
                )
            problems.append(f"{context.dir / stage} is out of date: {reason}; {remedy}")
    _refuse(problems)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise UserError(list(dict.fromkeys(problems)))


def sections_of(config: Recipe) -> dict[str, object]:
    """Return section -> its config."""
    return {section.name: getattr(config, section.name) for section in dataclasses.fields(config)}


def run_folder(source: str | Path | Recipe, out: str | Path | None) -> Path:
    """Return `out`, else the folder that `source` is, else runs/<name of the recipe>.  Raises UserError for a URL."""
    if out is not None:
        return require_local(out, "--out")
    if not isinstance(source, str | Path):
        raise UserError("out is not set; name the folder of the run")
    path = Path(source)
    return path if path.is_dir() else Path("runs") / path.stem


def _select(from_stage: str | None, until: str | None) -> Sequence[str]:
    """Return the stages up to `until`.  Raises UserError for unknown names and a wrong order."""
    names = stage_names()
    problems = []
    for flag, stage in (("from", from_stage), ("until", until)):
        if stage not in (None, *names):
            problems.append(f"--{flag} {stage!r}: unknown stage; stages are {', '.join(names)}")
    if not problems and from_stage and until and names.index(from_stage) > names.index(until):
        problems.append(f"--from {from_stage} comes after --until {until}; the order is {', '.join(names)}")
    if problems:
        raise UserError(problems)
    return names[: names.index(until) + 1] if until else names
