"""The loss on pairs that are not trained on: those of shards that the hash holds out (train.validation_shards)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.model.tokenizer import Tokenizer
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.loader import Loader
from worldclip.train.plan import shard_order
from worldclip.train.step import validation_loss
from worldclip.train.train_state import TrainState

MAX_BATCHES = 8  # measured each time


def split_shards(shards: Sequence[Shard], num_held_out: int) -> tuple[list[Shard], list[Shard]]:
    """Return (shards to train on, shards held out).  Raises UserError if none is left to train on."""
    if num_held_out >= len(shards):
        raise UserError(
            f"train.validation_shards = {num_held_out}: the pool has only {len(shards)} shards; hold out fewer"
        )
    ordered = sorted(shards, key=lambda shard: shard.name)
    held_out = {int(i) for i in shard_order([shard.name for shard in ordered], 0, 0)[:num_held_out]}
    return (
        [shard for i, shard in enumerate(ordered) if i not in held_out],
        [shard for i, shard in enumerate(ordered) if i in held_out],
    )


class Validation:
    """The batches of the held-out pairs: the same ones each time, without patch dropout."""

    def __init__(
        self,
        run_dir: Path,
        shards: Sequence[Shard],
        images: Sequence[Shard] | None,
        tokenizer: Tokenizer,
        config: TrainConfig,
        global_batch_size: int,
        world: World,
    ) -> None:
        """Raises UserError if the held-out shards hold fewer pairs than a batch.  images: as of Loader."""
        self.loader = Loader(
            run_dir,
            shards,
            tokenizer,
            dataclasses.replace(config, patch_dropout=0.0, skip_samples=None),
            global_batch_size=global_batch_size,
            world=world,
            images=images,
        )
        num_pairs = self.loader.epoch_length
        if num_pairs < global_batch_size:
            raise UserError(
                f"train.validation_shards = {len(shards)}: they hold {num_pairs:,} pairs, fewer than a batch of "
                f"{global_batch_size:,}; hold out more"
            )
        self.num_batches = min(MAX_BATCHES, num_pairs // global_batch_size)

    def measure(self, state: TrainState) -> float:
        """Return the mean loss over the batches, the same on all ranks.  Changes nothing that training reads."""
        losses = [validation_loss(state, batch) for batch in self.loader.batches(0, self.num_batches)]
        return float(torch.stack(losses).mean())
