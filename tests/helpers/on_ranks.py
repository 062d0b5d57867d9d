"""Run a task on several ranks: forks of a server that has imported this module, with torchrun's variables."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from calls import before, calls_of
from small_world import TRAIN
from stages import context
from worldclip import pool
from worldclip.config import load_recipe
from worldclip.contracts.layout import step_folder
from worldclip.core import inputs
from worldclip.core.errors import UserError, WorkStopped
from worldclip.core.settings import load_config
from worldclip.model.tokenizer import Tokens, train_tokenizer
from worldclip.train import checkpoint_writer, distributed, loop, made_of, stage, train_state
from worldclip.train.checkpoint import CheckpointReader
from worldclip.train.checkpoint_writer import CheckpointWriter, LocalTensor, copy_to_cpu
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World, connected_ranks, gather_records
from worldclip.train.dual_encoder import DualEncoder
from worldclip.train.loader import Batch
from worldclip.train.pairs import PairSource
from worldclip.train.step import train_step

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["on_ranks", "torch.utils.tensorboard", "transformers.models.metaclip_2.modeling_metaclip_2"]
)
VARIANTS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "clipped": {"max_grad_norm": 0.05},
    "siglip distillation": {"loss": "siglip", "distill": {"teacher": "nothing/is_read", "weight": 0.5}},
    "lora": {"lora_rank": 4, "accum_steps": 2, "activation_checkpointing": True},
    "frozen": {"freeze": ("vision",), "activation_checkpointing": True, "patch_dropout": 0.5},
    "fsdp": {"parallel": "fsdp"},
    "fsdp clipped": {"parallel": "fsdp", "max_grad_norm": 0.05, "patch_dropout": 0.5, "activation_checkpointing": True},
    "hsdp siglip": {"parallel": "hsdp", "loss": "siglip"},
    "bf16": {"precision": "bf16"},
}
ACCUMULATED = {name: f"{name} accumulation" for name in ("ddp", "siglip distillation", "fsdp clipped", "hsdp siglip")}
"""The variant that computes a batch in parts, by the one that computes it whole."""
VARIANTS |= {
    parts: VARIANTS[whole] | {"accum_steps": 4 if whole == "ddp" else 2} for whole, parts in ACCUMULATED.items()
}
SAVED = ("ddp", "fsdp", "hsdp siglip")  # variants whose checkpoint is written after the third step
TEXTS = [f"{a}{b} {c}" for a in "abcdefghij" for b in "klmnop" for c in ("red", "green", "blue", "black")]
WAIT_S = 0.5
LATE_S = 0.1
COLLECTIVES = (
    *("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single", "broadcast"),
    *("all_gather_object", "broadcast_object_list", "barrier", "monitored_barrier"),
)


class Rank:
    """A running process, with the methods of subprocess.Popen that tests use."""

    def __init__(self, task: str, folder: Path, environment: dict[str, str]) -> None:
        self.errors = folder / f"stderr.{environment['RANK']}"
        arguments = (task, folder, self.errors, environment)
        # a daemon: a failed test must not keep pytest waiting for a rank that hangs
        self.process: BaseProcess = FORKS.Process(target=_be_rank, args=arguments, daemon=True)
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float = 300) -> tuple[None, str]:
        """Wait for the end, and return what the process wrote to stderr."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"rank still runs after {timeout} s"
        return None, self.errors.read_text()


def _be_rank(task: str, folder: Path, errors: Path, environment: dict[str, str]) -> None:
    with open(errors, "w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    torch.set_num_threads(1)
    globals()[task](folder)


def start_ranks(task: str, folder: Path, world_size: int) -> list[Rank]:
    """Start TASK in world_size processes of one thread each, as if on machines of two (two processes: of one)."""
    local_size = 2 if world_size > 2 else 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(local_size)}
    return [
        Rank(task, folder, common | {"RANK": str(rank), "LOCAL_RANK": str(rank % local_size)})
        for rank in range(world_size)
    ]


def run_on_ranks(task: str, folder: Path, world_size: int) -> None:
    """Run TASK in world_size processes and wait until all have succeeded."""
    processes = start_ranks(task, folder, world_size)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(errors)


# what a step needs


