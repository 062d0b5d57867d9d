"""What a run will need, before it begins: parameters, operations, memory of each process, hours.

Arithmetic alone, from the recipe: no model is made and no package of training is needed.  Memory is what tensors take
at the fullest moment; a GPU's own context and the allocator's gaps come on top, about a tenth.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from worldclip.core.errors import UserError
from worldclip.model.config import Architecture, ModelConfig
from worldclip.model.published import TOKENIZERS, activation
from worldclip.train.config import LOSS_CHUNK_ROWS, TrainConfig
from worldclip.train.cost import device_memory_bytes, flops_per_pair, peak_flops
from worldclip.train.scale import Schedule, check_batch
from worldclip.train.scale import schedule as plan_schedule

if TYPE_CHECKING:
    from worldclip.config import Recipe

GIB = 2**30
FLOAT, HALF = 4, 2  # bytes
MOMENTS = 2  # AdamW's, float32 each
BLOCKS_AT_ONCE = 2  # whose weights FSDP gathers: the one that runs and the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Numbers of a model's part."""

    token_table: int
    text_tower: int
    """Without its table of tokens."""
    image_tower: int
    heads: int
    """Projections, logit scale, and SigLIP's bias."""

    @property
    def total(self) -> int:
        return self.token_table + self.text_tower + self.image_tower + self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A run's needs, from `estimate`."""

    parameters: Parameters
    students: dict[str, Parameters] = field(default_factory=dict)
    flops_per_pair: float
    samples_seen: int
    global_batch_size: int
    world_size: int
    memory: dict[str, int]
    """Bytes of a process by what they are for."""

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.values())

    def device_hours(self, flops_per_s: float, utilisation: float) -> float:
        """Hours of all devices together at a share `utilisation` of their peak."""
        return self.flops_per_pair * self.samples_seen / (flops_per_s * utilisation) / 3600


