"""The findings of rank 0 before the first step, and the loaders that all ranks make from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.execute import Shard
from worldclip.core.job import Run
from worldclip.curate import online_work
from worldclip.model.tokenizer import Tokenizer
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.loader import Loader
from worldclip.train.schedule import Schedule
from worldclip.train.validation import Validation, split_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The facts that rank 0 has found, from which all ranks start."""

    schedule: Schedule
    checkpoint: Path | None
    """None: fresh weights."""
    num_streams: int
    """Streams that the images are read in; 0: windows."""
    shards: Sequence[Shard]
    """Of the matched pool."""
    images: Sequence[Shard] | None
    """The joined files of train.pool; None: the matched pool holds the images."""


def hold_out(start: Start, config: TrainConfig) -> tuple[Start, list[Shard]]:
    """Return `start` without the shards that are only validated, and these."""
    if config.validation_shards is None:
        return start, []
    shards, held_out = split_shards(start.shards, config.validation_shards)
    return replace(start, shards=shards), held_out


def create_loader(run: Run, start: Start, tokenizer: Tokenizer, world: World, *, pin_memory: bool) -> Loader:
    """Return the loader of the pairs to train on.  pin_memory: see Loader."""
    config = run.section(TrainConfig)
    return Loader(
        run.dir,
        start.shards,
        tokenizer,
        config,
        global_batch_size=start.schedule.global_batch_size,
        world=world,
        num_streams=start.num_streams,
        work=online_work(run) if config.curation == "online" else None,
        images=start.images,
        epochs_dir=_epochs_dir(run, start),
        pin_memory=pin_memory,
    )


def create_validation(
    run: Run, start: Start, held_out: Sequence[Shard], tokenizer: Tokenizer, world: World
) -> Validation | None:
    """Return the held-out pairs, None where they are not measured."""
    config = run.section(TrainConfig)
    if not (held_out and config.validate_every_samples):
        return None
    batch = start.schedule.global_batch_size
    return Validation(run.dir, held_out, start.images, tokenizer, config, batch, world)


def _epochs_dir(run: Run, start: Start) -> Path:
    """Return the folder of the epochs' numbers of pairs, whose name is the digest of all that they depend on."""
    decided_by = {
        "pool": artifacts.require_manifest(run.dir, "pool")["digest"],
        "curate": artifacts.require_manifest(run.dir, "curate")["digest"],
        "curation": run.section(TrainConfig).curation,
        "shards": [shard.name for shard in start.shards],
        "images": [image.fingerprint for image in start.images or ()],
    }
    return layout.train_dir(run.dir) / "epochs" / artifacts.digest(decided_by)
