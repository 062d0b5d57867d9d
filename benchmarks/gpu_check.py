"""The first hour on a GPU: steps of the three recipes' models, what they take, and what was expected of an H100.

    python benchmarks/gpu_check.py                                   one GPU
    torchrun --nproc-per-node 8 benchmarks/gpu_check.py              a machine; adds fsdp and hsdp
    python benchmarks/gpu_check.py --models b32 --steps 5 --write    --write, of a GPU: benchmarks/results/gpu_check.md

Per model and variant (compile, ways of sharding) the loop of `worldclip train` runs on a
made-up batch: time of a step (slowest rank), TFLOP/s, memory that torch allocated and reserved, the attention
kernels, the lines that wait for the GPU, how long a checkpoint (in a folder of TMPDIR) stops training, and the loss
beside that of a float32 step on the CPU; with several ranks also exchanges of a step's sizes by themselves.  Without a
GPU the models are reduced to two narrow blocks, and what only a GPU shows reads "not on CPU".

The expectation is reckoned, never measured: the model's operations (recomputed ones too) at 45% of the peak, the
optimizer's 40 bytes per parameter at 80% of 3.35 TB/s, and src/worldclip/train/budget.py for memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import platform
import shutil
import statistics
import tempfile
import time
import typing
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from exchanges import Exchange, exchange_table, measure_exchanges
from head import make_head

from worldclip.core.job import Run
from worldclip.core.settings import load_config
from worldclip.model.tokenizer import Tokens
from worldclip.train import budget
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import (
    ALONE,
    World,
    barrier,
    broadcast_record,
    connected_ranks,
    gather_records,
    pick_rank_device,
)
from worldclip.train.loader import Batch
from worldclip.train.loop import Start, Trainer
from worldclip.train.schedule import Schedule
from worldclip.train.step import train_step
from worldclip.train.train_state import TrainState, create_train_state

RESULTS = Path(__file__).parent / "results" / "gpu_check.md"
NOT_ON_CPU = "not on CPU"
H100_FLOPS, H100_BYTES_PER_S = 9.89e14, 3.35e12  # NVIDIA's data sheet: bfloat16 dense, HBM3
MATRICES_AT, MEMORY_AT = 0.45, 0.8  # shares of those that large matrices and AdamW reach: assumptions
OPTIMIZER_BYTES = 40  # per parameter: AdamW reads four numbers and writes three, the norm reads one, zeroing writes one
MODELS = {  # preset, pairs per GPU, and activation checkpointing of recipes/vit_*_worldwide.toml
    "h14": ("vit_h14", 196, True),
    "l14": ("vit_l14", 588, True),
    "b32": ("vit_b32", 512, False),
}
XLM_V_ROWS, CONTEXT = 901_629, 77
REDUCED = {"vision_layers": 2, "text_layers": 2, "text_width": 128, "embed_dim": 32, "context_length": 16}
REDUCED_ROWS, REDUCED_PAIRS, REDUCED_WIDTH = 2_000, 8, {"h14": 160, "l14": 128, "b32": 128}
PARITY_PAIRS = 8
PARITY_TOLERANCE = 0.02  # of the loss: bfloat16 has 8 bits
WARM_UP_STEPS = 3
ATTENTION = ("attention", "flash", "fmha", "sdpa")  # in the names of kernels


@dataclass
class Measured:
    """Numbers of one model and variant; texts where there is no number."""

    name: str
    step_ms: float
    tflops_per_s: str
    allocated: str
    reserved: str
    kernels: list[str]
    syncs: str
    sync_lines: list[str]
    stop_ms: float
    write_s: float
    expected: str


def variants_of(world_size: int, is_gpu: bool) -> dict[str, dict[str, Any]]:
    """Return the settings of [train] by name: those that the config knows, and this number of ranks allows."""
    variants: dict[str, dict[str, Any]] = {"ddp": {}}
    if is_gpu:  # on a CPU compilation takes a minute per model and says nothing of a GPU
        variants["compile"] = {"compile": True}
        if world_size > 1:
            variants["compile hsdp"] = {"compile": True, "parallel": "hsdp"}
    if world_size > 1:
        ways = typing.get_args(typing.get_args(typing.get_type_hints(TrainConfig, include_extras=True)["parallel"])[0])
        variants |= {way: {"parallel": way} for way in ways if way != "ddp"}
    return variants


def make_config(model: str, settings: dict[str, Any], is_gpu: bool, world_size: int, pairs: int | None) -> TrainConfig:
    preset, own_pairs, recomputes = MODELS[model]
    sizes: dict[str, Any] = {"preset": preset}
    if not is_gpu:
        patch = int(preset[-2:])
        sizes |= {**REDUCED, "vision_width": REDUCED_WIDTH[model], "image_size": 2 * patch}
    batch = (pairs or (own_pairs if is_gpu else REDUCED_PAIRS)) * world_size
    keys = {"model": sizes, "global_batch_size": batch, "precision": "bf16", "activation_checkpointing": recomputes}
    keys["checkpoint_every_samples"] = 10**15  # only the last step's
    return load_config(TrainConfig, keys | {"device": "cuda" if is_gpu else "cpu"} | settings)


def make_tokenizer(config: TrainConfig, is_gpu: bool) -> Any:
    """Return what a training needs of a tokenizer: the numbers of special ids and rows; it writes no file."""
    rows, context = XLM_V_ROWS if is_gpu else REDUCED_ROWS, config.model.architecture().context_length
    return SimpleNamespace(
        bos_id=0, pad_id=1, eos_id=2, vocab_size=rows, context_length=context, save=lambda folder: None
    )


def make_batch(config: TrainConfig, tokenizer: Any, pairs: int, rank: int) -> Batch:
    """Return random images and captions of 5 ids to half of the context."""
    generator = np.random.default_rng(rank)
    side = config.model.architecture().image_size
    images = torch.from_numpy(generator.integers(0, 256, (pairs, 3, side, side), dtype=np.uint8))
    lengths = generator.integers(5, tokenizer.context_length // 2 + 1, pairs)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    ids = generator.integers(3, tokenizer.vocab_size, offsets[-1])
    ids[offsets[1:] - 1] = tokenizer.eos_id
    return Batch(images, Tokens(ids, offsets, tokenizer.pad_id), [], np.zeros(0), Counter())


class MadeUpLoader:
    """Hands out one batch again and again, and notes when.  On a GPU it lists the lines that wait in the last step."""

    num_without_image, epoch_length = 0, 10**9

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self.batch, self.device = batch, device
        self.asked_at: list[float] = []
        """Seconds, of each batch."""

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield the batches of steps [first_step, last_step)."""
        for step in range(first_step, last_step):
            if step == last_step - 2 and self.device.type == "cuda":  # a save follows the last step
                torch.cuda.set_sync_debug_mode("warn")
            if step == last_step - 1 and self.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            self.asked_at.append(time.perf_counter())
            yield self.batch

    def epochs_of(self, samples: int) -> float:
        """Return 0: there are none."""
        return 0.0


