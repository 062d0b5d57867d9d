"""The stage: curated pairs -> RUN/train, resumable at any moment, never over a checkpoint of another config."""

from __future__ import annotations

import copy
import functools
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core import artifacts
from worldclip.core.console import say
from worldclip.core.errors import UserError, require
from worldclip.core.execute import Executor
from worldclip.core.job import changed_keys
from worldclip.core.layout import checkpoints
from worldclip.model.tokenizer import Tokenizer, load_tokenizer
from worldclip.train.checkpoint import consolidate, read_state, usable_checkpoint
from worldclip.train.config import TrainConfig
from worldclip.train.pool_join import image_shards, join_images, require_images
from worldclip.train.scale import Schedule, check_batch
from worldclip.train.scale import schedule as plan_schedule
from worldclip.train.tokenizer import run_tokenizer

if TYPE_CHECKING:
    import torch

    from worldclip.config import Recipe
    from worldclip.train.distributed import World
    from worldclip.train.loader import Loader
    from worldclip.train.loop import State
    from worldclip.train.step import Learner

REMOTE_STREAMS = 64  # of tars in an object store
FREE_KEYS = (  # decide no weight, or its rounding alone
    *("device", "decode_threads", "parallel", "accum_steps", "activation_checkpointing", "compile"),
    *("checkpoint_every_samples", "checkpoint_every_minutes", "keep_last"),
    *("evaluate_every_samples", "evaluate_datasets", "wandb", "hardware"),
)


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    """Every key of train that decides the weights."""
    from worldclip.core.settings import to_dict

    config = {key: value for key, value in to_dict(recipe.train).items() if key not in FREE_KEYS}
    config["num_streams"] = streams_of(recipe)
    return {"train": config | {"pool": {"key": recipe.train.pool.key}}}  # its tars are inputs, wherever they lie


def streams_of(recipe: Recipe) -> int:
    """Streams that the images are read in; 0: windows."""
    from worldclip.pool.files import is_remote

    if recipe.train.num_streams is not None:
        return recipe.train.num_streams
    images = recipe.train.pool.as_pool() or recipe.pool
    return REMOTE_STREAMS if any(map(is_remote, [images.path or "", *images.roots.values()])) else 0


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """The curated pairs, the images' places, and the tokenizer where a folder is given."""
    found: dict[str, Any] = {
        stage: artifacts.require_manifest(run_dir, stage)["digest"] for stage in ("pool", "curate")
    }
    path = recipe.train.tokenizer.path
    if path is not None and Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if file.is_file())
        found["tokenizer"] = [artifacts.fingerprint(file, Path(path)) for file in files]
    if (images := image_shards(recipe)) is not None:
        found["images"] = {tar.name: tar.fingerprint for tar in images}
    return found


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> dict[str, Any]:
    """Train to the end, from the newest whole checkpoint where there is one; returns the report.

    Under torchrun this is the first rank, which does all that is done once; the others are in `help_train`.  `executor`
    maps over shards where train.pool is joined.  Raises UserError where RUN/train holds checkpoints of another config
    or other inputs.
    """
    from worldclip import pool

    require("torch", extra="train")
    world = _meet(recipe)
    config, train_dir = recipe.train, run_dir / "train"
    record = {"config": relevant_config(recipe), "inputs": inputs(recipe, run_dir)}
    schedule = _prepare(train_dir, record, config, run_dir, world)
    shards, images = pool.shards(recipe, run_dir), image_shards(recipe)
    require_images(recipe, shards)
    if images is not None:
        join_images(recipe, run_dir, shards, images, executor)
    tokenizer = run_tokenizer(config, run_dir, [shard.name for shard in shards])
    for left_over in train_dir.glob(".step_*"):  # of a save or a removal that was killed
        shutil.rmtree(left_over)
    checkpoint = usable_checkpoint(train_dir)
    _tell(world, {"checkpoint": None if checkpoint is None else checkpoint.name, "schedule": asdict(schedule)})
    loader, state = _train(recipe, run_dir, world, schedule, tokenizer, checkpoint)
    newest = checkpoints(train_dir)[-1]
    consolidate(newest)
    report = _report(schedule, train_dir, loader, state)
    artifacts.write_json(train_dir / "report.json", report)
    counts = {key: report[key] for key in ("samples_seen", "steps", "skipped_steps", "no_image", "bad")}
    artifacts.write_manifest(train_dir, **record, counts=counts)
    _part(world)
    return report


