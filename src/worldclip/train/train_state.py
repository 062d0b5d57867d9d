"""The state that a step changes: model, its DDP or FSDP wrapper, optimizer; created fresh or from a checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.utils.checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from worldclip.model.clip import create_empty_model, create_model, fill_position_ids, model_config, pixel_statistics
from worldclip.model.tokenizer import Tokenizer
from worldclip.train.checkpoint import CheckpointReader
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World, barrier, local_tensor, shard_rows, sharding_ranks
from worldclip.train.dual_encoder import SIGLIP_SCALE, TEXT_CHUNKS, DualEncoder
from worldclip.train.initial_weights import load_initial_weights, read_logit_bias
from worldclip.train.lora import add_adapters

if TYPE_CHECKING:
    from transformers import MetaClip2Model

MOMENTS = ("exp_avg", "exp_avg_sq")
# of AdamW, as in arXiv:2103.00020 and in all recipes
BETA1 = 0.9
EPS = 1e-6


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
        model, wrapped = _create_fresh(config, tokenizer, world, device)
    else:
        model, wrapped = _create_empty(config, tokenizer, world, device)
    optimizer = create_optimizer(model, config)  # holds the parameters that are there now: FSDP has replaced some
    state = TrainState(config=config, world=world, device=device, model=model, wrapped=wrapped, optimizer=optimizer)
    if checkpoint is not None:
        restore(state, CheckpointReader(checkpoint))
    if device.type == "cpu" and not (config.compile or _is_fsdp(config, world)):
        state.model.multiply_by_onednn()  # copies the weights that are there now; FSDP has copies of its own
    return state


def _create_fresh(
    config: TrainConfig, tokenizer: Tokenizer, world: World, device: torch.device
) -> tuple[DualEncoder, torch.nn.Module]:
    """Draw the weights, or take those of config.initial_weights, whole on each rank; then wrap the model."""
    clip = create_model(model_config(config.model, tokenizer), config.seed, config.model.init)
    if config.loss == "siglip":
        with torch.no_grad():
            clip.logit_scale.fill_(SIGLIP_SCALE)
    if config.initial_weights is not None:
        load_initial_weights(clip, config.initial_weights, tokenizer)
    model = _create_encoder(clip, config, world)
    if model.logit_bias is not None and config.initial_weights is not None:
        bias = read_logit_bias(config.initial_weights)
        if bias is not None:
            with torch.no_grad():
                model.logit_bias.copy_(bias)
    model.to(device)
    return model, _wrap(model, config, world, device)


def _create_empty(
    config: TrainConfig, tokenizer: Tokenizer, world: World, device: torch.device
) -> tuple[DualEncoder, torch.nn.Module]:
    """Wrap a model without weights, which a checkpoint fills; under FSDP no rank ever holds the whole model."""
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
    return model, wrapped


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
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        # under FSDP the scalars are plain tensors, and fused AdamW may not mix them with DTensors in one group
        {"params": [p for p in trained if p.ndim == 0], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],  # under LoRA every parameter is a matrix
        lr=config.lr,
        betas=(BETA1, config.beta2),
        eps=EPS,
        fused=trained[0].device.type != "mps",
    )


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
