"""The needs of a run, before it starts: parameters, FLOPs, memory of each process, device hours.

Only arithmetic on the recipe: no model is created and torch is not needed.  Parameters and FLOPs are exact, memory is
rough: the tensors of the optimizer and the activations, without what libraries and their allocators take.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
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
USABLE = 0.9  # share of a device's memory, an assumption; CUDA, NCCL and gaps of the allocator take the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The needs of a run, from `estimate`."""

    parameters: dict[str, dict[str, int]]
    """Numbers by model and part; the first model is the run's own."""
    flops_per_pair: float
    samples_seen: int
    state_bytes: int
    """Weights, gradients and moments of a process, of all students."""
    activation_bytes: int
    """Of the largest student: they run one after another."""

    @property
    def memory_bytes(self) -> int:
        return self.state_bytes + self.activation_bytes

    def device_hours(self, flops_per_s: float, utilisation: float) -> float:
        """Return the hours of all devices together, at a share `utilisation` of their peak rate."""
        return self.flops_per_pair * self.samples_seen / (flops_per_s * utilisation) / 3600


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


def estimate(config: TrainConfig, vocab_size: int, schedule: Schedule, world_size: int) -> Budget:
    """Return what a run needs: texts count at their full context length, a teacher and LoRA's adapters do not count.

    vocab_size: rows of the token table, also of every student's.
    """
    models = _models(config)
    parameters = {name: count_parameters(sizes, vocab_size, config.loss) for name, sizes in models.items()}
    pairs = -(-schedule.global_batch_size // (world_size * config.accum_steps))
    total, own = sum(sum(counts.values()) for counts in parameters.values()), parameters["model"]
    trained = total
    if config.lora_rank is not None or "vision" in config.freeze:
        trained -= own["image encoder"]
    if config.lora_rank is not None or "text" in config.freeze:
        trained -= own["text encoder"] + own["token table"]
    ranks_per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", DEVICES_PER_MACHINE))
    shards = {"ddp": 1, "fsdp": world_size, "hsdp": min(world_size, ranks_per_machine)}[config.parallel]
    state_bytes = FLOAT * (total + (1 + MOMENTS) * trained) // shards
    if shards > 1:
        state_bytes += 2 * FLOAT * own["token table"]  # whole in each step, with its gradient
    return Budget(
        parameters=parameters,
        flops_per_pair=sum(flops_per_pair(sizes, sizes.context_length) for sizes in models.values()),
        samples_seen=schedule.num_steps * schedule.global_batch_size,
        state_bytes=state_bytes,
        activation_bytes=max(_activation_bytes(config, sizes, pairs) for sizes in models.values()),
    )


def _models(config: TrainConfig) -> dict[str, Architecture]:
    """Return the sizes of the run's model and of further students."""
    students = {f"student {name}": student.model for name, student in config.distill.students.items()}
    return {name: model.architecture() for name, model in ({"model": config.model} | students).items()}


def _activation_bytes(config: TrainConfig, sizes: Architecture, pairs: int) -> int:
    """Return roughly what the backward pass reads again: each block's activations, or its input if it is recomputed."""
    patches = round((sizes.image_size // sizes.patch_size) ** 2 * (1 - config.patch_dropout))
    block_bytes = BLOCK_BYTES_BF16 if config.precision == "bf16" else BLOCK_BYTES
    total = 0
    for name, layers, values in (
        ("vision", sizes.vision_layers, pairs * (patches + 1) * sizes.vision_width),
        ("text", sizes.text_layers, pairs * sizes.context_length * sizes.text_width),
    ):
        if name in config.freeze:
            continue
        recomputed = config.recomputed_blocks(layers)
        stored = layers - recomputed + (recomputed > 0)  # one recomputed block at a time
        total += values * (stored * block_bytes + recomputed * FLOAT)
    return total


def checkpoint_bytes(config: TrainConfig, run_dir: Path) -> int:
    """Return the bytes of a checkpoint: weights and moments of all students; 0 if the vocabulary is unknown."""
    vocab_size = find_vocab_size(config, run_dir)
    if vocab_size is None:
        return 0
    parameters = sum(
        sum(count_parameters(sizes, vocab_size, config.loss).values()) for sizes in _models(config).values()
    )
    return FLOAT * parameters * (1 + MOMENTS)


# the lines of a plan


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
    memory_bytes, flops_per_s = planned_device(config)
    return to_lines(config, vocab_size, schedule, world_size, memory_bytes=memory_bytes, flops_per_s=flops_per_s)


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


def planned_device(config: TrainConfig) -> tuple[int | None, float | None]:
    """Return (bytes of memory, peak FLOP/s) of train.hardware, else of this machine's device; None: unknown."""
    memory_gib, flops_per_s = config.hardware.memory_gib, config.hardware.flops_per_s
    memory = None if memory_gib is None else round(memory_gib * GIB)
    if memory is None or flops_per_s is None:
        with contextlib.suppress(ImportError, UserError):  # raised where the plan is for another machine
            from worldclip.model.clip import pick_device

            device = pick_device(config.device)
            memory = device_memory_bytes(device) if memory is None else memory
            flops_per_s = flops_per_s or peak_flops(device, config.precision)
    return memory, flops_per_s


def to_lines(
    config: TrainConfig,
    vocab_size: int,
    schedule: Schedule,
    world_size: int,
    *,
    memory_bytes: int | None,
    flops_per_s: float | None,
) -> list[str]:
    """Return the lines printed before training: parameters, FLOPs, memory and whether it fits, hours."""
    budget = estimate(config, vocab_size, schedule, world_size)
    total_flops = budget.flops_per_pair * budget.samples_seen
    processes = f"{world_size:,} processes" if world_size > 1 else "one process"
    lines = []
    for name, counts in budget.parameters.items():
        parts = ", ".join(f"{part} {count / 1e6:,.1f}M" for part, count in counts.items())
        lines.append(f"{name:<11} {sum(counts.values()) / 1e6:,.1f}M parameters: {parts}")
    lines += [
        f"compute     {budget.flops_per_pair / 1e9:,.1f} GFLOP per pair of an image and "
        f"{config.model.architecture().context_length} tokens, {budget.samples_seen:,} pairs: {total_flops:.2e} FLOP",
        f"memory      about {_gib(budget.memory_bytes)} per process, "
        f"{schedule.global_batch_size // world_size:,} pairs each ({processes}): {_gib(budget.state_bytes)} weights, "
        f"gradients and moments, {_gib(budget.activation_bytes)} activations",
    ]
    if memory_bytes is None:
        lines.append("device      memory unknown; set train.hardware.memory_gib")
    elif budget.memory_bytes <= USABLE * memory_bytes:
        lines.append(f"device      {_gib(memory_bytes)}: fits")
    else:
        keys = 'train.activation_checkpointing = true, a larger train.accum_steps, train.parallel = "fsdp"'
        lines.append(f"device      {_gib(memory_bytes)}: DOES NOT FIT; {keys} or more devices need less memory")
    if flops_per_s is None and config.hardware.devices is not None:
        lines.append("hours       unknown; set train.hardware.flops_per_s to a device's peak")
    if flops_per_s is not None:  # unknown for the CPU of this machine: the first steps show the speed
        hours = budget.device_hours(flops_per_s, config.hardware.utilisation)
        lines.append(
            f"hours       {hours:,.1f} device hours, {hours / world_size:,.1f} per device, at "
            f"{config.hardware.utilisation:.0%} of {flops_per_s / 1e12:,.0f} TFLOP/s"
        )
    return lines


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"