def make_batch(variant: dict[str, Any], rank: int = 0, world_size: int = 1) -> Batch:
    """Return this rank's slice of one batch of 16 pairs, which is the same at any world size."""
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (16, 3, 32, 32), dtype=np.uint8))
    rows = [[*generator.integers(4, 60, generator.integers(1, 9)), 2] for _ in range(16)]
    patches = torch.from_numpy(np.stack([np.sort(generator.permutation(4)[:2]) for _ in range(16)]))
    own = range(rank * 16 // world_size, (rank + 1) * 16 // world_size)
    offsets = np.cumsum([0, *(len(rows[i]) for i in own)])
    tokens = Tokens(np.concatenate([rows[i] for i in own]).astype(np.int64), offsets, 1)
    kept = patches[own.start : own.stop] if variant.get("patch_dropout") else None
    return Batch(images[own.start : own.stop], tokens, [], np.zeros(0), Counter(), kept)


def make_teacher_features(variant: dict[str, Any], rank: int, world_size: int) -> Any:
    """Return what a teacher says of this rank's slice of the batch, None for a variant without a teacher."""
    if "distill" not in variant:
        return None
    generator = torch.Generator().manual_seed(1)
    sides = [torch.randn(16, 8, generator=generator) for _ in ("images", "texts")]
    own = slice(rank * 16 // world_size, (rank + 1) * 16 // world_size)
    return tuple(torch.nn.functional.normalize(side, dim=1)[own] for side in sides)


@functools.cache
def make_tokenizer() -> Any:
    """Return a tokenizer of 61 rows, which two ranks cannot share equally."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=64, context_length=12)
    tokenizer.vocab_size = 61
    return tokenizer


def make_state(variant: dict[str, Any], world: World = distributed.ALONE, checkpoint: Path | None = None) -> Any:
    model = TRAIN["model"] | {"vision_layers": 2, "text_layers": 2}
    settings = TRAIN | {"model": model} | variant
    if "lora_rank" in variant:
        settings["initial_weights"] = "nothing/is_read"
    config = dataclasses.replace(load_config(TrainConfig, settings), initial_weights=None)  # the seed's are as good
    state = train_state.create_train_state(config, make_tokenizer(), world, torch.device("cpu"), checkpoint)
    for group in state.optimizer.param_groups:
        group["eps"] = 1e-3  # AdamW divides by the gradient's size: this keeps one that is only rounding small
    return state


# the tasks


def steps(folder: Path) -> None:
    """Take three steps of each variant.  Rank 0 writes loss, norms, and whole gradients and weights.

    It also writes the names of those whose bytes differ between ranks.  SAVED variants are then written as a
    checkpoint, and the same variant on one rank, where that has been written before, is resumed here for a fourth step.
    """
    bytes_of, differing, bytes_read = {}, {}, count_read()
    with connected_ranks("cpu") as world:
        for name, variant in VARIANTS.items():
            state, batch = make_state(variant, world), make_batch(variant, world.rank, world.size)
            teacher_features = make_teacher_features(variant, world.rank, world.size)
            tensors = {}
            for step in range(3):
                result = train_step(state, batch, 1e-3, teacher_features)
                assert result.is_applied
                tensors[f"loss {step}"] = torch.tensor(result.loss)
                tensors[f"norm {step}"] = torch.tensor(result.grad_norm)
                for key, parameter in state.model.checkpoint_parameters().items():
                    if step == 0 and parameter.grad is not None:
                        tensors[f"gradient {key}"] = whole(parameter.grad)
            for key, parameter in state.model.checkpoint_parameters().items():
                tensors[f"weight {key}"] = whole(parameter)
            digests = [set(digests_of(tensors).items()) for tensors in gather_records(tensors, world)]
            differing[name] = sorted({key for key, _ in set.union(*digests) - set.intersection(*digests)})
            if name in SAVED:
                sizes = save(state, folder / f"{name}.{world.size}")
                bytes_read.clear()
                resumed = make_state(variant, world, folder / f"{name}.1" / f"step_{3:09}")
                bytes_of[name] = gather_records(sizes | {"read": sum(bytes_read)}, world)
                tensors["resumed loss"] = torch.tensor(train_step(resumed, batch, 1e-3).loss)
                tensors["resumed norm"] = torch.tensor(train_step(resumed, batch, 1e-3).grad_norm)
            if world.is_first:
                save_file(tensors, folder / f"{name}.{world.size}.safetensors")
        if world.is_first:
            (folder / f"bytes.{world.size}.json").write_text(json.dumps(bytes_of))
            (folder / f"differing.{world.size}.json").write_text(json.dumps(differing))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone().contiguous()


def digests_of(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


def count_read() -> list[int]:
    """Return a list that gets the bytes of each tensor, or part of one, that a checkpoint is asked for from now on."""
    sizes, read = [], CheckpointReader.read

    def counted(*args: Any) -> torch.Tensor:
        tensor = read(*args)
        sizes.append(tensor.nbytes)
        return tensor

    CheckpointReader.read = counted
    return sizes


def save(state: Any, train_dir: Path) -> dict[str, int]:
    """Write the checkpoint of step 3.  Return the bytes that this rank copied, and wrote to its own file."""
    train_dir.mkdir(parents=True, exist_ok=True)
    writer, tensors = CheckpointWriter(train_dir, state.world, keep_last=1), copy_to_cpu(state)
    writer.start(3, tensors, {"updates": 3}, lambda folder: None)
    writer.wait()
    distributed.barrier(state.world)  # rank 0 has renamed the folder
    shard = f"trainer/shards/{state.world.rank:05}_of_{state.world.size:05}.safetensors"
    written = (step_folder(train_dir, 3) / shard).stat().st_size if state.world.size > 1 else 0
    return {"copied": sum(local.tensor.nbytes for local in tensors.values()), "written": written}


def waits(folder: Path) -> None:
    """Let rank 0 come late by three time-outs of a step: to the start, a record, and an exchange of tensors.

    Rank 1 writes what became of the last one.
    """
    distributed.STEP_TIMEOUT = datetime.timedelta(seconds=WAIT_S)
    delay_s = 3 * WAIT_S if os.environ["RANK"] == "0" else 0
    time.sleep(delay_s)
    with connected_ranks("cpu") as world:
        distributed.all_reduce(torch.ones(1), world)
        time.sleep(delay_s)
        assert distributed.broadcast_record(world.rank, world) == 0
        time.sleep(delay_s)
        try:
            distributed.all_reduce(torch.ones(1), world)
        except RuntimeError as error:
            (folder / f"step.{world.rank}.txt").write_text(str(error))
        os._exit(0)  # after a time-out the groups cannot be closed in order


def fail(folder: Path) -> None:
    """Fail on rank 1 while rank 0 waits for it; both go on without a process group."""
    with contextlib.suppress(UserError, RuntimeError), connected_ranks("cpu") as world:
        if world.rank == 1:
            raise UserError("rank 1 fails")
        distributed.barrier(world)
        sys.exit("rank 0 did not notice")
    assert not dist.is_initialized()


def hang(folder: Path) -> None:
    """Write two checkpoints of one tensor; the first write of rank 1 hangs."""
    if os.environ["RANK"] == "1":
        before(setattr, checkpoint_writer, "write_shard", lambda *_: threading.Event().wait())
    checkpoint_writer.WRITE_TIMEOUT_S = WAIT_S
    with connected_ranks("cpu") as world:
        writer = CheckpointWriter(folder, world, keep_last=1)
        tensors = {"weights.a": LocalTensor(torch.full((2, 3), 1.0), (4, 3), 2 * world.rank)}
        try:
            for step in (1, 2):
                writer.start(step, tensors, {"updates": step}, lambda folder: None)
        except WorkStopped as error:
            writer.close()
            sys.exit(str(error))


def train(folder: Path) -> None:
    """Run the stage as the command line does; write how often each collective ran, and which shards were counted."""
    recipe = load_recipe(json.loads((folder / "recipe.json").read_text()))
    counts_at_steps, rank = count_collectives(), os.environ["RANK"]
    counted = calls_of(setattr, PairSource, "count_shard")
    if rank != "0":
        forbid_listing()
    try:
        stage.train(context(recipe, folder / "run"))
    except (UserError, WorkStopped) as error:
        sys.exit(str(error))
    (folder / f"collectives.{rank}.json").write_text(json.dumps(counts_at_steps))
    (folder / f"counted.{rank}.json").write_text(json.dumps([shard for _, shard, _ in counted]))


def train_late(folder: Path) -> None:
    """Run the stage; rank 1, on host1, takes LATE_S longer for each forward pass."""
    rank = os.environ["RANK"]
    socket.gethostname = lambda: f"host{rank}"
    if rank == "1":
        before(setattr, DualEncoder, "forward", lambda *_: time.sleep(LATE_S))
    train(folder)


def forbid_listing() -> None:
    """Fail if this rank lists or hashes a pool: rank 0 does it for all."""

    def fail(*args: Any, **keys: Any) -> None:
        raise AssertionError("a helper rank lists the pool")

    for name in ("indexed_shards", "list_shards"):
        setattr(pool, name, fail)
    for module in (stage, made_of):
        module.image_shards = fail
    inputs.fingerprint_of = fail


def count_collectives() -> list[dict[str, int]]:
    """Count the collectives that our code calls; return a list that gets the counts at the start of each step.

    DDP and FSDP call theirs in C++, or below torch.distributed's functions.
    """
    counts: Counter[str] = Counter()
    counts_at_steps: list[dict[str, int]] = []
    for name in COLLECTIVES:
        before(setattr, dist, name, lambda *_, name=name, **__: counts.update([name]))
    before(setattr, loop, "launch_step", lambda *_, **__: counts_at_steps.append(dict(counts)))
    return counts_at_steps
