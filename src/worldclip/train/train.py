"""The stage: curated pairs -> RUN/train, resumable at any moment, never over a checkpoint of another config."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip import formats
from worldclip.coin import ORDER, uniform
from worldclip.errors import UserError, require
from worldclip.execute import Executor, Shard, changed_keys, say
from worldclip.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from worldclip.train.checkpoint import checkpoints, load_checkpoint, load_optimizer, usable_checkpoint
from worldclip.train.config import TrainConfig
from worldclip.train.join import image_shards, join_images, require_images
from worldclip.train.plan import num_steps

if TYPE_CHECKING:
    import torch
    from transformers import MetaClip2Model

    from worldclip.config import Recipe
    from worldclip.train.loader import Loader
    from worldclip.train.loop import State

MAX_TOKENIZER_TEXTS = 1_000_000  # texts that a tokenizer is trained on, chosen by the coin
FREE_KEYS = ("device", "checkpoint_every_samples", "checkpoint_every_minutes", "keep_last")  # decide no weight


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    """Every key of train that decides the weights."""
    from worldclip.config import to_dict

    config = {key: value for key, value in to_dict(recipe.train).items() if key not in FREE_KEYS}
    return {"train": config | {"pool": {"key": recipe.train.pool.key}}}  # its tars are inputs, wherever they lie


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """The curated pairs, the images' places, and the tokenizer where a folder is given."""
    found: dict[str, Any] = {stage: formats.require_manifest(run_dir, stage)["digest"] for stage in ("pool", "curate")}
    path = recipe.train.tokenizer.path
    if path is not None and Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if file.is_file())
        found["tokenizer"] = [formats.fingerprint(file, Path(path)) for file in files]
    if (images := image_shards(recipe)) is not None:
        found["images"] = {tar.name: tar.fingerprint for tar in images}
    return found


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> dict[str, Any]:
    """Train to the end, from the newest whole checkpoint where there is one; returns the report.

    Training is one process that uses all cores or the device; `executor` maps over shards where train.pool is joined.
    Raises UserError where RUN/train holds checkpoints of another config or other inputs.
    """
    from worldclip import pool

    torch = require("torch", extra="train")
    config, train_dir = recipe.train, run_dir / "train"
    record = {"config": relevant_config(recipe), "inputs": inputs(recipe, run_dir)}
    _prepare(train_dir, record)
    shards, images = pool.shards(recipe, run_dir), image_shards(recipe)
    require_images(recipe, shards)
    if images is not None:
        join_images(recipe, run_dir, shards, images, executor)
    tokenizer = _tokenizer(config, run_dir, shards)
    loader = _loader(config, run_dir, shards, tokenizer, images)
    state = _train(config, train_dir, tokenizer, loader)
    report = _report(config, train_dir, loader, state, torch.get_num_threads())
    formats.write_json(train_dir / "report.json", report)
    counts = {key: report[key] for key in ("samples_seen", "steps", "skipped_steps", "no_image", "bad")}
    formats.write_manifest(train_dir, **record, counts=counts)
    return report


def _prepare(train_dir: Path, record: dict[str, Any]) -> None:
    """Refuse a folder whose checkpoints come from another config or other inputs; clear what no checkpoint needs."""
    path = train_dir / "config.json"
    if path.exists():
        recorded = formats.read_json(path)
        changes = changed_keys(recorded["config"], record["config"])
        changes += changed_keys(recorded["inputs"], record["inputs"], "input")
        if changes and checkpoints(train_dir):
            remedy = f"{train_dir} holds checkpoints trained without this change, which are never overwritten"
            raise UserError([*changes, f"{remedy}; take it back, or give --from train to start anew, or another --out"])
        if not changes:
            return
    elif checkpoints(train_dir):
        raise UserError(f"{path} is missing beside checkpoints; restore it, or give --from train to start anew")
    shutil.rmtree(train_dir, ignore_errors=True)
    formats.write_json(path, record)


