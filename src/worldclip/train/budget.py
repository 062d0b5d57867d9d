"""The needs of a run, before it starts: parameters, FLOPs, memory of each process, device hours.

Only arithmetic on the recipe: no model is created and torch is not needed.  Memory is what tensors take at the fullest
moment of a step: what torch calls allocated.  On a GPU the gaps of its allocator come on top (reserved), and what CUDA
and NCCL take for themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core.errors import UserError
from worldclip.core.job import Report
from worldclip.model.config import Architecture, ModelConfig
from worldclip.model.published import TOKENIZERS, activation
from worldclip.train.config import LOSS_CHUNK_ROWS, TrainConfig
from worldclip.train.device import PEAK_FLOPS, device_memory_bytes, peak_flops
from worldclip.train.launch import num_ranks
from worldclip.train.schedule import Schedule, check_batch, plan_schedule, worlds_that_divide

GIB = 2**30
FLOAT, HALF = 4, 2  # bytes of a number
MOMENTS = 2  # AdamW's, float32 each
BACKWARD = 2  # a backward pass multiplies twice as often as the forward pass: for the inputs and for the weights
DEVICES_PER_MACHINE = 8  # HSDP shards among them, in a plan for other machines
BLOCKS_AT_ONCE = 2  # gathered by FSDP: the running block and the prefetched next one
PERSISTENT = {"weights", "moments", "EMA", "gradients"}  # memory that every student holds at all times
DOES_NOT_EXIST = 2**62  # bytes of a config that is invalid
GAPS = 1.1  # reserved over allocated memory of a GPU, an assumption
OUTSIDE_BYTES = 2 * GIB  # CUDA's context, cuBLAS' workspaces and NCCL's buffers, an assumption too
GPUS_PER_NODE = 8
KNOWN_DEVICES = ("B200", "H100", "A100", "L40S", "L4")  # whose hours the table states


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Number of parameters in each part of a model."""

    token_table: int
    text_encoder: int
    """Without its token table."""
    image_encoder: int
    heads: int
    """Projections, logit scale, and SigLIP's bias."""
    adapters: int = 0
    """Of train.lora_rank."""

    @property
    def total(self) -> int:
        return self.token_table + self.text_encoder + self.image_encoder + self.heads + self.adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The needs of a run, from `estimate`."""

    parameters: Parameters
    students: dict[str, Parameters] = field(default_factory=dict)
    flops_per_pair: float
    samples_seen: int
    memory: dict[str, int]
    """Bytes of a process, by what they hold."""

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.values())

    def device_hours(self, flops_per_s: float, utilisation: float) -> float:
        """Return the hours of all devices together, at a share `utilisation` of their peak rate."""
        return self.flops_per_pair * self.samples_seen / (flops_per_s * utilisation) / 3600


# parameters and FLOPs


def count_parameters(sizes: Architecture, vocab_size: int, loss: str = "contrastive") -> Parameters:
    """Return the exact numbers of a MetaClip2Model of these sizes."""
    vision, text = sizes.vision_width, sizes.text_width
    patches = (sizes.image_size // sizes.patch_size) ** 2
    image_embeddings = 3 * sizes.patch_size**2 * vision + vision + (patches + 1) * vision  # patches, class, positions
    image_blocks = sizes.vision_layers * _block(vision, round(vision * sizes.vision_mlp_ratio))
    text_blocks = sizes.text_layers * _block(text, 4 * text)
    return Parameters(
        token_table=vocab_size * text,
        text_encoder=sizes.context_length * text + text_blocks + 2 * text,
        image_encoder=image_embeddings + image_blocks + 4 * vision,
        heads=(vision + text) * sizes.embed_dim + (2 if loss == "siglip" else 1),
    )


def _block(width: int, mlp: int) -> int:
    """Return the parameters of a block: four projections and an MLP, with biases, and two layer norms."""
    return 4 * (width**2 + width) + 2 * width * mlp + mlp + width + 4 * width


def count_adapters(sizes: Architecture, config: TrainConfig) -> int:
    """Return the parameters of LoRA's adapters: per layer, rank times its inputs and outputs (train/lora.py)."""
    mlp_ratios = {"vision": sizes.vision_mlp_ratio, "text": 4.0}
    total = 0
    for tower in config.adapted_towers:
        width, layers = getattr(sizes, f"{tower}_width"), getattr(sizes, f"{tower}_layers")
        mlp = round(width * mlp_ratios[tower])
        total += layers * (4 * 2 * width + 2 * (width + mlp)) * (config.lora_rank or 0)
    return total


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


