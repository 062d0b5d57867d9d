"""The needs of a run, before it starts: parameters, FLOPs, memory of each process, device hours.

Only arithmetic on the recipe: no model is created and torch is not needed.  Parameters and FLOPs are exact, memory is
rough: the tensors of the optimizer and the activations, without what libraries and their allocators take.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core.errors import UserError
from worldclip.model.config import Architecture
from worldclip.model.published import TOKENIZERS
from worldclip.train.config import TrainConfig
from worldclip.train.device import device_memory_bytes, peak_flops
from worldclip.train.launch import num_ranks
from worldclip.train.schedule import Schedule, check_batch, plan_schedule

GIB = 2**30
FLOAT = 4  # bytes
MOMENTS = 2  # AdamW's, float32 each
BACKWARD = 2  # a backward pass multiplies twice as often as the forward pass: for the inputs and for the weights
# Bytes that a block keeps per token and channel for the backward pass.  Both norms' inputs and outputs, queries, keys,
# values and attention's output are one number each, the MLP's hidden values 2 x 4.  Under bf16 the norms' inputs stay
# float32, and a norm's output is cast once for each of the projections that read it.
BLOCK_BYTES, BLOCK_BYTES_BF16 = 64, 40
DEVICES_PER_MACHINE = 8  # HSDP shards among them, in a plan for other machines
CHANGED = ("accum_steps", "activation_checkpointing", "parallel")  # keys that change memory, and no weight
MIN_TOKENS = 8_192  # of images and texts in a part of a batch, our choice: smaller products leave a GPU idle
USABLE = 0.9  # share of a device's memory, an assumption; CUDA, NCCL and gaps of the allocator take the rest


def count_parameters(sizes: Architecture, vocab_size: int, loss: str = "contrastive") -> dict[str, int]:
    """Return the exact numbers of a MetaClip2Model of these sizes, by part."""
    vision, text = sizes.vision_width, sizes.text_width
    patches = (sizes.image_size // sizes.patch_size) ** 2
    image_embeddings = 3 * sizes.patch_size**2 * vision + vision + (patches + 1) * vision  # patches, class, positions
    image_blocks = sizes.vision_layers * _block(vision, round(vision * sizes.vision_mlp_ratio))
    text_blocks = sizes.text_layers * _block(text, 4 * text)
    return {
        "token table": vocab_size * text,
        "text encoder": sizes.context_length * text + text_blocks + 2 * text,
        "image encoder": image_embeddings + image_blocks + 4 * vision,
        "heads": (vision + text) * sizes.embed_dim + (2 if loss == "siglip" else 1),  # with logit scale, SigLIP's bias
    }


def _block(width: int, mlp: int) -> int:
    """Return the parameters of a block: four projections and an MLP, with biases, and two layer norms."""
    return 4 * (width**2 + width) + 2 * width * mlp + mlp + width + 4 * width


def flops_per_pair(sizes: Architecture, text_length: float) -> float:
    """Return the FLOPs of forward and backward pass for an image and a text of text_length tokens.

    All tokens of the last block are counted, as utilisation is commonly stated; model/towers.py computes one of them.
    """
    patches = (sizes.image_size // sizes.patch_size) ** 2
    image = _encoder_flops(sizes.vision_width, sizes.vision_layers, sizes.vision_mlp_ratio, patches + 1)
    image += 2 * patches * 3 * sizes.patch_size**2 * sizes.vision_width + 2 * sizes.vision_width * sizes.embed_dim
    text = _encoder_flops(sizes.text_width, sizes.text_layers, 4, text_length) + 2 * sizes.text_width * sizes.embed_dim
    return (1 + BACKWARD) * (image + text)


def _encoder_flops(width: int, layers: int, mlp_ratio: float, length: float) -> float:
    """Return the FLOPs of one sequence's forward pass: projections, MLP and attention, two per multiplication."""
    matrices = (4 + 2 * mlp_ratio) * width**2 * length
    attention = 2 * width * length**2
    return 2 * layers * (matrices + attention)


