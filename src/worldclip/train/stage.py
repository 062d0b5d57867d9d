"""The stage: curated pairs -> RUN/train.  It resumes at any moment, and never overwrites checkpoints."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core import artifacts, layout
from worldclip.core.console import say
from worldclip.core.errors import UserError, require
from worldclip.core.job import Job, Result, Run, changed_keys
from worldclip.core.layout import checkpoints
from worldclip.evaluate.config import EvaluateConfig
from worldclip.model.tokenizer import Tokenizer, load_tokenizer
from worldclip.pool.config import PoolConfig
from worldclip.train.checkpoint import consolidate, latest_valid_checkpoint, read_state
from worldclip.train.config import TrainConfig
from worldclip.train.launch import is_helper_rank, num_ranks
from worldclip.train.pool_join import image_shards, join_images, require_images
from worldclip.train.schedule import Schedule, check_batch, plan_schedule
from worldclip.train.tokenizer import run_tokenizer

if TYPE_CHECKING:
    import torch

    from worldclip.train.distributed import World
    from worldclip.train.loader import Loader
    from worldclip.train.loop import Progress
    from worldclip.train.train_state import TrainState

REMOTE_STREAMS = 64  # of tars in an object store


@dataclass(frozen=True, slots=True)
class Start:
    """What rank 0 tells the others when training starts."""

    schedule: Schedule
    checkpoint: str | None
    """Name of the checkpoint to resume from."""


def train(run: Run) -> None:
    """Train to the last step, from the newest valid checkpoint if there is one: RUN/train/step_<9 digits>.

    Under torchrun rank 0 does what is done once; the other ranks help to train and do nothing else.
    """
    if run.only is not None and "train" not in run.only:
        return
    if is_helper_rank():
        _help_train(run)
        return
    has_run = run.stage("train", inputs=_inputs, work=_train_once, config=_config(run), plan=_plan)
    if not has_run and not run.is_dry and num_ranks() > 1:
        _release_helpers(run.section(TrainConfig))


def _plan(run: Run) -> list[str]:
    from worldclip.train.budget import plan

    return plan(run.section(TrainConfig), run.dir)


def _config(run: Run) -> dict[str, Any]:
    config = run.deciding("train")["train"] | {"num_streams": streams_of(run)}
    return {"train": config | {"pool": {"key": run.section(TrainConfig).pool.key}}}  # its tars are inputs


def streams_of(run: Run) -> int:
    """Return the number of streams that the images are read in; 0: windows."""
    from worldclip.pool.files import is_remote

    config = run.section(TrainConfig)
    if config.num_streams is not None:
        return config.num_streams
    images = config.pool.as_pool() or run.section(PoolConfig)
    return REMOTE_STREAMS if any(map(is_remote, [images.path or "", *images.roots.values()])) else 0


def _inputs(run: Run) -> dict[str, Any]:
    """Return the digests of pool and curate, and fingerprints of the tokenizer's folder and of train.pool's tars."""
    config = run.section(TrainConfig)
    inputs: dict[str, Any] = {name: artifacts.require_manifest(run.dir, name)["digest"] for name in ("pool", "curate")}
    path = config.tokenizer.path
    if path is not None and Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if file.is_file())
        inputs["tokenizer"] = [artifacts.fingerprint(file, Path(path)) for file in files]
    if (images := image_shards(config)) is not None:
        inputs["images"] = {tar.name: tar.fingerprint for tar in images}
    return inputs


def _train_once(run: Run, job: Job) -> Result:
    """Do the work of rank 0.  Raises UserError if RUN/train has checkpoints of another config or other inputs."""
    from worldclip import pool

    require("torch", extra="train")
    config, train_dir = run.section(TrainConfig), job.folder
    with _connect_ranks(config) as world:
        schedule = _prepare(train_dir, {"config": job.config, "inputs": job.inputs}, config, run.dir, world)
        shards, images = pool.shards(run), image_shards(config)
        require_images(config, shards)
        if images is not None:
            join_images(run, shards, images)
        tokenizer = run_tokenizer(config, run.dir, [shard.name for shard in shards])
        for partial in train_dir.glob(".step_*"):  # of a save or a removal that was killed
            shutil.rmtree(partial)
        checkpoint = latest_valid_checkpoint(train_dir)
        _broadcast_start(world, Start(schedule, checkpoint.name if checkpoint else None))
        loader, progress = _train(run, world, schedule, tokenizer, checkpoint)
        consolidate(checkpoints(train_dir)[-1])
        report = _report(schedule, train_dir, loader, progress)
    counts = {key: report[key] for key in ("samples_seen", "steps", "skipped_steps", "no_image", "bad")}
    return Result(report=report, counts=counts)


def _help_train(run: Run) -> None:
    """Do what every rank but the first does: wait until there is something to train, and train."""
    config = run.section(TrainConfig)
    with _connect_ranks(config) as world:
        start = _broadcast_start(world, None)
        if start is not None:
            checkpoint = layout.train_dir(run.dir) / start.checkpoint if start.checkpoint else None
            tokenizer = load_tokenizer(layout.tokenizer(run.dir), config.model.architecture().context_length)
            _train(run, world, start.schedule, tokenizer, checkpoint)


def _release_helpers(config: TrainConfig) -> None:
    """Let the other ranks exit if training was finished before."""
    with _connect_ranks(config) as world:
        _broadcast_start(world, None)


@contextmanager
def _connect_ranks(config: TrainConfig) -> Iterator[World]:
    """Connect the ranks; after the work inside wait for all of them, and disconnect."""
    from worldclip.train.device import pick_rank_device
    from worldclip.train.distributed import barrier, destroy_process_group, init_process_group, world_from_environment

    world = world_from_environment()
    init_process_group(world, pick_rank_device(config.device, world))
    yield world
    barrier(world)
    destroy_process_group()


def _broadcast_start(world: World, start: Start | None) -> Start | None:
    """Return on every rank what rank 0 passes; None: there is nothing to train."""
    from worldclip.train.distributed import broadcast_record

    return broadcast_record(start, world)


def _prepare(train_dir: Path, record: dict[str, Any], config: TrainConfig, run_dir: Path, world: World) -> Schedule:
    """Create RUN/train, or check that its checkpoints come from the same config and inputs.

    Returns the schedule.  A resumed run keeps the recorded one, so that the batch size does not depend on the present
    number of processes.  Raises UserError if RUN/train has checkpoints of another config or other inputs.
    """
    path = train_dir / "config.json"
    if path.exists():
        recorded = artifacts.read_json(path)
        changes = changed_keys(recorded["config"], record["config"])
        changes += changed_keys(recorded["inputs"], record["inputs"], "input")
        if changes and checkpoints(train_dir):
            remedy = f"{train_dir} has checkpoints from before this change, which are never overwritten"
            raise UserError([*changes, f"{remedy}; undo it, start anew with --from train, or choose another --out"])
        if not changes:
            schedule = Schedule(**recorded["schedule"])
            check_batch(schedule.global_batch_size, world.size, config.accum_steps)
            return schedule
    elif checkpoints(train_dir):
        raise UserError(f"{path} is missing although there are checkpoints; restore it or start anew with --from train")
    schedule = plan_schedule(config, run_dir, world.size)
    check_batch(schedule.global_batch_size, world.size, config.accum_steps)
    shutil.rmtree(train_dir, ignore_errors=True)
    artifacts.write_json(path, {**record, "schedule": asdict(schedule)})
    if config.scale.is_set:
        say(
            "train",
            f"English is {schedule.english_fraction:.1%} of the pairs: {schedule.factor} x the English run's samples "
            f"and batch size, {schedule.samples_seen:,} samples in {schedule.num_steps:,} steps of "
            f"{schedule.global_batch_size:,}",
        )
    return schedule


def _loader(run: Run, tokenizer: Tokenizer, schedule: Schedule, world: World) -> Loader:
    from worldclip import pool
    from worldclip.curate import online_work
    from worldclip.train.augment import Augmentation
    from worldclip.train.distill import largest_image
    from worldclip.train.loader import Loader

    config = run.section(TrainConfig)
    sizes = config.model.architecture()
    is_online = config.curation == "online"
    return Loader(
        run.dir,
        pool.shards(run),
        tokenizer,
        image_shards=image_shards(config),
        image_size=largest_image(config),
        global_batch_size=schedule.global_batch_size,
        seed=config.seed,
        shuffle_shards=config.shuffle_shards,
        augmentation=Augmentation.named(config.augment, config.crop_scale_min),
        num_patches=(sizes.image_size // sizes.patch_size) ** 2,
        patch_dropout=config.patch_dropout,
        workers=config.decode_threads,
        num_streams=streams_of(run),
        scaled_decode=config.scaled_decode,
        work=online_work(run) if is_online else None,
        rank=world.rank,
        world_size=world.size,
    )


def _train(
    run: Run, world: World, schedule: Schedule, tokenizer: Tokenizer, checkpoint: Path | None
) -> tuple[Loader, Progress]:
    """Train from the checkpoint to the last step, on every rank."""
    from worldclip.train.device import keep_freed_memory, pick_rank_device
    from worldclip.train.distill import Teacher, create_students
    from worldclip.train.loop import Trainer
    from worldclip.train.train_state import create_train_state

    config = run.section(TrainConfig)
    device = pick_rank_device(config.device, world)
    if device.type == "cpu":
        keep_freed_memory()
    loader = _loader(run, tokenizer, schedule, world)
    if world.is_first:
        _say_budget(config, tokenizer, schedule, world, device)
    state = create_train_state(config, tokenizer, world, device, checkpoint)
    progress = _read_progress(checkpoint, world, device)
    if world.is_first:
        say("train", _describe(state, schedule, loader))
    if progress.step < schedule.num_steps:
        trainer = Trainer(
            run.dir,
            state,
            loader,
            schedule,
            progress,
            write_model=lambda folder: _write_model(folder, state, tokenizer),
            evaluate_config=run.section(EvaluateConfig),
            teacher=Teacher.load(config, device),
            students=create_students(config, layout.train_dir(run.dir), world, device, progress.step, _write_model),
        )
        trainer.run()
    return loader, progress


def _read_progress(checkpoint: Path | None, world: World, device: torch.device) -> Progress:
    """Return the progress at a checkpoint, and print where and how training resumes."""
    import torch

    from worldclip.train.loop import Progress

    if checkpoint is None:
        return Progress()
    record = read_state(checkpoint)
    del record["samples_seen"]
    before = (record.pop("world_size"), record.pop("threads"))
    now = (world.size, torch.get_num_threads())
    if world.is_first:
        say("train", f"resumes from {checkpoint.name}")
        if device.type == "cpu" and now != before:
            say(
                "train",
                f"{now[0]} process(es) of {now[1]} thread(s), before {before[0]} of {before[1]}: the pairs are the "
                "same, but weights agree only up to rounding",
            )
    return Progress.from_record(record)


def _say_budget(
    config: TrainConfig, tokenizer: Tokenizer, schedule: Schedule, world: World, device: torch.device
) -> None:
    """Print parameters, compute, memory and hours before training allocates memory."""
    from worldclip.train.budget import to_lines
    from worldclip.train.device import device_memory_bytes, peak_flops

    lines = to_lines(
        config,
        tokenizer.vocab_size,
        schedule,
        world.size,
        memory_bytes=device_memory_bytes(device),
        flops_per_s=config.hardware.flops_per_s or peak_flops(device, config.precision),
    )
    for line in lines:
        say("train", line)


def _write_model(folder: Path, state: TrainState, tokenizer: Tokenizer) -> None:
    """Write everything of a Hugging Face folder but the weights."""
    from worldclip.model.clip import image_processor

    config = copy.deepcopy(state.model.clip.config)
    config.architectures, config.dtype = ["MetaClip2Model"], "float32"
    config.save_pretrained(folder)
    tokenizer.save(folder)
    image_processor(state.config.model.architecture().image_size).save_pretrained(folder)


def _describe(state: TrainState, schedule: Schedule, loader: Loader) -> str:
    """Return one line about what is going to be trained."""
    from worldclip.model.clip import count_parameters

    missing = f", {loader.num_without_image:,} kept pairs without an image" if loader.num_without_image else ""
    processes = f"{state.world.size} processes, " if state.world.size > 1 else ""
    return (
        f"{count_parameters(state.model.clip) / 1e6:.1f}M parameters, {loader.tokenizer.vocab_size:,} tokens, "
        f"{schedule.num_steps:,} steps on {processes}{state.device.type}; "
        f"{loader.epoch_length:,} pairs per epoch{missing}"
    )


def _report(schedule: Schedule, train_dir: Path, loader: Loader, progress: Progress) -> dict[str, Any]:
    """Return the content of RUN/train/report.json."""
    import torch

    from worldclip.train.log import read_log

    samples_seen = progress.step * schedule.global_batch_size
    return {
        "samples_seen": samples_seen,
        "steps": progress.step,
        "schedule": asdict(schedule),
        "epochs": loader.epochs_of(samples_seen),
        "pairs": loader.epoch_length,
        "no_image": loader.num_without_image,
        "skipped_steps": progress.step - progress.updates,
        "seen": dict(sorted(progress.seen.items())),
        "bad": dict(sorted(progress.bad.items())),
        "bad_samples": progress.bad_keys,
        "vocab_size": loader.tokenizer.vocab_size,
        "threads": torch.get_num_threads(),
        "elapsed_s": progress.elapsed_s,
        "samples_per_s": samples_seen / progress.elapsed_s if progress.elapsed_s else None,
        "checkpoint": checkpoints(train_dir)[-1].name,
        "curve": read_log(train_dir / "log.jsonl"),
    }
