"""The stage: curated pairs -> RUN/train.  It resumes at any moment, and never overwrites checkpoints."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from worldclip import pool
from worldclip.contracts import layout
from worldclip.contracts.layout import checkpoints, step_of
from worldclip.core import artifacts
from worldclip.core.changes import Change
from worldclip.core.console import say
from worldclip.core.errors import UserError, require
from worldclip.core.job import Job, Report, Result, Run
from worldclip.evaluate.config import EvaluateConfig
from worldclip.language.config import LanguagesConfig
from worldclip.model.clip import pick_device
from worldclip.model.precision import bf16_hardware
from worldclip.model.tokenizer import Tokenizer, load_tokenizer
from worldclip.train.before_start import plan_lines, problems
from worldclip.train.checkpoint import consolidate, drop_best_of_removed, latest_valid_checkpoint, remove_old
from worldclip.train.config import TrainConfig
from worldclip.train.launch import is_helper_rank, num_ranks
from worldclip.train.made_of import decided_by, digest_of_files, inputs_of, streams_of
from worldclip.train.pool_join import image_shards, join_images, require_images
from worldclip.train.schedule import (
    Schedule,
    apply_changes,
    branched_precision,
    crosses,
    find_record,
    find_schedule,
    refused_changes,
)
from worldclip.train.tokenizer import run_tokenizer

if TYPE_CHECKING:
    from worldclip.train.loop import Start


def train(run: Run) -> None:
    """Train to the last step, from the newest valid checkpoint if there is one: RUN/train/step_<9 digits>.

    Under torchrun rank 0 does what is done once; the other ranks help to train and do nothing else.
    """
    if not run.asks_for("train"):
        return
    if is_helper_rank():
        _help_train(run)
        return
    job = run.job("train", inputs_of, decided_by(run))
    has_run = run.stage(job, problems=problems, work=_train_once, plan=plan_lines)
    if not has_run and not run.is_dry and num_ranks() > 1:
        from worldclip.train.distributed import broadcast_record, connected_ranks

        with connected_ranks(run.section(TrainConfig).device) as world:
            broadcast_record(None, world)  # there is nothing to train: the other ranks exit


def _train_once(run: Run, job: Job) -> Result:
    """Do the work of rank 0.  Raises UserError if RUN/train has checkpoints of another config or other inputs."""
    require("torch", extra="train")
    from worldclip.train.distributed import broadcast_record, connected_ranks
    from worldclip.train.loop import Trainer

    config = run.section(TrainConfig)
    train_dir = job.folder
    with connected_ranks(config.device) as world:
        schedule = _prepare(run, job, world.size)
        for partial in train_dir.glob(".step_*"):  # remains of a save or a removal that was killed
            shutil.rmtree(partial)
        start, tokenizer = _find_start(run, schedule)
        broadcast_record(start, world)  # listed once: pools have many files
        trainer = Trainer(run, world, start, tokenizer)
        trainer.run()
        # a kill leaves old checkpoints, and so does a best step that was found since
        remove_old(train_dir, config.keep_last, config.keep_every_samples)
        consolidate(checkpoints(train_dir)[-1])
        report = trainer.report()
    _say_what_became(report)
    counts = {key: report[key] for key in ("samples_seen", "steps", "skipped_steps", "no_image", "bad")}
    return Result(report=report, counts=counts)


def _find_start(run: Run, schedule: Schedule) -> tuple[Start, Tokenizer]:
    """Return what all ranks start from, and the tokenizer: list the shards, join the images, make what is missing."""
    from worldclip.train.loop import Start

    config = run.section(TrainConfig)
    indexed = pool.indexed_shards(run)
    images = image_shards(config)
    shards = list(indexed)  # the loader asks for each many times
    require_images(config, run.dir, shards)
    if images is not None:
        join_images(run, shards, images)
    tokenizer = run_tokenizer(config, run.dir, [shard.name for shard in shards])
    _record_tokenizer(run.dir)
    checkpoint = latest_valid_checkpoint(layout.train_dir(run.dir))
    drop_best_of_removed(layout.train_dir(run.dir), checkpoint)
    start = Start(
        schedule=schedule,
        checkpoint=checkpoint,
        num_streams=streams_of(run),
        shards=shards,
        images=None if images is None else list(images),
        lacks_scores=checkpoint is not None and _lacks_scores(run, schedule, checkpoint),
    )
    return start, tokenizer


def _record_tokenizer(run_dir: Path) -> None:
    """Record the digest of RUN/train/tokenizer in config.json.  Raises UserError if it is not the recorded one."""
    path = layout.train_dir(run_dir) / "config.json"
    record = artifacts.read_json(path)
    digest = digest_of_files(layout.tokenizer(run_dir))
    if record.get("tokenizer") == digest:
        return
    if "tokenizer" in record:
        change = Change(f"the digest of {layout.tokenizer(run_dir)}", record["tokenizer"], digest)
        problems = refused_changes(run_dir, [change])
        if problems:
            raise UserError(problems)
    artifacts.write_json(path, {**record, "tokenizer": digest})


def _lacks_scores(run: Run, schedule: Schedule, checkpoint: Path) -> bool:
    """Return whether a checkpoint is due for an evaluation on the present datasets; write best.json of these."""
    from worldclip.train.scores import config_of_scores, load_datasets, read_mean, write_best

    config = run.section(TrainConfig)
    if not config.evaluate_every_samples:
        return False
    evaluate_config = config_of_scores(config, run.section(EvaluateConfig))
    _, digests = load_datasets(evaluate_config, run.dir, run.section(LanguagesConfig).table)
    write_best(layout.train_dir(run.dir), digests)
    is_due = crosses(step_of(checkpoint), schedule, config.evaluate_every_samples)
    return is_due and read_mean(checkpoint, digests) is None


def _say_what_became(report: Report) -> None:
    """Print how many samples training saw, and how many images it could not use."""
    say("train", f"{report['samples_seen']:,} samples seen of {report['pairs']:,} pairs, {report['epochs']:.1f} epochs")
    if report["no_image"]:
        say("train", f"{report['no_image']:,} kept pairs have no image and are not trained on")
    num_bad = sum(report["bad"].values())
    if num_bad:
        share = num_bad / report["samples_seen"]
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report["bad"].items())
        say(
            "train",
            f"{num_bad:,} images, {share:.1%} of the samples, could not be used and were replaced by others "
            f"({reasons}); worldclip pool check lists them",
        )


def _help_train(run: Run) -> None:
    """Do what every rank but the first does: wait until there is something to train, and train."""
    from worldclip.train.distributed import broadcast_record, connected_ranks
    from worldclip.train.loop import Trainer

    config = run.section(TrainConfig)
    with connected_ranks(config.device) as world:
        start = broadcast_record(None, world)
        if start is not None:
            tokenizer = load_tokenizer(layout.tokenizer(run.dir), config.model.architecture().context_length)
            Trainer(run, world, start, tokenizer).run()


def _prepare(run: Run, job: Job, world_size: int) -> Schedule:
    """Create RUN/train, or check that its checkpoints come from the same config and inputs; return the schedule."""
    record = find_record(run, job)
    schedule = find_schedule(run, record, world_size)
    if record is not None:
        apply_changes(job, record)
        return schedule
    schedule = _with_precision(schedule, run)
    artifacts.remove(job.folder)
    artifacts.write_json(
        job.folder / "config.json", {"config": job.config, "inputs": job.inputs, "schedule": asdict(schedule)}
    )
    if run.section(TrainConfig).scale.is_set:
        say(
            "train",
            f"English is {schedule.english_fraction:.1%} of the pairs: {schedule.factor} x the English run's samples "
            f"and batch size, {schedule.samples_seen:,} samples in {schedule.num_steps:,} steps of "
            f"{schedule.global_batch_size:,}",
        )
    return schedule


def _with_precision(schedule: Schedule, run: Run) -> Schedule:
    """Return the schedule with train.precision; auto takes that of the run it began with, else what the device has."""
    config = run.section(TrainConfig)
    if config.precision != "auto":
        return replace(schedule, precision=config.precision)
    precision = branched_precision(run.dir)
    if precision is not None:
        say("train", f"train.precision = auto: {precision}, as in the run of --from-run")
        return replace(schedule, precision=precision, precision_by="--from-run")
    device = pick_device(config.device)
    hardware = bf16_hardware(device)
    precision = "fp32"
    reason = "has no instructions for bfloat16 that gain"
    if hardware:
        precision = "bf16"
        reason = f"has {hardware}"
    say("train", f"train.precision = auto: {precision}, since this {device.type} {reason}")
    return replace(schedule, precision=precision, precision_by=hardware)
