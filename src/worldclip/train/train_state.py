"""The state that a step changes: model, its DDP or FSDP wrapper, optimizer; created fresh or from a checkpoint."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.utils.checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from worldclip.contracts import layout
from worldclip.core.errors import UserError
from worldclip.model.clip import (
    IMAGE_MEAN,
    IMAGE_STD,
    create_empty_model,
    create_model,
    fill_position_ids,
    image_processor,
    model_config,
    pixel_statistics,
)
from worldclip.model.formats.huggingface_folder import write_sentence_modules
from worldclip.model.load import find, load
from worldclip.model.preprocess import describe
from worldclip.model.tokenizer import Tokenizer
from worldclip.train.checkpoint import CheckpointReader
from worldclip.train.checkpoint_writer import LocalTensor, cut_share
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World, barrier, local_tensor, shard_rows, sharding_ranks
from worldclip.train.dual_encoder import SIGLIP_SCALE, TEXT_CHUNKS, DualEncoder
from worldclip.train.lora import FOLDER as ADAPTERS
from worldclip.train.lora import add_adapters, copy_adapters, is_adapter, merged_weights, write_adapters

if TYPE_CHECKING:
    from transformers import MetaClip2Model

MOMENTS = ("exp_avg", "exp_avg_sq")
# of AdamW, as in arXiv:2103.00020 and in all recipes
BETA1 = 0.9
EPS = 1e-6
POSITIONS = "vision_model.embeddings.position_embedding.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """A model in training and everything that changes with it."""

    config: TrainConfig
    world: World
    device: torch.device
    model: DualEncoder
    wrapped: torch.nn.Module
    """The model as DDP or FSDP runs it; on one rank the model itself."""
    optimizer: torch.optim.Optimizer


def create_train_state(
    config: TrainConfig, tokenizer: Tokenizer, world: World, device: torch.device, checkpoint: Path | None
) -> TrainState:
    """Create a model with fresh weights, those of config.initial_weights, or a checkpoint's weights and moments.

    Raises UserError if config.initial_weights is a model of another architecture, tokenizer or normalisation of pixels.
    """
    if checkpoint is None:
        state = _create_fresh(config, tokenizer, world, device)
    else:
        state = _open_checkpoint(config, tokenizer, world, device, checkpoint)
    if device.type == "cpu" and not (config.compile or _is_fsdp(config, world)):
        state.model.multiply_by_onednn()  # copies the weights that are there now; FSDP has copies of its own
    return state


def _create_fresh(config: TrainConfig, tokenizer: Tokenizer, world: World, device: torch.device) -> TrainState:
    """Draw the weights, or take those of config.initial_weights, whole on each rank; then wrap the model."""
    clip = create_model(model_config(config.model, tokenizer), config.seed, config.model.init)
    bias = None
    if config.loss == "siglip":
        with torch.no_grad():
            clip.logit_scale.fill_(SIGLIP_SCALE)
    if config.initial_weights is not None:
        load_initial_weights(clip, config.initial_weights, tokenizer)
        if config.loss == "siglip":
            bias = read_logit_bias(config.initial_weights)
    model = _create_encoder(clip, config, world)
    if model.logit_bias is not None and bias is not None:
        with torch.no_grad():
            model.logit_bias.copy_(bias)
    model.to(device)
    wrapped = _wrap(model, config, world, device)
    return _with_optimizer(model, wrapped, config, world, device)


def _open_checkpoint(
    config: TrainConfig, tokenizer: Tokenizer, world: World, device: torch.device, checkpoint: Path
) -> TrainState:
    """Wrap an empty model, then fill it; under FSDP no rank ever holds the whole model."""
    is_fsdp = _is_fsdp(config, world)
    clip = create_empty_model(model_config(config.model, tokenizer), "meta" if is_fsdp else "cpu")
    model = _create_encoder(clip, config, world)
    if not is_fsdp:
        model.to(device)
    wrapped = _wrap(model, config, world, device)
    if is_fsdp:
        model.to_empty(device=device)
        fill_position_ids(clip)
        mean, std = pixel_statistics(device)
        model.pixel_mean.copy_(mean)
        model.pixel_std.copy_(std)
    state = _with_optimizer(model, wrapped, config, world, device)
    restore(state, CheckpointReader(checkpoint))
    return state


def _with_optimizer(
    model: DualEncoder, wrapped: torch.nn.Module, config: TrainConfig, world: World, device: torch.device
) -> TrainState:
    """Return the state of a model on its device: the optimizer holds the parameters that are there now."""
    return TrainState(
        config=config,
        world=world,
        device=device,
        model=model,
        wrapped=wrapped,
        optimizer=create_optimizer(model, config),
    )


def _is_fsdp(config: TrainConfig, world: World) -> bool:
    return config.parallel != "ddp" and world.size > 1


def _create_encoder(clip: MetaClip2Model, config: TrainConfig, world: World) -> DualEncoder:
    """Return the module of both encoders with adapters, frozen towers and recomputed blocks as the config says."""
    if config.lora_rank is not None:
        add_adapters(clip, config)
    # Under FSDP each chunk of texts would gather the text encoder's weights again.
    model = DualEncoder(
        clip,
        precision=config.precision,
        loss=config.loss,
        text_chunks=1 if _is_fsdp(config, world) else TEXT_CHUNKS,
        world=world if config.accum_steps == 1 else None,  # accumulation gathers features itself
    )
    if "vision" in config.freeze:
        clip.vision_model.requires_grad_(False)
    if "text" in config.freeze:
        clip.text_model.requires_grad_(False)
    clip.train()
    if config.activation_checkpointing:
        recompute = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
        for tower in (clip.vision_model, clip.text_model):
            # the first blocks: when their turn comes, the backward pass has freed the activations of all later ones
            blocks: Any = tower.encoder.layers
            for block in blocks[: config.recomputed_blocks(len(blocks))]:
                block.gradient_checkpointing = True
                block._gradient_checkpointing_func = recompute
    if config.compile:
        model.compile_towers()
    return model


def create_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW without weight decay for one-dimensional parameters and scalars.  Each step sets its groups' lr."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_sharded = any(isinstance(parameter, DTensor) for parameter in trained)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim == 1 or (p.ndim < 1 and not is_sharded)], "weight_decay": 0.0},
    ]
    if is_sharded:  # the scalars are plain tensors, and fused AdamW may not mix them with DTensors in one group
        groups.append({"params": [p for p in trained if p.ndim < 1], "weight_decay": 0.0})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],  # under LoRA every parameter is a matrix
        lr=config.lr,
        betas=(BETA1, config.beta2),
        eps=EPS,
        fused=trained[0].device.type != "mps",
    )


def load_initial_weights(model: MetaClip2Model, source: str, tokenizer: Tokenizer) -> None:
    """Fill `model` with the weights of a run, a Hugging Face folder or a hub id, whose image size may differ.

    tokenizer: the run's.  Raises UserError if shapes differ, or the heads or the activation, which shapes do not show;
    if the source's tokenizer has other pieces: rows of its token table would stand for other pieces here; and if the
    source normalises pixels in another way than training does.
    """
    clip = load(source, device="cpu")
    other: Any = clip.model
    weights = other.state_dict()
    own_weights = model.state_dict()
    weights[POSITIONS] = resize_positions(weights[POSITIONS], len(own_weights[POSITIONS]))
    problems = []
    for name, own_weight in own_weights.items():
        shape = tuple(weights[name].shape) if name in weights else "missing"
        own_shape = tuple(own_weight.shape)
        if shape != own_shape:
            problems.append(f"{name} is {shape} there, {own_shape} here")
    for encoder in ("vision_config", "text_config"):
        for key in ("hidden_act", "num_attention_heads"):
            value = getattr(getattr(other.config, encoder), key)
            own_value = getattr(getattr(model.config, encoder), key)
            if value != own_value:
                problems.append(f"{encoder}.{key} is {value} there, {own_value} here")
    if problems:
        raise UserError(
            f"train.initial_weights = {source!r}: its architecture differs ({'; '.join(problems[:3])}); set "
            "train.model and train.tokenizer.path to that model's"
        )
    if clip.tokenizer.hf.get_vocab() != tokenizer.hf.get_vocab():
        raise UserError(
            f"train.initial_weights = {source!r}: its token table is that of another tokenizer; set "
            f"train.tokenizer.path = {clip.tokenizer.hf.name_or_path!r}"
        )
    facts = describe(clip.processor, applies_exif=False)
    for key, values in (("mean", IMAGE_MEAN), ("std", IMAGE_STD)):
        ours = [round(value, 4) for value in values]
        if facts[key] != ours:
            raise UserError(
                f"train.initial_weights = {source!r}: it normalises pixels with {key} {facts[key]}, and training with "
                f"{ours}; choose a model that was trained with these numbers"
            )
    model.load_state_dict(weights)


def resize_positions(positions_PW: torch.Tensor, num_positions: int) -> torch.Tensor:
    """Interpolate the positions of an image tower of width W, (P, W), to (num_positions, W).

    Row 0, of the class token, stays.  The others are a square of n rows by n, and are interpolated by antialiased
    bicubic weights, as open_clip does when a model's image size changes.
    """
    if len(positions_PW) == num_positions:
        return positions_PW
    side = math.isqrt(len(positions_PW) - 1)
    new_side = math.isqrt(num_positions - 1)
    square_WNN = positions_PW[1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized_WMM = torch.nn.functional.interpolate(
        square_WNN, size=(new_side, new_side), mode="bicubic", antialias=True, align_corners=False
    )
    patches_MW = resized_WMM.permute(0, 2, 3, 1).reshape(new_side * new_side, -1)
    return torch.cat([positions_PW[:1].float(), patches_MW])


def read_logit_bias(source: str) -> torch.Tensor | None:
    """Return SigLIP's bias of a run or a checkpoint; None of any other model: model.safetensors does not hold it."""
    folder = find(source).path
    if not layout.trainer_state(folder).exists():
        return None
    reader = CheckpointReader(folder)
    if "weights.logit_bias" not in reader:
        return None
    return reader.read("weights.logit_bias")


