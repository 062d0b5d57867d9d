"""Pairs that are not trained on: train.validation_shards holds their shards out, and the loss on them is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.core.job import Run
from worldclip.model.tokenizer import Tokenizer
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World, all_reduce
from worldclip.train.loader import Loader
from worldclip.train.plan import shard_order
from worldclip.train.step import compute_loss, encode_parts, split_batch
from worldclip.train.train_state import TrainState

NUM_BATCHES = 8  # measured each time, always the same


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
    by_name = sorted(shards, key=lambda shard: shard.name)
    shuffled = [by_name[i] for i in shard_order([shard.name for shard in by_name], 0, 0)]
    return shuffled[num_held_out:], shuffled[:num_held_out]


def open_held_out(
    run: Run,
    config: TrainConfig,
    tokenizer: Tokenizer,
    world: World,
    *,
    shards: Sequence[Shard],
    images: Sequence[Shard] | None,
    batch_size: int,
) -> Loader | None:
    """Return the loader of the held-out pairs; None where none are held out.

    shards, images, batch_size: of the whole run.  Raises UserError if the pairs are fewer than a batch.
    """
    _, held_out = split_shards(shards, config.validation_shards)
    if not held_out:
        return None
    loader = Loader(
        run.dir,
        held_out,
        tokenizer,
        replace(config, patch_dropout=0.0, skip_samples=None),
        global_batch_size=batch_size,
        world=world,
        images=images,
    )
    if loader.epoch_length < batch_size:
        raise UserError(
            f"train.validation_shards = {len(held_out)}: they hold {loader.epoch_length:,} pairs, fewer than a batch "
            f"of {batch_size:,}; hold out more"
        )
    return loader


@torch.no_grad()
def held_out_loss(state: TrainState, held_out: Loader) -> float:
    """Return the mean loss over the first held-out batches, the same on all ranks.  Changes nothing."""
    num_batches = min(NUM_BATCHES, held_out.epoch_length // held_out.global_batch_size)
    losses = []
    for batch in held_out.batches(0, num_batches):
        features = encode_parts(state, split_batch(batch, state.config.accum_steps))
        loss = compute_loss(state, features, None)
        losses.append(all_reduce(loss, state.world) / state.world.size)
    return float(torch.stack(losses).mean())