class TimedTrainer(Trainer):
    """Training as `worldclip train` does it, on made-up batches; notes what its last checkpoint takes."""

    stop_s: float
    written_from: float
    """time.perf_counter when training went on after the checkpoint."""

    def open_loader(self, run: Run, start: Start) -> Any:
        """Return made-up batches."""
        pairs = start.schedule.global_batch_size // self.world.size
        batch = make_batch(self.config, self.tokenizer, pairs, self.world.rank)
        if self.device.type == "cuda":
            batch = dataclasses.replace(batch, images=batch.images.pin_memory())
        return MadeUpLoader(batch, self.device)

    def _save(self) -> None:
        started_at = time.perf_counter()
        super()._save()
        self.written_from = time.perf_counter()
        self.stop_s = self.written_from - started_at


def train(config: TrainConfig, world: World, steps: int) -> tuple[TimedTrainer, float]:
    """Train for WARM_UP_STEPS, the steps to be timed and two more, the last with a checkpoint.

    Return the trainer and the seconds that the checkpoint took in the background.
    """
    run_dir = Path(broadcast_record(tempfile.mkdtemp(prefix="gpu_check_") if world.is_first else "", world))
    (run_dir / "train").mkdir(exist_ok=True)
    batch, num_steps = config.global_batch_size, WARM_UP_STEPS + steps + 2
    schedule = Schedule(
        samples_seen=batch * num_steps, global_batch_size=batch, num_steps=num_steps, warmup_steps=num_steps
    )
    start = Start(schedule=schedule, checkpoint=None, num_streams=0, shards=[], images=None, lacks_scores=False)
    tokenizer = make_tokenizer(config, config.device == "cuda")
    trainer = TimedTrainer(Run.of(run_dir, config), world, start, tokenizer)
    trainer.run()
    write_s = time.perf_counter() - trainer.written_from
    if world.is_first:
        shutil.rmtree(run_dir)
    return trainer, write_s


