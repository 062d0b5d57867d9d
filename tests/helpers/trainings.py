"""Trainings of the small world in this process, finished or interrupted; their checkpoints; the loader of pairs."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file

from calls import fail_at
from matched import write_matched_texts
from small_world import COLOURS, FORMS, TEXTS, TRAIN, make_recipe, write_world
from stages import context, finish
from worldclip import pool
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout, schemas
from worldclip.contracts.layout import checkpoints, latest_checkpoint, step_of
from worldclip.core import artifacts
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
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch.setattr, loop, "launch_step", num_steps + 1, Interruption())
        with pytest.raises(Interruption):
            train(run_dir, **changes)


def forget_checkpoints(run_dir: Path, num_kept: int) -> None:
    """Leave only the first checkpoints, as if the run had been killed after them."""
    for folder in checkpoints(run_dir / "train")[num_kept:]:
        shutil.rmtree(folder)
    (run_dir / "train" / "manifest.json").unlink()


def steps_of(train_dir: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder."""
    return [step_of(path) for path in checkpoints(train_dir)]


def losses(run_dir: Path) -> dict[int, float]:
    """Return the losses in the run's log, by step."""
    return {record["step"]: record["loss"] for record in read_log(run_dir / "train" / "log.jsonl")}


def bytes_of(checkpoint: Path) -> dict[str, bytes]:
    """Return the files of a checkpoint that training is for, and the optimizer's."""
    files = ("model.safetensors", "config.json", "tokenizer.json", "modules.json", "trainer/optimizer.safetensors")
    return {name: (checkpoint / name).read_bytes() for name in files}


def result_bytes(run_dir: Path) -> dict[str, bytes]:
    """Return bytes_of the newest checkpoint."""
    return bytes_of(latest_checkpoint(run_dir))


def stored(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of the newest checkpoint: the model's, the trainer's."""
    folder = latest_checkpoint(run_dir)
    return load_file(folder / "model.safetensors"), load_file(folder / "trainer" / "optimizer.safetensors")


def write_matched(run_dir: Path, recipe: Recipe, entry_of: Callable[[str], int]) -> None:
    """Write RUN/match of the curated pairs, each with the entry of its key."""
    for shard in pool.list_pool(context(recipe, run_dir)):
        curated = artifacts.read_table(layout.curated(run_dir, shard.name), schemas.CURATED)
        columns = {name: curated[name] for name in ("key", "text_idx", "text", "lang")}
        columns |= {
            "entries_lang": curated["lang"],
            "entry_ids": pa.array([[entry_of(key)] for key in curated["key"].to_pylist()], pa.large_list(pa.int32())),
            "lang_prob": np.ones(len(curated), np.float32),
        }
        write_matched_texts(run_dir, shard.name, pa.table(columns))
    for stage in ("match", "balance"):
        artifacts.write_manifest(run_dir / stage, config={}, inputs={}, counts={})


@functools.cache
def tokenizer() -> Tokenizer:
    """Return a tokenizer of the small world's words."""
    words = [text.format(colour, form) for text in TEXTS.values() for colour in COLOURS for form in FORMS]
    return train_tokenizer(words, vocab_size=100, context_length=40)


def make_loader(
    run_dir: Path,
    source: Path | str | Recipe | None = None,
    *,
    global_batch_size: int = 12,
    world: World = ALONE,
    **options: Any,
) -> Loader:
    """Open the loader of a run.

    source: its tars or its recipe (default: the tars of write_world).  options: of the loader or of [train].
    """
    recipe = source if isinstance(source, Recipe) else make_recipe(source or run_dir.parent / "tars")
    arguments = {name: options.pop(name) for name in ("num_streams", "work", "images") if name in options}
    model = ModelConfig(preset="tiny", image_size=16)
    config = TrainConfig(**{"model": model, "seed": 1, "shuffle_shards": 2, "crop_scale_min": 0.9} | options)
    shards = pool.list_pool(context(recipe, run_dir))
    return Loader(run_dir, shards, tokenizer(), config, global_batch_size=global_batch_size, world=world, **arguments)


def pairs_of(batch: Batch) -> list[tuple[str, int]]:
    return list(zip(batch.keys, batch.text_idx.tolist(), strict=True))


def read(loader: Loader, num_steps: int) -> list[tuple[str, int]]:
    """Return the pairs of the first steps."""
    return [pair for step in range(num_steps) for pair in pairs_of(loader.batch(step))]
