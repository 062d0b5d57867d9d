"""The findings of rank 0 before the first step, and the loaders that all ranks make from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.core.job import Run
from worldclip.curate import online_work
from worldclip.model.tokenizer import Tokenizer
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.loader import Loader
from worldclip.train.plan import shard_order
from worldclip.train.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The facts that rank 0 has found, from which all ranks start."""

    schedule: Schedule
    checkpoint: Path | None
    """None: fresh weights."""
    num_streams: int
    """Streams that the images are read in; 0: windows."""
    shards: Sequence[Shard]
    """Shards of the matched pool."""
    images: Sequence[Shard] | None
    """The joined files of train.pool; None: the matched pool holds the images."""
    lacks_scores: bool = False
    """Whether the checkpoint is due for an evaluation that did not end, or was of other datasets."""


def split_shards(shards: Sequence[Shard], num_held_out: int | None) -> tuple[Sequence[Shard], Sequence[Shard]]:
    """Return (shards to train on, shards that the hash holds out for train.validation_shards).

    Raises UserError if none is left to train on.
    """
    if num_held_out is None:
        return shards, []
    if num_held_out >= len(shards):
        raise UserError(
            f"train.validation_shards = {num_held_out}: the pool has only {len(shards)} shards; hold out fewer"
        )
    ordered = sorted(shards, key=lambda shard: shard.name)
    held_out = set(shard_order([shard.name for shard in ordered], 0, 0)[:num_held_out].tolist())
    return (
        [shard for i, shard in enumerate(ordered) if i not in held_out],
        [shard for i, shard in enumerate(ordered) if i in held_out],
    )


def create_loader(run: Run, start: Start, tokenizer: Tokenizer, world: World, *, pin_memory: bool) -> Loader:
    """Return the loader of the pairs to train on.  pin_memory: see Loader."""
    config = run.section(TrainConfig)
    shards, _ = split_shards(start.shards, config.validation_shards)
    work = None
    if config.curation == "online":
        work = online_work(run)
    return Loader(
        run.dir,
        shards,
        tokenizer,
        config,
        global_batch_size=start.schedule.global_batch_size,
        world=world,
        num_streams=start.num_streams,
        work=work,
        images=start.images,
        epochs_dir=layout.train_dir(run.dir) / "epochs",
        pin_memory=pin_memory,
    )


def create_validation_loader(run: Run, start: Start, tokenizer: Tokenizer, world: World) -> Loader | None:
    """Return the loader of the held-out pairs, without patch dropout; None where none are held out.

    Raises UserError if they are fewer than a batch.
    """
    config = run.section(TrainConfig)
    batch_size = start.schedule.global_batch_size
    _, shards = split_shards(start.shards, config.validation_shards)
    if not shards:
        return None
    changed = replace(config, patch_dropout=0.0, skip_samples=None)
    loader = Loader(run.dir, shards, tokenizer, changed, global_batch_size=batch_size, world=world, images=start.images)
    if loader.epoch_length < batch_size:
        raise UserError(
            f"train.validation_shards = {len(shards)}: they hold {loader.epoch_length:,} pairs, fewer than a batch of "
            f"{batch_size:,}; hold out more"
        )
    return loader