def _wrap(model: DualEncoder, config: TrainConfig, world: World, device: torch.device) -> torch.nn.Module:
    """Wrap the model in DDP or FSDP2 (HSDP: on a mesh of machines and their ranks).  The scalars are left alone.

    FSDP2 cannot shard a tensor without dimensions, and the step averages their gradients with the loss anyway.
    """
    barrier(world)  # drawing weights takes some ranks minutes longer, and wrapping exchanges tensors
    if world.size == 1:
        return model
    scalars = model.scalars()
    if config.parallel == "ddp":
        ddp: Any = torch.nn.parallel.DistributedDataParallel
        buffers = (name for name, _ in model.named_buffers())  # constants, equal on all ranks
        ddp._set_params_and_buffers_to_ignore_for_model(model, [*_names_in_ddp(model, scalars), *buffers])
        device_ids = [device.index] if device.type == "cuda" else None
        wrapped: torch.nn.Module = ddp(model, device_ids=device_ids, gradient_as_bucket_view=True)
        return wrapped
    if config.parallel == "hsdp":
        mesh = init_device_mesh(device.type, (world.num_machines, world.local_size), mesh_dim_names=("machine", "rank"))
    else:
        mesh = init_device_mesh(device.type, (world.size,))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if config.precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for encoder in (model.clip.vision_model, model.clip.text_model):
        for block in encoder.encoder.layers:
            fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=set(scalars))
    return model


