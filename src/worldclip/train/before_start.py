"""Before a training: its problems, each with a remedy, and the lines of a dry run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from worldclip import pool
from worldclip.contracts import layout
from worldclip.contracts.layout import checkpoints
from worldclip.core import artifacts
from worldclip.core.changes import Change
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.job import STAGE_ABOVE, Run
from worldclip.core.preflight import is_installed, missing_packages, missing_space, problems_of
from worldclip.core.printable import counted
from worldclip.curate import require_current
from worldclip.evaluate.config import EvaluateConfig
from worldclip.model.clip import device_problems, pick_device
from worldclip.model.precision import pick_precision
from worldclip.train import budget
from worldclip.train.config import TrainConfig
from worldclip.train.launch import num_ranks
from worldclip.train.made_of import decided_by, inputs_of
from worldclip.train.pool_join import image_shards, require_images
from worldclip.train.schedule import (
    find_record,
    find_schedule,
    fixed_changes,
    plan_schedule,
    refused_changes,
    trained_precision,
)


def problems(run: Run) -> Iterator[str]:
    """Yield what keeps a training from its start, and how each is mended."""
    train_dir = layout.train_dir(run.dir)
    if "train" in run.restarted and checkpoints(train_dir):
        number = 1
        while Path(f"{train_dir}.{number}").exists():
            number += 1
        older = f"{train_dir}.{number}"
        yield f"{train_dir} has checkpoints, which are never overwritten; move them first: mv {train_dir} {older}"
    yield from _needs(run)
    if run.above_is_done:
        yield from problems_of(_check, run)


def plan_lines(run: Run) -> Iterator[str]:
    """Yield the lines of a dry run: whether the indexed pool lacks images, and the table of `budget.plan`."""
    config = run.section(TrainConfig)
    if not any(report["would_run"] for report in run.reports.values()):  # else the index may be of another pool
        try:
            require_images(config, run.dir, pool.indexed_shards(run))
        except UserError as error:
            yield f"images      {error}"
    if config.precision == "auto":
        precision = trained_precision(run.dir)
        if precision is None and is_installed("torch") and not device_problems("train", config.device):
            precision = pick_precision(pick_device(config.device))
        config = replace(config, precision=precision or "fp32")
    yield from budget.plan(config, run.dir)
    knows_batch = not config.scale.needs_report or layout.stage_report(run.dir, "curate").exists()
    if knows_batch and is_installed("torch") and not device_problems("train", config.device):
        from worldclip.train import speed

        yield speed.to_line(config, plan_schedule(config, run.dir, num_ranks()), num_ranks())


def _needs(run: Run) -> Iterator[str]:
    config = run.section(TrainConfig)
    path = layout.train_dir(run.dir) / "config.json"
    if "train" not in run.restarted:
        changes: list[Change | str] = []
        if path.exists():
            changes += fixed_changes(artifacts.read_json(path)["config"], decided_by(run))
        if run.is_dry:  # a finished stage that would run again writes another list of pairs
            for stage, report in run.reports.items():
                is_changed = report["would_run"] and report["reason"] != STAGE_ABOVE
                if is_changed and artifacts.read_manifest(layout.stage_dir(run.dir, stage)) is not None:
                    changes.append(f"{stage} would run again ({report['reason']})")
        yield from refused_changes(run.dir, changes)
    absent = list(missing_packages("train", extra="train"))
    if config.lora_rank is not None:
        yield from missing_packages("train.lora_rank", ("peft",), extra="lora")
    if config.wandb:
        yield from missing_packages("train.wandb", ("wandb",), extra="wandb")
    if absent:
        yield from absent
        return
    if run.preflight is not None:  # the first words of a run that trains: torch takes seconds to load
        say("train", f"{config.samples_seen:,} samples on device {config.device}; loads torch")
    yield from device_problems("train", config.device)
    if config.evaluate_every_samples:
        from worldclip.train.scores import config_of_scores

        yield from problems_of(config_of_scores, config, run.section(EvaluateConfig))
    yield from _missing_space(config, run.dir)


def _missing_space(config: TrainConfig, run_dir: Path) -> Iterator[str]:
    """Yield a problem if the disk has no room for the checkpoints that are still to come."""
    vocab_size = budget.find_vocab_size(config, run_dir)
    if vocab_size is None:
        return
    copies = config.keep_last + 1  # the new one is complete before the oldest goes
    if config.keep_every_samples and not config.scale.needs_report:
        copies += plan_schedule(config, run_dir, num_ranks()).samples_seen // config.keep_every_samples
    num_new = max(1, copies - len(checkpoints(layout.train_dir(run_dir))))
    size = num_new * budget.checkpoint_bytes(config, vocab_size)
    yield from missing_space(layout.train_dir(run_dir), size, counted(num_new, "checkpoint"))


def _check(run: Run) -> None:
    """Raise UserError for an outdated list, checkpoints of other config or inputs, a batch that ranks cannot share."""
    if run.is_dry and artifacts.read_manifest(layout.stage_dir(run.dir, "curate")) is None:
        return  # a plan before there are pairs
    job = run.job("train", inputs_of, decided_by(run))
    record = None
    if "train" not in run.restarted:
        record = find_record(run, job)
    if record is None:  # a dry run does not download the models that the training will start from
        require_current(run)
        image_shards(run.section(TrainConfig))
    find_schedule(run, record, num_ranks())
    if run.section(TrainConfig).pool.as_pool() is None:
        pool.refuse_replaced_files(run)