def count_parameters(sizes: Architecture, vocab_size: int, loss: str = "contrastive") -> Parameters:
    """Of a MetaClip2Model of these sizes, exactly."""
    vision, text = sizes.vision_width, sizes.text_width
    patches = (sizes.image_size // sizes.patch_size) ** 2
    embeddings = 3 * sizes.patch_size**2 * vision + vision + (patches + 1) * vision
    image_blocks = sizes.vision_layers * _block(vision, round(vision * sizes.vision_mlp_ratio))
    text_blocks = sizes.text_layers * _block(text, 4 * text)
    return Parameters(
        token_table=vocab_size * text,
        text_tower=sizes.context_length * text + text_blocks + 2 * text,
        image_tower=embeddings + image_blocks + 4 * vision,
        heads=(vision + text) * sizes.embed_dim + (2 if loss == "siglip" else 1),
    )


def _block(width: int, mlp: int) -> int:
    """Four projections with biases, an MLP with biases, two layer norms."""
    return 4 * (width**2 + width) + 2 * width * mlp + mlp + width + 4 * width


def estimate(config: TrainConfig, vocab_size: int, schedule: Schedule, world_size: int) -> Budget:
    """The needs of a run.  Texts are counted at their full context length, so that this is the most they can take.

    vocab_size: rows of the token table, of every student's.  A teacher's weights are not counted.
    """
    models = {"": config.model, **{name: student.model for name, student in config.distill.students.items()}}
    per_model = {name: _memory(config, model, vocab_size, schedule, world_size) for name, model in models.items()}
    steady = {"weights", "moments", "slow copy", "gradients"}  # the students run one after another
    memory = {
        part: (sum if part in steady else max)(found[part] for found in per_model.values()) for part in per_model[""]
    }
    counts = {name: count_parameters(model.architecture(), vocab_size, config.loss) for name, model in models.items()}
    flops = sum(flops_per_pair(model.architecture(), model.architecture().context_length) for model in models.values())
    return Budget(
        parameters=counts.pop(""),
        students=counts,
        flops_per_pair=flops,
        samples_seen=schedule.num_steps * schedule.global_batch_size,
        global_batch_size=schedule.global_batch_size,
        world_size=world_size,
        memory={part: size for part, size in memory.items() if size},
    )


def _memory(
    config: TrainConfig, model: ModelConfig, vocab_size: int, schedule: Schedule, world_size: int
) -> dict[str, int]:
    sizes = model.architecture()
    counts = count_parameters(sizes, vocab_size, config.loss)
    is_fsdp = config.parallel == "fsdp" and world_size > 1
    pairs = schedule.global_batch_size // world_size
    part = -(-pairs // config.accum_steps)
    has_rows = config.token_table == "rows"
    frozen = sum(getattr(counts, {"vision": "image_tower", "text": "text_tower"}[name]) for name in config.freeze)
    if "text" in config.freeze:
        frozen += counts.token_table
    dense = counts.total - (counts.token_table if has_rows else 0)
    trained = dense - frozen
    share = world_size if is_fsdp else 1
    row_share = -(-vocab_size // world_size) * sizes.text_width if has_rows else 0
    touched = min(vocab_size, pairs * sizes.context_length) * sizes.text_width if has_rows else 0
    kept = _activations(config, model, part)
    gradients = FLOAT * trained // share + 2 * FLOAT * touched
    grow_as_others_go = world_size == 1 and config.accum_steps == 1 and not config.distill.students
    return {
        "weights": FLOAT * (dense // share + row_share),
        "moments": MOMENTS * FLOAT * (trained // share + row_share) + (8 * row_share // sizes.text_width),
        "slow copy": FLOAT * dense // share if config.ema_decay else 0,
        "gradients": max(0, gradients - kept) if grow_as_others_go else gradients,
        "gathered weights": _gathered(config, sizes, counts, dense) if is_fsdp else 0,
        "activations": kept,
        "bfloat16 weights": HALF * (dense - (0 if has_rows else counts.token_table))
        if config.precision == "bf16" and not is_fsdp
        else 0,
        "images": part * 3 * sizes.image_size**2 * (1 + FLOAT + (HALF if config.precision == "bf16" else 0)),
        "loss": _loss(config, sizes.embed_dim, pairs, schedule.global_batch_size),
    }


def _activations(config: TrainConfig, model: ModelConfig, pairs: int) -> int:
    """What the backward pass reads again: of every block, or of one and each block's input.

    A block keeps its input twice (before each norm), the norms' outputs, queries, keys, values and attention's output,
    and the MLP's middle before and behind the activation; quick_gelu keeps its sigmoid too.  Under bf16 the inputs stay
    float32, and a norm's output is cast once for each of the projections that read it.
    """
    sizes = model.architecture()
    patches = round((sizes.image_size // sizes.patch_size) ** 2 * (1 - config.patch_dropout))
    middles = 3 if activation(model.preset, sizes.image_size) == "quick_gelu" else 2
    total = passing = 0
    for name, length, width, layers, ratio in (
        ("vision", patches + 1, sizes.vision_width, sizes.vision_layers, sizes.vision_mlp_ratio),
        ("text", sizes.context_length, sizes.text_width, sizes.text_layers, 4.0),
    ):
        values = pairs * length * width
        if config.precision == "bf16":
            block = values * (2 * FLOAT + 8 * HALF + middles * ratio * HALF)
        else:
            block = values * FLOAT * (8 + middles * ratio)
        is_frozen = name in config.freeze
        if not is_frozen:
            total += 3 * FLOAT * values  # embeddings and the norms around the blocks
            total += int(layers * (FLOAT * values if config.activation_checkpointing else block))
        if is_frozen or config.activation_checkpointing:
            passing = max(passing, int(block))
    return total + passing


def _gathered(config: TrainConfig, sizes: Architecture, counts: Parameters, dense: int) -> int:
    """FSDP: the weights and gradients that are whole for a while: two blocks', and all that is in no block.

    What is in no block, a dense token table above all, stays whole from the forward pass to the end of the backward.
    """
    size = HALF if config.precision == "bf16" else FLOAT
    image_block = _block(sizes.vision_width, round(sizes.vision_width * sizes.vision_mlp_ratio))
    text_block = _block(sizes.text_width, 4 * sizes.text_width)
    rest = dense - sizes.vision_layers * image_block - sizes.text_layers * text_block
    reduced = FLOAT if config.precision == "bf16" else 0  # gradients are summed in float32
    return (BLOCKS_AT_ONCE * max(image_block, text_block) + rest) * (2 * size + reduced)


def _loss(config: TrainConfig, embed_dim: int, pairs: int, batch: int) -> int:
    """Features of the global batch and their gradients, and a chunk of logits (train/loss.py)."""
    features = 2 * FLOAT * embed_dim * (batch + (batch if batch > pairs else 0))
    parts = 2 * 2 * FLOAT * embed_dim * pairs  # features and their gradients
    return features + parts + 2 * FLOAT * min(LOSS_CHUNK_ROWS, pairs) * batch * (2 if config.distill.teacher else 1)


def plan(recipe: Recipe, run_dir: Path) -> list[str]:
    """The table for --dry-run: of a run on what train.hardware states, else on this machine.

    Raises UserError where the devices cannot have equal parts of the batch.
    """
    config = recipe.train
    world_size = config.hardware.devices or int(os.environ.get("WORLD_SIZE", "1"))
    vocab_size = find_vocab_size(config, run_dir)
    if vocab_size is None:
        return [f"the tokenizer {config.tokenizer.path!r} is not here, so that the model's size is not known yet"]
    if config.scale.is_set and config.scale.english_fraction is None and not (run_dir / "curate/report.json").exists():
        return ["train.scale takes the share of English from curate's report, so that the batch is not known yet"]
    found = plan_schedule(config, run_dir, world_size)
    check_batch(found.global_batch_size, world_size, config.accum_steps)
    memory_bytes, flops_per_s = device_here(config)
    return to_lines(config, vocab_size, found, world_size, memory_bytes=memory_bytes, flops_per_s=flops_per_s)


def find_vocab_size(config: TrainConfig, run_dir: Path) -> int | None:
    """Rows of the token table, the run's own tokenizer first; None where the tokenizer is elsewhere."""
    source = config.tokenizer.path
    if (run_dir / "train" / "tokenizer").exists():
        source = str(run_dir / "train" / "tokenizer")
    if source is None:
        return config.tokenizer.vocab_size
    known = next((row.vocab_size for row in TOKENIZERS if row.hub_id == source), None)
    if known is not None:
        return known
    from worldclip.model.tokenizer import load_tokenizer

    try:
        return load_tokenizer(source, config.model.architecture().context_length).vocab_size
    except (ImportError, UserError):
        return None


def device_here(config: TrainConfig) -> tuple[int | None, float | None]:
    """(bytes of memory, peak operations a second) of a device: what train.hardware states, else of this machine's."""
    stated = config.hardware
    memory = None if stated.memory_gib is None else round(stated.memory_gib * GIB)
    if memory is not None and stated.flops_per_s is not None:
        return memory, stated.flops_per_s
    try:
        from worldclip.model.clip import pick_device

        device = pick_device(config.device)
    except (ImportError, UserError):  # planned for another machine
        return memory, stated.flops_per_s
    if memory is None:
        memory = device_memory_bytes(device)
    return memory, stated.flops_per_s or peak_flops(device, config.precision)


def changes_that_fit(
    config: TrainConfig, vocab_size: int, schedule: Schedule, world_size: int, memory_bytes: int
) -> list[str]:
    """For a run that does not fit: each change of one key that does, then all of them, with the memory it takes."""
    single: dict[str, dict[str, object]] = {
        "activation_checkpointing = true": {"activation_checkpointing": True},
        'token_table = "rows"': {"token_table": "rows"},
        'parallel = "fsdp"': {"parallel": "fsdp"},
    }
    pairs = schedule.global_batch_size // world_size
    steps = [n for n in range(config.accum_steps + 1, pairs + 1) if pairs % n == 0]
    halved = next((n for n in steps if n >= 2 * config.accum_steps), None)
    if halved is not None:
        single[f"accum_steps = {halved}"] = {"accum_steps": halved}

    def needs(changes: dict[str, object]) -> int:
        changed = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
        if changed.problems():
            return 2**62
        return estimate(changed, vocab_size, schedule, world_size).memory_bytes

    found = [
        f"train.{name} ({_gib(size)})" for name, changes in single.items() if (size := needs(changes)) <= memory_bytes
    ]
    if found:
        return found
    together: dict[str, object] = {}
    for changes in single.values():
        if needs({**together, **changes}) < 2**62:
            together |= changes
    together["accum_steps"] = steps[-1] if steps else config.accum_steps
    names = ", ".join(f"train.{key} = {_toml(value)}" for key, value in together.items())
    size = needs(together)
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
    """The table that is printed before training; what will not fit is said in capitals, with what would."""
    budget = estimate(config, vocab_size, schedule, world_size)
    pairs = schedule.global_batch_size // world_size
    lines = [_parameters_line("model", budget.parameters)]
    lines += [_parameters_line(f"student {name}", counts) for name, counts in budget.students.items()]
    context = config.model.architecture().context_length
    lines.append(
        f"operations  {budget.flops_per_pair / 1e9:,.1f} GFLOP a pair of an image and {context} tokens, "
        f"{budget.samples_seen:,} pairs: {budget.flops_per_pair * budget.samples_seen:.2e} FLOP"
    )
    parts = ", ".join(f"{name} {size / GIB:,.2f}" for name, size in budget.memory.items())
    where = f"{world_size:,} processes" if world_size > 1 else "one process"
    lines.append(f"memory      {_gib(budget.memory_bytes)} a process at most, {pairs:,} pairs each ({where}): {parts}")
    if memory_bytes is None:
        lines.append("device      its memory is not known here; state it in train.hardware.memory_gib")
    elif budget.memory_bytes <= memory_bytes:
        lines.append(f"device      {_gib(memory_bytes)}: fits")
    else:
        fitting = changes_that_fit(config, vocab_size, schedule, world_size, memory_bytes)
        remedy = (
            "it would with " + ", or ".join(fitting)
            if fitting
            else "no key changes that: more devices, or a smaller model"
        )
        lines.append(f"device      {_gib(memory_bytes)}: WILL NOT FIT; {remedy}")
    if flops_per_s is None:
        lines.append("hours       not known: state a device's peak in train.hardware.flops_per_s")
    else:
        hours = budget.device_hours(flops_per_s, config.hardware.utilisation)
        lines.append(
            f"hours       {hours:,.1f} device hours, {hours / world_size:,.1f} of each, at "
            f"{config.hardware.utilisation:.0%} of {flops_per_s / 1e12:,.0f} TFLOP/s"
        )
    return lines


def _parameters_line(name: str, counts: Parameters) -> str:
    parts = ", ".join(
        f"{part.replace('_', ' ')} {count / 1e6:,.1f}M" for part, count in dataclasses.asdict(counts).items()
    )
    return f"{name:<11} {counts.total / 1e6:,.1f}M parameters: {parts}"


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
