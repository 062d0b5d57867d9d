"""Trainings of the small world in this process: finished or interrupted; and the loader of their pairs."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from small_world import COLOURS, FORMS, TEXTS, TRAIN, make_recipe, write_world
from stages import context, finish
from worldclip import pool
from worldclip.config import Recipe, load_recipe
from worldclip.contracts.layout import checkpoints, latest_checkpoint, step_of
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Report
from worldclip.model.config import ModelConfig
from worldclip.model.tokenizer import Tokenizer, train_tokenizer
from worldclip.train import loop
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import ALONE, World
from worldclip.train.loader import Batch, Loader
from worldclip.train.log import read_log


def train(
    run_dir: Path, *, broken: Iterable[int] = (), evaluate: dict[str, Any] | None = None, **changes: Any
) -> Report:
    """Train with changed keys of [train] and return the report; a run without curated pairs gets the small world's."""
    if not (run_dir / "curate").exists():
        write_world(run_dir, broken=broken)
    sections = {"pool": {"path": str(run_dir.parent / "tars")}, "balance": {"tail_fraction": 0.1}}
    recipe = load_recipe({**sections, "evaluate": evaluate or {}, "train": TRAIN | changes})
    return finish("train", recipe, run_dir, LocalExecutor(quiet=True))


class Interruption(BaseException):
    """Stands for whatever ends a process in the middle of a step."""


def train_until(num_steps: int, run_dir: Path, **changes: Any) -> None:
    """Train as above, and end in the middle of step num_steps + 1."""
    original_step, taken = loop.launch_step, []

    def launch_step(*args: Any, **kwargs: Any) -> Any:
        if len(taken) == num_steps:
            raise Interruption
        taken.append(1)
        return original_step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "launch_step", launch_step)
        with pytest.raises(Interruption):
            train(run_dir, **changes)


def forget_checkpoints(run_dir: Path, num_kept: int) -> None:
    """Leave only the first checkpoints, as if the run had been killed after them."""
    for folder in checkpoints(run_dir / "train")[num_kept:]:
        folder.rename(run_dir / folder.name)
    (run_dir / "train" / "manifest.json").unlink()


def steps_of(train_dir: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder."""
    return [step_of(path) for path in checkpoints(train_dir)]


def losses(run_dir: Path) -> dict[int, float]:
    """Return the losses in the run's log, by step."""
    return {record["step"]: record["loss"] for record in read_log(run_dir / "train" / "log.jsonl")}


def stored(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of the newest checkpoint: the model's, the trainer's."""
    folder = latest_checkpoint(run_dir)
    return load_file(folder / "model.safetensors"), load_file(folder / "trainer" / "optimizer.safetensors")


@functools.cache
def tokenizer() -> Tokenizer:
    """Return a tokenizer of the small world's words."""
    words = [text.format(colour, form) for text in TEXTS.values() for colour in COLOURS for form in FORMS]
    return train_tokenizer(words, vocab_size=100, context_length=40)


def make_loader(
    run_dir: Path, source: Path | Recipe, *, global_batch_size: int = 12, world: World = ALONE, **options: Any
) -> Loader:
    """Open the loader of a run whose tars, or whose recipe, are `source`; options: of the loader or of [train]."""
    recipe = make_recipe(source) if isinstance(source, Path | str) else source
    arguments = {name: options.pop(name) for name in ("num_streams", "work", "images") if name in options}
    model = ModelConfig(preset="tiny", image_size=16)
    config = TrainConfig(**{"model": model, "seed": 1, "shuffle_shards": 2, "crop_scale_min": 0.9} | options)
    shards = pool.shards(context(recipe, run_dir))
    return Loader(run_dir, shards, tokenizer(), config, global_batch_size=global_batch_size, world=world, **arguments)


def pairs_of(batch: Batch) -> list[tuple[str, int]]:
    return list(zip(batch.keys, batch.text_idx.tolist(), strict=True))
