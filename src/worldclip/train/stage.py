"""The stage: curated pairs -> RUN/train.  It resumes at any moment, and never overwrites checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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
from worldclip.core.inputs import is_remote
from worldclip.core.job import STAGE_ABOVE, Job, Report, Result, Run
from worldclip.core.preflight import is_installed, missing_packages, missing_space, problems_of
from worldclip.core.printable import counted
from worldclip.curate import require_current
from worldclip.evaluate.config import EvaluateConfig
from worldclip.language.config import LanguagesConfig
from worldclip.model.clip import device_problems, pick_device
from worldclip.model.load import find
from worldclip.model.precision import bf16_hardware, pick_precision
from worldclip.model.tokenizer import Tokenizer, load_tokenizer
from worldclip.pool.config import PoolConfig
from worldclip.train import budget
from worldclip.train.checkpoint import consolidate, drop_best_of_removed, latest_valid_checkpoint, remove_old
from worldclip.train.config import TrainConfig
from worldclip.train.launch import is_helper_rank, num_ranks
from worldclip.train.pool_join import image_shards, join_images, require_images
from worldclip.train.schedule import (
    Schedule,
    apply_changes,
    branched_precision,
    crosses,
    find_record,
    find_schedule,
    fixed_changes,
    plan_schedule,
    refused_changes,
    trained_precision,
)
from worldclip.train.tokenizer import run_tokenizer

if TYPE_CHECKING:
    from worldclip.train.loop import Start

REMOTE_STREAMS = 64  # smallest default number of streams of an object store
STREAMS_PER_RANK = 6  # ... with many ranks


def train(run: Run) -> None:
    """Train to the last step, from the newest valid checkpoint if there is one: RUN/train/step_<9 digits>.

    Under torchrun rank 0 does what is done once; the other ranks help to train and do nothing else.
    """
    if not run.asks_for("train"):
        return
    if is_helper_rank():
        _help_train(run)
        return
    job = run.job("train", _inputs, _config(run))
    has_run = run.stage(job, problems=_problems, work=_train_once, plan=plan_lines)
    if not has_run and not run.is_dry and num_ranks() > 1:
        from worldclip.train.distributed import broadcast_record, connected_ranks

        with connected_ranks(run.section(TrainConfig).device) as world:
            broadcast_record(None, world)  # there is nothing to train: the other ranks exit


def _problems(run: Run) -> Iterator[str]:
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
            changes += fixed_changes(artifacts.read_json(path)["config"], _config(run))
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


def _config(run: Run) -> Report:
    return {"train": run.deciding("train")["train"] | {"num_streams": streams_of(run)}}


def streams_of(run: Run) -> int:
    """Return the number of streams that the images are read in; 0: windows.

    The default depends on the number of ranks at the first start: streams decide the order of pairs.
    """
    config = run.section(TrainConfig)
    if config.num_streams is not None:
        return config.num_streams
    images = config.pool.as_pool() or run.section(PoolConfig)
    if not any(map(is_remote, images.paths)):
        return 0
    path = layout.train_dir(run.dir) / "config.json"
    if path.exists() and "train" not in run.restarted:
        recorded: int = artifacts.read_json(path)["config"]["train"]["num_streams"]
        return recorded
    return max(REMOTE_STREAMS, STREAMS_PER_RANK * num_ranks())


def _inputs(run: Run) -> Report:
    """Return digests of the pool, the kept pairs and all that training starts from, and of train.pool's tars."""
    config = run.section(TrainConfig)
    digest = require_current(run)
    inputs: Report = {
        "pool": artifacts.require_manifest(run.dir, "pool")["digest"],
        "curate": artifacts.require_manifest(run.dir, "curate").get("list", digest),
        **_digests_of_starts(config, run.dir),
    }
    images = image_shards(config)
    if images is not None:
        inputs["images"] = {tar.name: tar.fingerprint for tar in images}
    return inputs


def _digests_of_starts(config: TrainConfig, run_dir: Path) -> dict[str, str]:
    """Return the digest of the initial weights, the teacher and the tokenizer's folder, by key of the recipe.

    What is gone has the digest that RUN/train/config.json records: the checkpoints hold what came of it.
    """
    path = layout.train_dir(run_dir) / "config.json"
    recorded: Report = {}
    if path.exists() and checkpoints(layout.train_dir(run_dir)):
        recorded = artifacts.read_json(path)["inputs"]
    digests = {}
    for key, source in (
        ("train.initial_weights", config.initial_weights),
        ("train.distill.teacher", config.distill.teacher),
    ):
        if source is not None:
            try:
                digests[key] = find(source).digest()
            except UserError:
                if key not in recorded:
                    raise
                digests[key] = recorded[key]
    key = "train.tokenizer.path"
    folder = config.tokenizer.path
    if folder is not None and Path(folder).is_dir():
        digests[key] = _digest_of_files(Path(folder))
    elif key in recorded:
        digests[key] = recorded[key]
    return digests


def _digest_of_files(folder: Path) -> str:
    """Return the digest of the files of a tokenizer's folder."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return artifacts.digest([artifacts.fingerprint(file, folder) for file in files])


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
    digest = _digest_of_files(layout.tokenizer(run_dir))
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


def _check(run: Run) -> None:
    """Raise UserError for an outdated list, checkpoints of other config or inputs, a batch that ranks cannot share."""
    if run.is_dry and artifacts.read_manifest(layout.stage_dir(run.dir, "curate")) is None:
        return  # a plan before there are pairs
    job = run.job("train", _inputs, _config(run))
    record = None
    if "train" not in run.restarted:
        record = find_record(run, job)
    if record is None:  # a dry run does not download the models that the training will start from
        require_current(run)
        image_shards(run.section(TrainConfig))
    find_schedule(run, record, num_ranks())
    if run.section(TrainConfig).pool.as_pool() is None:
        pool.refuse_replaced_files(run)


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