# memory


def estimate(config: TrainConfig, vocab_size: int, schedule: Schedule, world_size: int) -> Budget:
    """Return what a run needs at most: texts count at their full context length, a teacher does not count.

    vocab_size: rows of the token table, also of every student's.
    """
    models = {"": config.model, **{name: student.model for name, student in config.distill.students.items()}}
    architectures = {name: model.architecture() for name, model in models.items()}
    counts = {name: count_parameters(sizes, vocab_size, config.loss) for name, sizes in architectures.items()}
    counts[""] = dataclasses.replace(counts[""], adapters=count_adapters(architectures[""], config))
    student_config = dataclasses.replace(config, lora_rank=None, freeze=())
    memories = [
        _memory(student_config if name else config, model, vocab_size, counts[name], schedule, world_size)
        for name, model in models.items()
    ]
    memory = {}
    for part in memories[0]:
        sizes = [of_model[part] for of_model in memories]
        memory[part] = sum(sizes) if part in PERSISTENT else max(sizes)  # students run one after another
    return Budget(
        parameters=counts.pop(""),
        students=counts,
        flops_per_pair=sum(flops_per_pair(sizes, sizes.context_length) for sizes in architectures.values()),
        samples_seen=schedule.num_steps * schedule.global_batch_size,
        memory={part: size for part, size in memory.items() if size},
    )