def help_train(recipe: Recipe, run_dir: Path) -> None:
    """What every other rank than the first does under torchrun: wait until there is something to train, and train."""
    world = _meet(recipe)
    orders = _tell(world, None)
    if orders is not None:
        schedule = Schedule(**orders["schedule"])
        checkpoint = None if orders["checkpoint"] is None else run_dir / "train" / orders["checkpoint"]
        context_length = recipe.train.model.architecture().context_length
        tokenizer = load_tokenizer(run_dir / "train" / "tokenizer", context_length)
        _train(recipe, run_dir, world, schedule, tokenizer, checkpoint)
    _part(world)


def dismiss(recipe: Recipe) -> None:
    """The first rank, where training is finished already: let the others end."""
    world = _meet(recipe)
    if world.size > 1:
        _tell(world, None)
    _part(world)


def _meet(recipe: Recipe) -> World:
    from worldclip.train.distributed import start, world_of_environment
    from worldclip.train.train_state import pick_rank_device

    world = world_of_environment()
    start(world, pick_rank_device(recipe.train.device, world))
    return world


def _tell(world: World, orders: Any) -> Any:
    """What the first rank says, on every rank."""
    from worldclip.train.distributed import gather_records

    return gather_records(orders, world)[0]


def _part(world: World) -> None:
    from worldclip.train.distributed import barrier, stop

    barrier(world)
    stop()


def _prepare(train_dir: Path, record: dict[str, Any], config: TrainConfig, run_dir: Path, world: World) -> Schedule:
    """Refuse a folder whose checkpoints come from another config or other inputs; clear what no checkpoint needs.

    Returns the schedule: the recorded one of a run that goes on, so that the batch does not follow the processes.
    """
    path = train_dir / "config.json"
    if path.exists():
        recorded = artifacts.read_json(path)
        changes = changed_keys(recorded["config"], record["config"])
        changes += changed_keys(recorded["inputs"], record["inputs"], "input")
        if changes and checkpoints(train_dir):
            remedy = f"{train_dir} holds checkpoints trained without this change, which are never overwritten"
            raise UserError([*changes, f"{remedy}; take it back, or give --from train to start anew, or another --out"])
        if not changes:
            found = Schedule(**recorded["schedule"])
            check_batch(found.global_batch_size, world.size, config.accum_steps)
            return found
    elif checkpoints(train_dir):
        raise UserError(f"{path} is missing beside checkpoints; restore it, or give --from train to start anew")
    found = plan_schedule(config, run_dir, world.size)
    check_batch(found.global_batch_size, world.size, config.accum_steps)
    shutil.rmtree(train_dir, ignore_errors=True)
    artifacts.write_json(path, {**record, "schedule": asdict(found)})
    if config.scale.is_set:
        say(
            "train",
            f"English is {found.english_fraction:.1%} of the pairs: {found.factor} x the English run's samples and "
            f"batch, {found.samples_seen:,} samples in {found.num_steps:,} steps of {found.global_batch_size:,}",
        )
    return found


