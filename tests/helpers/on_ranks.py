"""What tests run in several processes: `python on_ranks.py TASK FOLDER`, its ranks told by torchrun's environment."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__)
SIZES = {
    "image_size": 32,
    "patch_size": 16,
    "vision_layers": 2,
    "vision_width": 64,
    "text_layers": 2,
    "text_width": 64,
    "embed_dim": 16,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "parts": {"accum_steps": 4},
    "siglip": {"loss": "siglip"},
    "fsdp": {"parallel": "fsdp"},
    "fsdp parts": {"parallel": "fsdp", "accum_steps": 2},
    "clipped": {"max_grad_norm": 0.05},
    "fsdp clipped": {"parallel": "fsdp", "max_grad_norm": 0.05},
    "fsdp ema": {"parallel": "fsdp", "ema_decay": 0.5},
    "rows": {"token_table": "rows"},
    "fsdp rows": {"parallel": "fsdp", "token_table": "rows", "max_grad_norm": 0.05},
    "checkpointing": {"activation_checkpointing": True, "freeze": ("vision",), "patch_dropout": 0.5},
    "fsdp checkpointing": {"parallel": "fsdp", "activation_checkpointing": True, "patch_dropout": 0.5},
}


def start_ranks(task: str, folder: Path, world_size: int) -> list[subprocess.Popen]:
    """TASK in world_size processes of one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, str(HERE), task, str(folder)],
            env=os.environ | common | {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]


def run_on_ranks(task: str, folder: Path, world_size: int) -> None:
    processes = start_ranks(task, folder, world_size)
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(said)


# the tasks


def make_batch(variant: dict[str, Any], rank: int, world_size: int) -> Any:
    """This rank's slice of one batch of 16 pairs, the same for any number of ranks."""
    import numpy as np
    import torch

    from worldclip.model.tokenizer import Tokens
    from worldclip.train.loader import Batch

    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (16, 3, 32, 32), dtype=np.uint8))
    rows = [[*generator.integers(4, 60, generator.integers(1, 9)), 2] for _ in range(16)]
    patches = torch.from_numpy(np.stack([np.sort(generator.permutation(4)[:2]) for _ in range(16)]))
    own = range(rank * 16 // world_size, (rank + 1) * 16 // world_size)
    offsets = np.cumsum([0, *(len(rows[i]) for i in own)])
    tokens = Tokens(np.concatenate([rows[i] for i in own]).astype(np.int64), offsets, 1)
    kept = patches[own.start : own.stop] if variant.get("patch_dropout") else None
    return Batch(images[own.start : own.stop], tokens, [], np.zeros(0), {}, kept)


@functools.cache
def make_tokenizer() -> Any:
    """Of 61 rows, which two ranks cannot share evenly."""
    from worldclip.model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(TEXTS, vocab_size=64, context_length=12)
    tokenizer.vocab_size = 61
    return tokenizer


def make_learner(variant: dict[str, Any], world: Any) -> Any:
    import torch

    from small_world import TRAIN
    from worldclip.core.settings import load_config
    from worldclip.train.config import TrainConfig
    from worldclip.train.train_state import create_learner

    settings = {**TRAIN, "model": {"preset": "tiny", "context_length": 12, **SIZES}, "global_batch_size": 16, **variant}
    settings["eps"] = 1e-3  # AdamW divides a gradient that is rounding alone by its own size: here it stays small
    config = load_config(TrainConfig, settings)
    return create_learner(config, make_tokenizer(), world, torch.device("cpu"), None)


TEXTS = [f"{a}{b} {c}" for a in "abcdefghij" for b in "klmnop" for c in ("red", "green", "blue", "black")]


def steps(folder: Path) -> None:
    """Three steps of each variant; the first rank writes loss, norms, gradients and weights, whole."""
    import torch
    from safetensors.torch import save_file
    from torch.distributed.tensor import DTensor

    from worldclip.train.distributed import gather_records, start, stop, world_of_environment
    from worldclip.train.step import take_step

    world = world_of_environment()
    start(world, torch.device("cpu"))

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone().contiguous()

    for name, variant in VARIANTS.items():
        learner = make_learner(variant, world)
        batch = make_batch(variant, world.rank, world.size)
        found = {}
        for step in range(3):
            result = take_step(learner, batch, 1e-3)
            assert result.is_applied
            found[f"loss {step}"] = torch.tensor(result.loss)
            found[f"norm {step}"] = torch.tensor(result.grad_norm)
            for key, parameter in learner.towers.trained().items():
                if step == 0 and parameter.grad is not None:
                    found[f"gradient {key}"] = whole(parameter.grad)
        for key, parameter in learner.towers.trained().items():
            found[f"weight {key}"] = whole(parameter)
        if learner.ema is not None:
            slow = learner.ema.shadow["text_projection.weight"]
            parts = gather_records(slow.tolist(), world)
            found["slow copy"] = torch.tensor([row for part in parts for row in part])
        if learner.table is not None:
            parts = gather_records(learner.table.weight.tolist(), world)
            found["table"] = torch.tensor([row for part in parts for row in part])
        if world.is_first:
            save_file(found, folder / f"{name}.{world.size}.safetensors")
    stop()


def train(folder: Path) -> None:
    """A whole run, as the command line starts it."""
    import json

    import torch

    from worldclip import recipe
    from worldclip.config import load_recipe
    from worldclip.core.errors import UserError
    from worldclip.core.execute import LocalExecutor
    from worldclip.train import stage as train

    torch.set_num_threads(1)
    whole = load_recipe(json.loads((folder / "recipe.json").read_text()))
    try:
        if recipe.is_helper():
            recipe.help_with(["train"], whole, folder / "run")
        else:
            train.run(whole, folder / "run", LocalExecutor(quiet=True))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    {"steps": steps, "train": train}[sys.argv[1]](Path(sys.argv[2]))