def _memory(
    config: TrainConfig, model: ModelConfig, vocab_size: int, counts: Parameters, schedule: Schedule, world_size: int
) -> dict[str, int]:
    """Return the bytes of one model in a process, by what they hold."""
    sizes = model.architecture()
    is_fsdp = config.parallel != "ddp" and world_size > 1
    is_bf16 = config.precision == "bf16"
    pairs = schedule.global_batch_size // world_size
    micro_batch = -(-pairs // config.accum_steps)
    dense = trained = counts.total
    if "vision" in config.freeze:
        trained -= counts.image_encoder
    if "text" in config.freeze:
        trained -= counts.text_encoder + counts.token_table
    if config.lora_rank is not None:
        trained = counts.adapters + counts.heads - 1  # all but the logit scale
    shards = world_size if is_fsdp else 1
    if config.parallel == "hsdp":
        shards = min(world_size, int(os.environ.get("LOCAL_WORLD_SIZE", DEVICES_PER_MACHINE)))
    activations = _activations(config, model, micro_batch)
    gradients = FLOAT * trained // shards
    if is_fsdp and config.accum_steps > 1:
        gradients += FLOAT * trained  # whole, until the last micro-batch reduces them
    if world_size == 1 and config.accum_steps == 1 and not config.distill.students:
        gradients = max(0, gradients - activations)  # they appear as the backward pass frees activations
    # train/loss.py: all ranks' features and their gradients, this rank's, a chunk of logits and one of the teacher's
    columns = (2 if world_size > 1 else 1) * schedule.global_batch_size
    chunk = min(LOSS_CHUNK_ROWS, pairs) * schedule.global_batch_size
    logit_matrices = 2 if config.distill.teacher else 1
    cast_weights = HALF * (dense - counts.token_table) if is_bf16 and not is_fsdp else 0
    return {
        "weights": FLOAT * (dense // shards),
        "moments": MOMENTS * FLOAT * (trained // shards),
        "EMA": FLOAT * dense // shards if config.ema_decay else 0,
        "gradients": gradients,
        "gathered weights": _gathered_weights(config, sizes, dense) if is_fsdp else 0,
        "activations": activations,
        "bfloat16 weights": cast_weights,
        "images": micro_batch * 3 * sizes.image_size**2 * (1 + FLOAT + (HALF if is_bf16 else 0)),
        "loss": FLOAT * sizes.embed_dim * (2 * columns + 4 * pairs) + 2 * FLOAT * chunk * logit_matrices,
    }


def _activations(config: TrainConfig, model: ModelConfig, pairs: int) -> int:
    """Return the bytes that the backward pass reads again: of every block, or of one and each recomputed block's input.

    Where only some blocks are recomputed, the others' activations are freed before the first is recomputed.

    A block keeps its input twice (before each norm), the norms' outputs, queries, keys, values and attention's output,
    and the MLP's hidden values before and after the activation; quick_gelu also keeps its sigmoid.  Under bf16 the
    inputs stay float32, and a norm's output is cast once for each of the projections that read it.  The last block
    keeps its input, the norm's output, keys and values, and all else only for the pooled token (model/towers.py).
    """
    sizes = model.architecture()
    patches = round((sizes.image_size // sizes.patch_size) ** 2 * (1 - config.patch_dropout))
    hidden = 3 if activation(model.preset, sizes.image_size) == "quick_gelu" else 2
    total = transient = 0
    for name, length, width, layers, ratio in (
        ("vision", patches + 1, sizes.vision_width, sizes.vision_layers, sizes.vision_mlp_ratio),
        ("text", sizes.context_length, sizes.text_width, sizes.text_layers, 4.0),
    ):
        values = pairs * length * width
        if config.precision == "bf16":
            block = values * (2 * FLOAT + 8 * HALF + hidden * ratio * HALF)
            last: float = values * (FLOAT + 4 * HALF)
        else:
            block, last = values * FLOAT * (8 + hidden * ratio), values * FLOAT * 4
        last += block / length
        is_frozen, recomputed = name in config.freeze, config.recomputed_blocks(layers)
        if not is_frozen:
            total += 3 * FLOAT * values  # embeddings and the norms before and after the blocks
            total += recomputed * FLOAT * values
            if recomputed < layers:
                total += int((layers - recomputed - 1) * block + last)
        if is_frozen or recomputed == layers:
            transient = max(transient, int(block))
    return total + transient


def _gathered_weights(config: TrainConfig, sizes: Architecture, dense: int) -> int:
    """Return the bytes of weights and gradients that FSDP holds whole for a while.

    Those are two blocks' and all that is in no block.  What is in no block, a dense token table above all, stays whole
    from the forward pass to the end of the backward pass.
    """
    image_block = _block(sizes.vision_width, round(sizes.vision_width * sizes.vision_mlp_ratio))
    text_block = _block(sizes.text_width, 4 * sizes.text_width)
    rest = dense - sizes.vision_layers * image_block - sizes.text_layers * text_block
    # weights and gradients; bf16 gradients are copied to float32 for their reduction
    size = 2 * HALF + FLOAT if config.precision == "bf16" else 2 * FLOAT
    return (BLOCKS_AT_ONCE * max(image_block, text_block) + rest) * size


def checkpoint_bytes(config: TrainConfig, run_dir: Path) -> int:
    """Return the bytes of a checkpoint: weights, moments and EMA of all students; 0 if the vocabulary is unknown."""
    vocab_size = find_vocab_size(config, run_dir)
    if vocab_size is None:
        return 0
    models = [config.model, *(student.model for student in config.distill.students.values())]
    parameters = sum(count_parameters(model.architecture(), vocab_size, config.loss).total for model in models)
    return FLOAT * parameters * (1 + MOMENTS + bool(config.ema_decay))


# the table


def plan(config: TrainConfig, run_dir: Path) -> list[str]:
    """Return the table of --dry-run for the devices of train.hardware, else for this machine.

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
    lines = to_lines(config, vocab_size, schedule, world_size, memory_bytes=memory_bytes, flops_per_s=flops_per_s)
    return [*lines, known_devices_line(config, estimate(config, vocab_size, schedule, world_size))]


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


def changes_that_fit(
    config: TrainConfig, vocab_size: int, schedule: Schedule, world_size: int, memory_bytes: int
) -> list[str]:
    """Return each change of one key with which a run fits into memory; if there is none, all of them together."""
    options: Report = {"activation_checkpointing": True, "parallel": "fsdp"}
    pairs = schedule.global_batch_size // world_size
    divisors = [n for n in range(config.accum_steps + 1, pairs + 1) if pairs % n == 0]
    doubled = next((n for n in divisors if n >= 2 * config.accum_steps), None)
    if doubled is not None:
        options["accum_steps"] = doubled

    def memory_with(changes: Report) -> int:
        changed = dataclasses.replace(config, **changes)
        if changed.problems():
            return DOES_NOT_EXIST
        return estimate(changed, vocab_size, schedule, world_size).memory_bytes

    sizes = {key: memory_with({key: value}) for key, value in options.items()}
    fitting = [key for key in options if sizes[key] <= memory_bytes]
    if fitting:
        return [f"train.{key} = {json.dumps(options[key])} ({_gib(sizes[key])})" for key in fitting]
    together: Report = {}
    for key, value in options.items():
        if memory_with(together | {key: value}) < DOES_NOT_EXIST:
            together[key] = value
    together["accum_steps"] = divisors[-1] if divisors else config.accum_steps
    size = memory_with(together)
    names = ", ".join(f"train.{key} = {json.dumps(value)}" for key, value in together.items())
    return [f"all of {names} ({_gib(size)})"] if size <= memory_bytes else []


def to_lines(
    config: TrainConfig,
    vocab_size: int,
    schedule: Schedule,
    world_size: int,
    *,
    memory_bytes: int | None,
    flops_per_s: float | None,
) -> list[str]:
    """Return the table printed before training.  A run that does not fit is told which changes would make it fit."""
    budget = estimate(config, vocab_size, schedule, world_size)
    total_flops = budget.flops_per_pair * budget.samples_seen
    parts = ", ".join(f"{name} {size / GIB:,.2f}" for name, size in budget.memory.items())
    processes = f"{world_size:,} processes" if world_size > 1 else "one process"
    lines = [_parameters_line("model", budget.parameters)]
    lines += [_parameters_line(f"student {name}", counts) for name, counts in budget.students.items()]
    lines += [
        f"compute     {budget.flops_per_pair / 1e9:,.1f} GFLOP per pair of an image and "
        f"{config.model.architecture().context_length} tokens, {budget.samples_seen:,} pairs: {total_flops:.2e} FLOP",
        f"memory      at most {_gib(budget.memory_bytes)} per process, "
        f"{schedule.global_batch_size // world_size:,} pairs each ({processes}): {parts}",
    ]
    is_gpu = flops_per_s is not None
    usable_bytes = memory_bytes
    if memory_bytes is not None and is_gpu:
        usable_bytes = max(0, int((memory_bytes - OUTSIDE_BYTES) / GAPS))
    reserved = f" ({_gib(round(GAPS * budget.memory_bytes))} reserved, {_gib(OUTSIDE_BYTES)} for CUDA and NCCL)"
    if memory_bytes is None or usable_bytes is None:
        lines.append("device      memory unknown; set train.hardware.memory_gib")
    elif budget.memory_bytes <= usable_bytes:
        lines.append(f"device      {_gib(memory_bytes)}: fits{reserved if is_gpu else ''}")
    else:
        changes = " or with ".join(changes_that_fit(config, vocab_size, schedule, world_size, usable_bytes))
        remedy = f"fits with {changes}" if changes else "no key changes that; use more devices or a smaller model"
        lines.append(f"device      {_gib(memory_bytes)}: WILL NOT FIT{reserved if is_gpu else ''}; {remedy}")
    if world_size >= 2 * GPUS_PER_NODE:
        counts = worlds_that_divide(schedule.global_batch_size, config.accum_steps, GPUS_PER_NODE)
        near = [f"{count:,}" for count in counts if world_size <= 2 * count and count <= 2 * world_size]
        shown = ", ".join(near) or "no count near this one"
        lines.append(f"processes   nodes of {GPUS_PER_NODE} share {schedule.global_batch_size:,} pairs at {shown}")
    if flops_per_s is None and config.hardware.devices is not None:
        lines.append("hours       unknown; set train.hardware.flops_per_s to a device's peak")
    if flops_per_s is not None:  # unknown for the CPU of this machine: the first steps show the speed
        hours = budget.device_hours(flops_per_s, config.hardware.utilisation)
        lines.append(
            f"hours       {hours:,.1f} device hours, {hours / world_size:,.1f} per device, at "
            f"{config.hardware.utilisation:.0%} of {flops_per_s / 1e12:,.0f} TFLOP/s"
        )
    return lines


def known_devices_line(config: TrainConfig, budget: Budget) -> str:
    """Return the hours of all devices together on each of KNOWN_DEVICES."""
    utilisation = config.hardware.utilisation
    rates = {name: PEAK_FLOPS[name][config.precision == "fp32"] for name in KNOWN_DEVICES}
    hours = [f"{name} {hours_text(budget.device_hours(rate, utilisation))}" for name, rate in rates.items()]
    peak = f"{utilisation:.0%} of the peak of {config.precision}"
    return f"elsewhere   all devices together, at {peak}: {', '.join(hours)}"


def hours_text(hours: float) -> str:
    """Return hours as text, in minutes below two hours, in seconds below two minutes."""
    if hours >= 2:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 30 else f"{3600 * hours:.0f} s"


def _parameters_line(name: str, counts: Parameters) -> str:
    sizes = {part: count for part, count in dataclasses.asdict(counts).items() if count}
    parts = [f"{part.replace('_', ' ')} {count / 1e6:,.1f}M" for part, count in sizes.items()]
    return f"{name:<11} {counts.total / 1e6:,.1f}M parameters: {', '.join(parts)}"


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"