def _loader(recipe: Recipe, run_dir: Path, tokenizer: Tokenizer, schedule: Schedule, world: World) -> Loader:
    from worldclip import pool
    from worldclip.curate.caps import read_bounds
    from worldclip.curate.stage import curate_work
    from worldclip.train.decode import Augmentation
    from worldclip.train.distill import largest_image
    from worldclip.train.loader import Loader

    config, sizes = recipe.train, recipe.train.model.architecture()
    is_online = config.curation == "online"
    return Loader(
        run_dir,
        pool.shards(recipe, run_dir),
        tokenizer,
        image_shards=image_shards(recipe),
        image_size=largest_image(config),
        global_batch_size=schedule.global_batch_size,
        seed=config.seed,
        shuffle_shards=config.shuffle_shards,
        augmentation=Augmentation.named(config.augment, config.crop_scale_min),
        num_patches=(sizes.image_size // sizes.patch_size) ** 2,
        patch_dropout=config.patch_dropout,
        workers=config.decode_threads,
        num_streams=streams_of(recipe),
        scaled_decode=config.scaled_decode,
        work=curate_work(recipe, run_dir, read_bounds(run_dir, recipe.curate)) if is_online else None,
        rank=world.rank,
        world_size=world.size,
    )


def _train(
    recipe: Recipe, run_dir: Path, world: World, schedule: Schedule, tokenizer: Tokenizer, checkpoint: Path | None
) -> tuple[Loader, State]:
    """Every rank's part, from the checkpoint to the last step."""
    import torch

    from worldclip.train.allocator import keep_freed_memory
    from worldclip.train.distill import Teacher, create_students
    from worldclip.train.loop import Run, State, run_loop
    from worldclip.train.train_state import create_learner, pick_rank_device

    config = recipe.train
    device = pick_rank_device(config.device, world)
    if device.type == "cpu":
        keep_freed_memory()
    loader = _loader(recipe, run_dir, tokenizer, schedule, world)
    if world.is_first:
        _say_budget(config, tokenizer, schedule, world, device)
    learner = create_learner(config, tokenizer, world, device, checkpoint)
    state = State()
    if checkpoint is not None:
        record = read_state(checkpoint)
        threads, _, before = record.pop("threads"), record.pop("samples_seen"), record.pop("world_size")
        state = State.of(record)
        if world.is_first:
            say("train", f"goes on from {checkpoint.name}")
            if device.type == "cpu" and (threads, before) != (torch.get_num_threads(), world.size):
                now = f"{world.size} process(es) of {torch.get_num_threads()} thread(s), {before} of {threads} before"
                say("train", f"{now}: the same pairs; weights will agree to rounding only")
    if world.is_first:
        say("train", _describe(learner, schedule, loader))
    if state.step < schedule.num_steps:
        run = Run(
            recipe=recipe,
            run_dir=run_dir,
            schedule=schedule,
            write_model=functools.partial(
                _write_model, learner=learner, tokenizer=tokenizer, image_size=config.model.architecture().image_size
            ),
        )
        teacher = Teacher.load(config, device)
        students = create_students(config, run.train_dir, world, device, state.step, _write_model)
        run_loop(run, learner, loader, state, teacher, students)
    return loader, state


def _say_budget(
    config: TrainConfig, tokenizer: Tokenizer, schedule: Schedule, world: World, device: torch.device
) -> None:
    """Sizes, operations, memory and hours, before memory is taken."""
    from worldclip.train.budget import to_lines
    from worldclip.train.cost import device_memory_bytes, peak_flops

    memory_bytes = device_memory_bytes(device)
    flops_per_s = config.hardware.flops_per_s or peak_flops(device, config.precision)
    size = tokenizer.vocab_size
    for line in to_lines(config, size, schedule, world.size, memory_bytes=memory_bytes, flops_per_s=flops_per_s):
        say("train", line)


def _write_model(folder: Path, *, learner: Learner, tokenizer: Tokenizer, image_size: int) -> None:
    """All of a Hugging Face folder but the weights."""
    from worldclip.model.clip import image_processor

    config = copy.deepcopy(learner.towers.clip.config)
    config.architectures, config.dtype = ["MetaClip2Model"], "float32"
    config.save_pretrained(folder)
    tokenizer.save(folder)
    image_processor(image_size).save_pretrained(folder)


def _describe(learner: Learner, schedule: Schedule, loader: Loader) -> str:
    """What is about to be trained, in one line."""
    from worldclip.model.clip import count_parameters

    missing = f", {loader.num_without_image:,} kept without an image" if loader.num_without_image else ""
    processes = f"{learner.world.size} processes, " if learner.world.size > 1 else ""
    return (
        f"{count_parameters(learner.towers.clip) / 1e6:.1f}M parameters, {loader.tokenizer.vocab_size:,} tokens, "
        f"{schedule.num_steps:,} steps on {processes}{learner.device.type}; "
        f"{loader.epoch_length:,} pairs an epoch{missing}"
    )


def _report(schedule: Schedule, train_dir: Path, loader: Loader, state: State) -> dict[str, Any]:
    """The numbers of RUN/train/report.json, which the report's page is drawn from."""
    import torch

    from worldclip.train.log import read_log

    samples_seen = state.step * schedule.global_batch_size
    return {
        "samples_seen": samples_seen,
        "steps": state.step,
        "schedule": asdict(schedule),
        "epochs": loader.epochs_of(samples_seen),
        "pairs": loader.epoch_length,
        "no_image": loader.num_without_image,
        "skipped_steps": state.step - state.updates,
        "seen": dict(sorted(state.seen.items())),
        "bad": dict(sorted(state.bad.items())),
        "bad_samples": state.bad_keys,
        "vocab_size": loader.tokenizer.vocab_size,
        "threads": torch.get_num_threads(),
        "elapsed_s": state.elapsed_s,
        "samples_per_s": samples_seen / state.elapsed_s if state.elapsed_s else None,
        "checkpoint": checkpoints(train_dir)[-1].name,
        "curve": read_log(train_dir / "log.jsonl"),
    }