def measure(
    model: str, variant: str, config: TrainConfig, world: World, device: torch.device, steps: int
) -> tuple[Measured, TrainState]:
    """Run steps of one model and variant."""
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer, write_s = train(config, world, steps)
    loader: Any = trainer.loader  # a MadeUpLoader
    state = trainer.state
    step_s = max(
        gather_records(statistics.median(np.diff(loader.asked_at)[WARM_UP_STEPS : WARM_UP_STEPS + steps]), world)
    )
    allocated, reserved = (
        (torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)) if is_gpu else (0, 0)
    )
    num_syncs, sync_lines = waiting_lines(caught) if is_gpu else (NOT_ON_CPU, [])
    pairs = config.global_batch_size // world.size
    length = len(loader.batch.tokens.ids) / pairs
    flops = pairs * budget.flops_per_pair(config.model.architecture(), length, config.patches_seen)
    measured = Measured(
        name=f"{model} {variant}",
        step_ms=1000 * step_s,
        tflops_per_s=f"{flops / step_s / 1e12:,.0f}" if is_gpu else NOT_ON_CPU,
        allocated=gib(allocated) if is_gpu else NOT_ON_CPU,
        reserved=gib(reserved) if is_gpu else NOT_ON_CPU,
        kernels=attention_kernels(state, loader.batch, config.lr, is_gpu),
        syncs=num_syncs,
        sync_lines=sync_lines,
        stop_ms=1000 * trainer.stop_s,
        write_s=write_s,
        expected=expectation(config, trainer.tokenizer.vocab_size, world.size, flops),
    )
    return measured, state


def attention_kernels(state: TrainState, batch: Batch, lr: float, is_gpu: bool) -> list[str]:
    """Return the names of a step's attention kernels (on a CPU: of torch's operations), most often called first."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if is_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        train_step(state, batch, lr)
    wanted = torch.autograd.DeviceType.CUDA if is_gpu else torch.autograd.DeviceType.CPU
    calls: Counter[str] = Counter()
    for event in profile.events():
        if event.device_type == wanted and any(part in event.name.lower() for part in ATTENTION):
            calls[event.name.removeprefix("void ").split("<")[0].split("(")[0]] += 1
    return [f"{name} x {count}" for name, count in calls.most_common(4)]


def waiting_lines(caught: Sequence[warnings.WarningMessage]) -> tuple[str, list[str]]:
    """Return (how often a step waits for the GPU, file:line of each place and how often)."""
    places = Counter(
        f"{Path(warning.filename).name}:{warning.lineno}"
        for warning in caught
        if "synchronizing" in str(warning.message)
    )
    return str(sum(places.values())), [f"{place} x {count}" for place, count in places.most_common()]


def expectation(config: TrainConfig, vocab_size: int, world_size: int, flops: float) -> str:
    """Return the reckoned step time and memory on an H100."""
    needed = sum(budget.memory_bytes(config, vocab_size, config.global_batch_size, world_size))
    updated = sum(budget.count_parameters(config.model.architecture(), vocab_size).values())
    if config.parallel != "ddp":
        updated //= world_size  # of one machine, where hsdp shards as fsdp does
    matrices_s = flops * (4 / 3 if config.activation_checkpointing else 1) / (MATRICES_AT * H100_FLOPS)
    optimizer_s = OPTIMIZER_BYTES * updated / (MEMORY_AT * H100_BYTES_PER_S)
    step_s = matrices_s + optimizer_s
    return f"{1000 * step_s:,.1f} ms, {flops / step_s / 1e12:,.0f} TFLOP/s, {gib(needed)}"


def loss_parity(config: TrainConfig, device: torch.device) -> tuple[float, float]:
    """Return (loss of a first step in bfloat16 on the device, in float32 on the CPU) of the same weights and pairs."""
    alone = {"parallel": "ddp", "global_batch_size": PARITY_PAIRS}
    losses = []
    for precision, place in (("bf16", device), ("fp32", torch.device("cpu"))):
        changed = dataclasses.replace(config, **alone, precision=precision)
        tokenizer = make_tokenizer(config, device.type == "cuda")
        state = create_train_state(changed, tokenizer, ALONE, place, None)
        losses.append(train_step(state, make_batch(config, tokenizer, PARITY_PAIRS, 0), 0.0).loss)
        del state
        free()
    return losses[0], losses[1]


def free() -> None:
    """Give memory back before the next model."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