def _names_in_ddp(model: torch.nn.Module, parameters: Iterable[torch.nn.Parameter]) -> list[str]:
    """Return all names by which DDP looks up whether it ignores a parameter.

    Its reducer joins the names of module and parameter by a dot, also where the module is the model itself, whose name
    is empty (`.logit_bias`); the rest of DDP reads named_parameters (`logit_bias`).  The reducer waits for the gradient
    of every parameter that it does not ignore, and averages nothing before.
    """
    ignored = set(parameters)
    names = [name for name, parameter in model.named_parameters() if parameter in ignored]
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in ignored:
                names.append(f"{module_name}.{name}")
    return list(dict.fromkeys(names))


# to and from a checkpoint


def folder_writer(state: TrainState, tokenizer: Tokenizer) -> Callable[[Path], None]:
    """Return a function that another thread calls to write all of a checkpoint's folder but weights and moments.

    Those are configuration, tokenizer, preprocessing, and with LoRA the present adapters.
    """
    adapters = copy_adapters(state.model.clip) if state.config.lora_rank is not None else None

    def write(folder: Path) -> None:
        config = copy.deepcopy(state.model.clip.config)
        config.architectures = ["MetaClip2Model"]
        config.dtype = "float32"
        config.save_pretrained(folder)
        tokenizer.save(folder)
        image_processor(state.config.model.architecture().image_size).save_pretrained(folder)
        write_sentence_modules(folder)
        if adapters is not None:
            write_adapters(folder / ADAPTERS, adapters, state.config)

    return write