def _tokenizer(config: TrainConfig, run_dir: Path, shards: Sequence[Shard]) -> Tokenizer:
    """RUN/train/tokenizer, made before step 1 and never again."""
    folder = run_dir / "train" / "tokenizer"
    context_length = config.model.architecture().context_length
    if not folder.exists():
        if config.tokenizer.path is not None:
            made = load_tokenizer(config.tokenizer.path, context_length)
        else:
            vocab_size = config.tokenizer.vocab_size
            texts = _tokenizer_texts(run_dir, shards)
            made = train_tokenizer(texts, vocab_size=vocab_size, context_length=context_length)
        aside = folder.with_name(".tokenizer.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        made.save(aside)
        os.replace(aside, folder)
    return load_tokenizer(folder, context_length)


def _tokenizer_texts(run_dir: Path, shards: Sequence[Shard]) -> Iterator[str]:
    """The curated texts in shard order, thinned by the coin to about MAX_TOKENIZER_TEXTS."""
    paths = [run_dir / "curate" / f"{shard.name}.parquet" for shard in sorted(shards, key=lambda shard: shard.name)]
    import pyarrow.parquet as pq

    total = sum(pq.read_metadata(path).num_rows for path in paths)
    share = min(1.0, MAX_TOKENIZER_TEXTS / max(1, total))
    for path in paths:
        table = formats.read_table(path, formats.CURATED, ("key", "text_idx", "text"))
        if share < 1:
            coin = uniform(table["key"], table["text_idx"].to_numpy(), 0, 0, ORDER)
            table = table.take(np.flatnonzero(coin < share))
        yield from table["text"].to_pylist()


def _loader(
    config: TrainConfig, run_dir: Path, shards: Sequence[Shard], tokenizer: Tokenizer, images: Sequence[Shard] | None
) -> Loader:
    from worldclip.train.images import Augmentation
    from worldclip.train.loader import Loader

    return Loader(
        run_dir,
        shards,
        tokenizer,
        image_shards=images,
        image_size=config.model.architecture().image_size,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
        shuffle_shards=config.shuffle_shards,
        augmentation=Augmentation(
            crop_scale_min=config.crop_scale_min,
            rotate_deg=config.rotate_deg,
            zoom_out_min=config.zoom_out_min,
            backdrop_min=config.backdrop_min,
        ),
    )


def _train(config: TrainConfig, train_dir: Path, tokenizer: Tokenizer, loader: Loader) -> State:
    import torch

    from worldclip.model import create_model, model_config, pick_device
    from worldclip.train.loop import State, describe, run_loop
    from worldclip.train.optim import create_optimizer

    device, total = pick_device(config.device), num_steps(config.samples_seen, config.global_batch_size)
    for left_over in train_dir.glob(".step_*"):  # of a save or a removal that was killed
        shutil.rmtree(left_over)
    checkpoint = usable_checkpoint(train_dir)
    state = State()
    model = create_model(model_config(config.model, tokenizer), config.seed)
    optimizer = create_optimizer(_to(model, device), config)
    if checkpoint is not None:
        record = load_checkpoint(checkpoint, model)
        threads = record.pop("threads")
        del record["samples_seen"]
        state = State.of(record)
        load_optimizer(checkpoint, model, optimizer, state.updates)
        say("train", f"goes on from {checkpoint.name}")
        if device.type == "cpu" and threads != torch.get_num_threads() and state.step < total:
            say("train", f"{torch.get_num_threads()} threads, {threads} before: weights will agree to rounding only")
    model.train()
    say("train", describe(model, device, total, loader))
    if state.step < total:
        run_loop(train_dir, config, model, optimizer, loader, state)
    return state


def _to(model: MetaClip2Model, device: torch.device) -> MetaClip2Model:
    return model.to(device)  # type: ignore[arg-type]


def _report(config: TrainConfig, train_dir: Path, loader: Loader, state: State, threads: int) -> dict[str, Any]:
    """The numbers of RUN/train/report.json, which the report's page is drawn from."""
    from worldclip.train.loop import read_log

    samples_seen = state.step * config.global_batch_size
    return {
        "samples_seen": samples_seen,
        "steps": state.step,
        "epochs": samples_seen / loader.epoch_length,
        "pairs": loader.epoch_length,
        "no_image": loader.num_without_image,
        "skipped_steps": state.step - state.updates,
        "seen": dict(sorted(state.seen.items())),
        "bad": dict(sorted(state.bad.items())),
        "bad_samples": state.bad_keys,
        "vocab_size": loader.tokenizer.vocab_size,
        "threads": threads,
        "elapsed_s": state.elapsed_s,
        "samples_per_s": samples_seen / state.elapsed_s if state.elapsed_s else None,
        "checkpoint": checkpoints(train_dir)[-1].name,
        "curve": read_log(train_dir / "log.jsonl"),
    }