# all of them


@contextmanager
def said_if_too_large(name: str, problems: list[str]) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        problems.append(f"{name}: does not fit ({str(error).splitlines()[0]})")


def check(models: Sequence[str], steps: int, pairs: int | None, world: World, device: torch.device) -> str:
    """Return the page, of rank 0's memory and kernels and the slowest rank's step."""
    is_gpu = device.type == "cuda"
    rows: list[Measured] = []
    problems: list[str] = []
    parity: dict[str, tuple[float, float]] = {}
    exchanges: dict[str, list[Exchange]] = {}
    for model in models:
        for variant, settings in variants_of(world.size, is_gpu).items():
            with said_if_too_large(f"{model} {variant}", problems):
                config = make_config(model, settings, is_gpu, world.size, pairs)
                measured, state = measure(model, variant, config, world, device, steps)
                rows.append(measured)
                del state
            free()
        with said_if_too_large(f"{model} exchanges", problems):
            config = make_config(model, {}, is_gpu, world.size, pairs)
            exchanges[model] = measure_exchanges(config, make_tokenizer(config, is_gpu).vocab_size, world, device)
        free()
        if world.is_first:
            with said_if_too_large(f"{model} loss", problems):
                parity[model] = loss_parity(make_config(model, {}, is_gpu, 1, pairs), device)
            free()
        barrier(world)  # a large model's step on the CPU takes minutes, longer than a collective may wait
    return page(rows, parity, exchanges, problems, world, device)


def page(
    rows: Sequence[Measured],
    parity: dict[str, tuple[float, float]],
    exchanges: dict[str, list[Exchange]],
    problems: Sequence[str],
    world: World,
    device: torch.device,
) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} (reduced models)"
    lines = [
        f"| {row.name} | {row.step_ms:,.1f} ms | {row.tflops_per_s} | {row.allocated} | {row.reserved} | {row.syncs} | "
        f"{row.stop_ms:,.0f} ms | {row.write_s:.1f} s | {row.expected} |"
        for row in rows
    ]
    kernels = [f"- {row.name}: {', '.join(row.kernels) or 'no fused attention: see model/clip.py'}" for row in rows]
    waits = [f"- {row.name}: {', '.join(row.sync_lines) or row.syncs}" for row in rows]
    losses = [
        f"- {model}: {own:.4f} in bfloat16 here, {exact:.4f} in float32 on the CPU: "
        f"{'agree' if abs(own - exact) <= PARITY_TOLERANCE * abs(exact) else 'DIFFER'}"
        for model, (own, exact) in parity.items()
    ]
    return "\n".join([
        "# Steps on this device",
        "",
        make_head(("src/worldclip/train", "src/worldclip/model"), ("torch",), f"{world.size} x {name}"),
        "",
        "Expected: step, TFLOP/s and allocated memory of the same model on an H100, reckoned.",
        "",
        "| model, variant | step | TFLOP/s | allocated | reserved | waits | checkpoint stops | writes | "
        "expected on an H100 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
        *lines,
        *exchange_table(exchanges),
        *(["", "Failed:", "", *(f"- {problem}" for problem in problems)] if problems else []),
        "", "Attention:", "", *kernels,
        "", "Lines that wait for the GPU, in one step:", "", *waits,
        "", f"Loss of the first step, {PARITY_PAIRS} pairs:", "", *losses, "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, help="per GPU (default: the recipe's)")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.write and not torch.cuda.is_available():
        parser.error("--write: this machine has no GPU, and its numbers are not those of one")
    with connected_ranks("auto") as world:
        device = pick_rank_device("cuda" if torch.cuda.is_available() else "cpu", world)
        text = check(arguments.models, arguments.steps, arguments.pairs, world, device)
        if world.is_first:
            print(text)
        if world.is_first and arguments.write:
            RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