def copy_to_cpu(state: TrainState) -> dict[str, LocalTensor]:
    """Return copies of this rank's share of weights and moments, which later steps do not change.

    Names: weights.<parameter>, exp_avg.<parameter>, exp_avg_sq.<parameter>.  What several ranks hold is cut among them,
    so that each row is copied once: all under DDP, under HSDP the shards, of which every machine has a copy.

    With LoRA: weights.<parameter> are merged, base.<parameter> what the adapters are added to, adapter.<parameter> the
    adapters.
    """
    world = state.world
    sharding = sharding_ranks(state.config.parallel, world)
    replicated: dict[str, LocalTensor] = {}
    sharded: dict[str, LocalTensor] = {}
    merged = dict(merged_weights(state.model.clip))
    for name, parameter in state.model.checkpoint_parameters().items():
        kinds = {"adapter" if is_adapter(name) else "weights": parameter.detach()}
        if name in merged:
            kinds = {"weights": merged[name], "base": parameter.detach()}
        if parameter in state.optimizer.state:
            kinds |= {moment: state.optimizer.state[parameter][moment] for moment in MOMENTS}
        tensors = replicated
        first_row = 0
        if isinstance(parameter, DTensor):
            tensors = sharded
            first_row, _ = shard_rows(len(parameter), sharding)
        for kind, tensor in kinds.items():
            tensors[f"{kind}.{name}"] = LocalTensor(local_tensor(tensor), tuple(parameter.shape), first_row)
    share = cut_share(replicated, world.rank, world.size)
    share |= cut_share(sharded, world.rank // sharding.size, world.size // sharding.size)
    return {name: local.copy() for name, local in share.items() if local.num_rows}


@torch.no_grad()
def restore(state: TrainState, reader: CheckpointReader) -> None:
    """Fill weights and moments, whatever the world size that wrote them.  Every rank must call this.

    Each tensor or row is read from the disk by the ranks that need it.  Under FSDP a rank reads its own rows; under
    HSDP each machine reads them once.  Under DDP rank 0 reads for all, and sends what it has read.

    A parameter with an adapter gets what the adapter is added to, not the sum.  The optimizer gets no moments from a
    checkpoint before the first update.
    """
    world = state.world
    parameters = state.model.checkpoint_parameters()

    def fill(target: torch.Tensor, kind: str, name: str) -> None:
        """Fill a tensor of a parameter's shape, or this rank's rows of one."""
        parameter = parameters[name]
        if isinstance(parameter, DTensor):
            rows = slice(*shard_rows(len(parameter), sharding_ranks(state.config.parallel, world)))
            local_tensor(target).copy_(reader.read(f"{kind}.{name}", rows))
            return
        if world.is_first:
            target.copy_(reader.read(f"{kind}.{name}"))
        if world.size > 1:
            dist.broadcast(target, src=0)

    is_fused = state.optimizer.defaults["fused"]
    for name, parameter in parameters.items():
        kind = next((kind for kind in ("adapter", "base") if f"{kind}.{name}" in reader), "weights")
        fill(parameter.detach(), kind, name)
        if parameter.requires_grad and f"exp_avg.{name}" in reader:
            moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            for moment, tensor in moments.items():
                fill(tensor, moment, name)
            # fused AdamW keeps its step count on the parameter's device, the others on the CPU
            step_device = parameter.device if is_fused else torch.device("cpu")
            step = torch.tensor(float(reader.updates), device=step_device)
            state.optimizer.state[parameter] = {"step": step, **moments}
