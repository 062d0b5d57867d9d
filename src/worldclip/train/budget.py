"""The needs of a training, before it starts: parameters, FLOPs, memory of each process, bytes of a checkpoint.

Only arithmetic on the recipe, without torch; train/speed.py measures time.  Parameters and FLOPs are exact.  Memory is
rough: the tensors of the optimizer, the activations, and a constant for torch and its libraries.
"""

from __future__ import annotations

from pathlib import Path

from worldclip.contracts import layout
from worldclip.core.errors import UserError
from worldclip.model.config import Architecture
from worldclip.model.published import TOKENIZERS
from worldclip.train.config import TrainConfig
from worldclip.train.launch import num_ranks
from worldclip.train.schedule import Schedule, check_batch, plan_schedule

GIB = 2**30
FLOAT = 4  # bytes
MOMENTS = 2  # AdamW's, float32 each
BACKWARD = 2  # a backward pass multiplies twice as often as the forward pass: for the inputs and for the weights
# Bytes that a block keeps per token and channel for the backward pass.  Both norms' inputs and outputs, queries, keys,
# values and attention's output are one number each, the MLP's hidden values 2 x 4.  Under bf16 the norms' inputs stay
# float32, and a norm's output is cast once for each of the projections that read it.
BLOCK_BYTES = 64
BLOCK_BYTES_BF16 = 40
RANKS_PER_MACHINE = 8  # HSDP shards among them; the usual number of GPUs
# Of torch, transformers, and the images that the loader keeps: a process of the demo, whose tensors take 0.2 GiB, holds
# 2.2 GB (docs/fine_tune.md).
TORCH_BYTES = 2 * GIB