def memory_bytes(config: TrainConfig, vocab_size: int, batch_size: int, world_size: int) -> tuple[int, int]:
    """Return (weights, gradients and moments of all students; activations of the largest) of a process, in bytes.

    Students run one after another.  Texts count at their full context length, frozen towers as if they learned; a
    teacher and adapters do not count.
    """
    models = _models(config)
    parameters = [count_parameters(sizes, vocab_size, config.loss) for sizes in models.values()]
    shards = {"ddp": 1, "fsdp": world_size, "hsdp": min(world_size, DEVICES_PER_MACHINE)}[config.parallel]
    state_bytes = FLOAT * (2 + MOMENTS) * sum(sum(counts.values()) for counts in parameters) // shards
    if shards > 1:
        state_bytes += 2 * FLOAT * parameters[0]["token table"]  # whole in each step, with its gradient
    pairs = -(-batch_size // (world_size * config.accum_steps))
    return state_bytes, max(_activation_bytes(config, sizes, pairs) for sizes in models.values())


def _models(config: TrainConfig) -> dict[str, Architecture]:
    """Return the sizes of the run's model and of further students."""
    students = {f"student {name}": student.model for name, student in config.distill.students.items()}
    return {name: model.architecture() for name, model in ({"model": config.model} | students).items()}


def _activation_bytes(config: TrainConfig, sizes: Architecture, pairs: int) -> int:
    """Return roughly what the backward pass reads again: each block's activations, or its input if it is recomputed."""
    patches = (sizes.image_size // sizes.patch_size) ** 2
    block_bytes = BLOCK_BYTES_BF16 if config.precision == "bf16" else BLOCK_BYTES
    total = 0
    for layers, values in (
        (sizes.vision_layers, pairs * (patches + 1) * sizes.vision_width),
        (sizes.text_layers, pairs * sizes.context_length * sizes.text_width),
    ):
        recomputed = config.recomputed_blocks(layers)
        stored = layers - recomputed + (recomputed > 0)  # one recomputed block at a time
        total += values * (stored * block_bytes + recomputed * FLOAT)
    return total


def checkpoint_bytes(config: TrainConfig, run_dir: Path) -> int:
    """Return the bytes of a checkpoint: weights and moments of all students; 0 if the vocabulary is unknown."""
    vocab_size = find_vocab_size(config, run_dir)
    if vocab_size is None:
        return 0
    counts = [count_parameters(sizes, vocab_size, config.loss) for sizes in _models(config).values()]
    return FLOAT * (1 + MOMENTS) * sum(sum(numbers.values()) for numbers in counts)


def plan(config: TrainConfig, run_dir: Path) -> list[str]:
    """Return the lines of --dry-run for the devices of train.hardware, else for this machine.

    Raises UserError if the devices cannot share the batch equally.
    """
    world_size = config.hardware.devices or num_ranks()
    vocab_size = find_vocab_size(config, run_dir)
    if vocab_size is None:
        return [f"model size unknown: the tokenizer {config.tokenizer.path!r} is not on this machine"]
    if config.scale.needs_report and not layout.stage_report(run_dir, "curate").exists():
        return ["batch size unknown: train.scale reads the share of English from the report of curate"]
    schedule = plan_schedule(config, run_dir, world_size)
    check_batch(schedule.global_batch_size, world_size, config.accum_steps)
    return to_lines(config, vocab_size, schedule, world_size)


def find_vocab_size(config: TrainConfig, run_dir: Path) -> int | None:
    """Return the rows of the token table, None if the tokenizer is not on this machine.

    The run's own tokenizer takes precedence over the recipe's.
    """
    source = config.tokenizer.path
    if layout.tokenizer(run_dir).exists():
        source = str(layout.tokenizer(run_dir))
    if source is None:
        return config.tokenizer.vocab_size
    published = {row.hub_id: row.vocab_size for row in TOKENIZERS}
    if source in published:
        return published[source]
    from worldclip.model.tokenizer import load_tokenizer

    try:
        return load_tokenizer(source, config.model.architecture().context_length).vocab_size
    except (ImportError, UserError):
        return None


def planned_device(config: TrainConfig) -> tuple[float | None, float | None]:
    """Return (GiB of memory, peak FLOP/s) of train.hardware, else of this machine's device; None: unknown."""
    memory_gib, flops_per_s = config.hardware.memory_gib, config.hardware.flops_per_s
    if memory_gib is None or flops_per_s is None:
        with contextlib.suppress(ImportError, UserError):  # raised where the plan is for another machine
            from worldclip.model.clip import pick_device

            device = pick_device(config.device)
            memory_gib = memory_gib or device_memory_bytes(device) / GIB
            flops_per_s = flops_per_s or peak_flops(device, config.precision)
    return memory_gib, flops_per_s


def to_lines(config: TrainConfig, vocab_size: int, schedule: Schedule, world_size: int) -> list[str]:
    """Return the lines printed before training: parameters, FLOPs, memory and whether it fits, hours."""
    lines, flops = [], 0.0
    for name, sizes in _models(config).items():
        counts = count_parameters(sizes, vocab_size, config.loss)
        parts = ", ".join(f"{part} {count / 1e6:,.1f}M" for part, count in counts.items())
        lines.append(f"{name:<11} {sum(counts.values()) / 1e6:,.1f}M parameters: {parts}")
        flops += flops_per_pair(sizes, sizes.context_length)
    batch_size = schedule.global_batch_size
    samples = schedule.num_steps * batch_size
    state, activations = (size / GIB for size in memory_bytes(config, vocab_size, batch_size, world_size))
    lines += [
        f"compute     {flops / 1e9:,.1f} GFLOP per pair of an image and {config.model.architecture().context_length} "
        f"tokens, {samples:,} pairs: {flops * samples:.2e} FLOP",
        f"memory      about {state + activations:,.1f} GiB per process ({world_size:,} in all), "
        f"{batch_size // world_size:,} pairs each: {state:,.1f} GiB weights, gradients and moments, "
        f"{activations:,.1f} GiB activations",
    ]
    memory_gib, flops_per_s = planned_device(config)
    if memory_gib is None:
        lines.append("device      memory unknown; set train.hardware.memory_gib")
    elif state + activations <= USABLE * memory_gib:
        lines.append(f"device      {memory_gib:,.1f} GiB: fits")
    else:
        advice = smallest_change(config, vocab_size, batch_size, world_size, USABLE * memory_gib)
        lines.append(f"device      {memory_gib:,.1f} GiB: DOES NOT FIT; {advice}")
    if flops_per_s is not None:  # unknown for the CPU of this machine: the first steps show the speed
        hours = flops * samples / (flops_per_s * config.hardware.utilisation) / 3600
        lines.append(
            f"hours       {hours:,.1f} device hours, {hours / world_size:,.1f} per device, at "
            f"{config.hardware.utilisation:.0%} of {flops_per_s / 1e12:,.0f} TFLOP/s"
        )
    return lines


def smallest_change(config: TrainConfig, vocab_size: int, batch_size: int, world_size: int, usable_gib: float) -> str:
    """Return the keys with which a process fits, for the fewest operations: what is recomputed costs forward passes."""
    pairs, sizes = batch_size // world_size, config.model.architecture()
    tokens = pairs * ((sizes.image_size // sizes.patch_size) ** 2 + 1 + sizes.context_length)
    divisors = (parts for parts in range(config.accum_steps, pairs + 1) if pairs % parts == 0)
    choices = []
    choosable = itertools.product(divisors, (config.activation_checkpointing, True), (config.parallel, "fsdp"))
    for parts, recomputed, parallel in choosable:
        changed = replace(config, accum_steps=parts, activation_checkpointing=recomputed, parallel=parallel)
        gib = sum(memory_bytes(changed, vocab_size, batch_size, world_size)) / GIB
        if gib <= usable_gib:  # a network may be slow, so weights are exchanged only where nothing else fits
            is_last_resort = tokens / parts < MIN_TOKENS, parallel != config.parallel
            choices.append((*is_last_resort, _passes(changed), parts, gib, changed))
    if not choices:
        return 'use more devices with train.parallel = "fsdp", or a smaller model or vocabulary'
    *_, gib, changed = min(choices, key=lambda choice: choice[:-2])
    new, old = ({key: json.dumps(getattr(values, key)) for key in CHANGED} for values in (changed, config))
    keys = " and ".join(f"train.{key} = {value}" for key, value in new.items() if value != old[key])
    return f"set {keys}: about {gib:,.1f} GiB, {_passes(changed) / _passes(config):.2f} times the operations of a step"


def _passes(config: TrainConfig) -> int:
    """Return the cost of a step in forward passes; parts of a batch, and recomputed blocks, run forward once more."""
    return 1 + BACKWARD + (config.accum_steps > 1) + bool(config.activation_checkpointing)