def count_parameters(sizes: Architecture, vocab_size: int, loss: str = "contrastive") -> dict[str, int]:
    """Return the exact numbers of a MetaClip2Model of these sizes, by part."""
    vision = sizes.vision_width
    text = sizes.text_width
    patches = (sizes.image_size // sizes.patch_size) ** 2
    image_embeddings = 3 * sizes.patch_size**2 * vision + vision + (patches + 1) * vision  # patches, class, positions
    image_blocks = sizes.vision_layers * _block(vision, _vision_mlp(sizes))
    text_blocks = sizes.text_layers * _block(text, 4 * text)
    num_scalars = 2 if loss == "siglip" else 1  # logit scale, SigLIP's bias
    return {
        "token table": vocab_size * text,
        "text encoder": sizes.context_length * text + text_blocks + 2 * text,
        "image encoder": image_embeddings + image_blocks + 4 * vision,
        "heads": (vision + text) * sizes.embed_dim + num_scalars,
    }


def _vision_mlp(sizes: Architecture) -> int:
    return round(sizes.vision_width * sizes.vision_mlp_ratio)


def _block(width: int, mlp: int) -> int:
    """Return the parameters of a block: four projections and an MLP, with biases, and two layer norms."""
    return 4 * (width**2 + width) + 2 * width * mlp + mlp + width + 4 * width


def count_trained(config: TrainConfig, vocab_size: int) -> int:
    """Return how many parameters learn: all but frozen towers; under LoRA the adapters and the projections."""
    counts = count_parameters(config.model.architecture(), vocab_size, config.loss)
    if config.lora_rank is not None:
        adapters, _ = count_adapters(config)
        sizes = config.model.architecture()
        return adapters + (sizes.vision_width + sizes.text_width) * sizes.embed_dim
    frozen = {"vision": ("image encoder",), "text": ("text encoder", "token table")}
    for tower in config.freeze:
        for part in frozen[tower]:
            del counts[part]
    return sum(counts.values())


def count_adapters(config: TrainConfig) -> tuple[int, int]:
    """Return the parameters of LoRA's adapters, and those of the matrices that they are added to; 0 without LoRA."""
    sizes = config.model.architecture()
    towers = {
        "vision": (sizes.vision_layers, sizes.vision_width, _vision_mlp(sizes)),
        "text": (sizes.text_layers, sizes.text_width, 4 * sizes.text_width),
    }
    adapters = 0
    adapted = 0
    for tower in config.adapted_towers:
        layers, width, mlp = towers[tower]
        adapters += layers * (config.lora_rank or 0) * (4 * 2 * width + 2 * (width + mlp))  # attention's four, the MLP
        adapted += layers * (4 * width**2 + 2 * width * mlp)
    return adapters, adapted


def flops_per_pair(sizes: Architecture, text_length: float, patches_seen: int) -> float:
    """Return the FLOPs of forward and backward pass for an image and a text of text_length tokens.

    patches_seen: patches of the image that are computed, TrainConfig.patches_seen.  All tokens of the last block are
    counted, as utilisation is commonly stated; model/towers.py computes one of them.
    """
    patches = (sizes.image_size // sizes.patch_size) ** 2
    image = _encoder_flops(sizes.vision_width, sizes.vision_layers, sizes.vision_mlp_ratio, patches_seen + 1)
    image += 2 * patches * 3 * sizes.patch_size**2 * sizes.vision_width + 2 * sizes.vision_width * sizes.embed_dim
    text = _encoder_flops(sizes.text_width, sizes.text_layers, 4, text_length) + 2 * sizes.text_width * sizes.embed_dim
    return (1 + BACKWARD) * (image + text)


def _encoder_flops(width: int, layers: int, mlp_ratio: float, length: float) -> float:
    """Return the FLOPs of one sequence's forward pass: projections, MLP and attention, two per multiplication."""
    matrices = (4 + 2 * mlp_ratio) * width**2 * length
    attention = 2 * width * length**2
    return 2 * layers * (matrices + attention)


def memory_bytes(config: TrainConfig, vocab_size: int, batch_size: int, world_size: int) -> tuple[int, int]:
    """Return (weights, gradients and moments; activations) of a process, in bytes.

    Texts count at their full context length, activations as if every tower learned; a teacher does not count.
    """
    sizes = config.model.architecture()
    counts = count_parameters(sizes, vocab_size, config.loss)
    adapters, _ = count_adapters(config)
    num_held = sum(counts.values()) + adapters + (1 + MOMENTS) * count_trained(config, vocab_size)
    shards = {"ddp": 1, "fsdp": world_size, "hsdp": min(world_size, RANKS_PER_MACHINE)}[config.parallel]
    state_bytes = FLOAT * num_held // shards
    if shards > 1:
        state_bytes += 2 * FLOAT * counts["token table"]  # whole in each step, with its gradient
    pairs = -(-batch_size // (world_size * config.accum_steps))
    block_bytes = BLOCK_BYTES_BF16 if config.precision == "bf16" else BLOCK_BYTES
    # what the backward pass reads again: each block's activations, or its input if it is recomputed
    activation_bytes = 0
    for layers, values in (
        (sizes.vision_layers, pairs * (config.patches_seen + 1) * sizes.vision_width),
        (sizes.text_layers, pairs * sizes.context_length * sizes.text_width),
    ):
        recomputed = config.recomputed_blocks(layers)
        stored = layers - recomputed + (recomputed > 0)  # one recomputed block at a time
        activation_bytes += values * (stored * block_bytes + recomputed * FLOAT)
    return state_bytes, activation_bytes


def checkpoint_bytes(config: TrainConfig, vocab_size: int) -> int:
    """Return the bytes of a checkpoint's tensors: weights, and the moments of what learns.

    With LoRA trainer/ also has the adapters and what they are added to, and adapters/ again all that learns.
    """
    counts = count_parameters(config.model.architecture(), vocab_size, config.loss)
    trained = count_trained(config, vocab_size)
    num_stored = sum(counts.values()) + MOMENTS * trained
    if config.lora_rank is not None:
        num_stored += sum(count_adapters(config)) + trained
    return FLOAT * num_stored


def plan(config: TrainConfig, run_dir: Path) -> list[str]:
    """Return the lines of --dry-run; config.precision is settled.

    Raises UserError if the processes cannot share the batch equally.
    """
    vocab_size = find_vocab_size(config, run_dir)
    if vocab_size is None:
        return [f"model size unknown: the tokenizer {config.tokenizer.path!r} is not on this machine"]
    if config.scale.needs_report and not layout.stage_report(run_dir, "curate").exists():
        return ["batch size unknown: train.scale reads the share of English from the report of curate"]
    schedule = plan_schedule(config, run_dir, num_ranks())
    check_batch(schedule.global_batch_size, num_ranks(), config.accum_steps)
    lines = to_lines(config, vocab_size, schedule, num_ranks())
    if config.tokenizer.path is None and not layout.tokenizer(run_dir).exists():
        lines[0] += f"; at most, as the tokenizer that is trained first has up to {vocab_size:,} tokens"
    return lines


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


def to_lines(config: TrainConfig, vocab_size: int, schedule: Schedule, world_size: int) -> list[str]:
    """Return the lines printed before training: parameters, FLOPs, memory."""
    sizes = config.model.architecture()
    counts = count_parameters(sizes, vocab_size, config.loss)
    parts = ", ".join(f"{part} {count / 1e6:,.1f}M" for part, count in counts.items())
    flops = flops_per_pair(sizes, sizes.context_length, config.patches_seen)
    batch_size = schedule.global_batch_size
    samples = schedule.num_steps * batch_size
    state, activations = memory_bytes(config, vocab_size, batch_size, world_size)
    gib = (state + activations + TORCH_BYTES) / GIB
    pairs = batch_size // world_size
    return [
        f"model       {sum(counts.values()) / 1e6:,.1f}M parameters: {parts}",
        f"compute     {flops / 1e9:,.1f} GFLOP per pair of an image and {sizes.context_length} tokens, "
        f"{samples:,} pairs: {flops * samples:.2e} FLOP",
        f"memory      about {gib:,.1f} GiB per process ({world_size:,} in all), {pairs:,} pairs each: "
        f"{state / GIB:,.1f} GiB weights, gradients and moments, {activations / GIB:,.1f} GiB activations, "
        f"{TORCH_BYTES / GIB:,.1f} GiB torch",
    ]
