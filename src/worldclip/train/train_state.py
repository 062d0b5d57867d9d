"""From a recipe to what a step works on: model, DDP or FSDP around it, optimizer, and a checkpoint's state in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from worldclip.core.errors import UserError
from worldclip.model.clip import create_model, model_config, pick_device
from worldclip.model.tokenizer import Tokenizer
from worldclip.train.checkpoint import Piece, Tensors
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World, share_of
from worldclip.train.dual_encoder import SIGLIP_SCALE, TEXT_CHUNKS, TwoTowers
from worldclip.train.ema import Ema, local
from worldclip.train.optim import create_optimizer
from worldclip.train.sparse_embedding import NAME as TABLE
from worldclip.train.sparse_embedding import TokenTable, replace_table
from worldclip.train.step import Learner

if TYPE_CHECKING:
    from transformers import MetaClip2Model


def pick_rank_device(name: str, world: World) -> torch.device:
    """The device of this rank: of several GPUs of a machine, its own."""
    device = pick_device(name)
    if device.type == "cuda":
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    return device


def create_learner(
    config: TrainConfig, tokenizer: Tokenizer, world: World, device: torch.device, checkpoint: Path | None
) -> Learner:
    """A learner with fresh weights, those of config.initial_weights, or a checkpoint's weights and moments."""
    model = create_model(model_config(config.model, tokenizer), config.seed)
    if config.loss == "siglip":
        with torch.no_grad():
            model.logit_scale.fill_(SIGLIP_SCALE)
    if checkpoint is None and config.initial_weights is not None:
        load_initial_weights(model, config.initial_weights)
    is_fsdp = config.parallel == "fsdp" and world.size > 1
    towers = TwoTowers(
        model, precision=config.precision, loss=config.loss, text_chunks=1 if is_fsdp else TEXT_CHUNKS
    )  # under FSDP each chunk would gather the text tower's weights anew
    stored = Tensors(checkpoint) if checkpoint is not None else None
    if stored is not None:
        with torch.no_grad():
            for name, parameter in towers.trained().items():
                parameter.copy_(stored.read(f"weights.{name}"))
    towers.to(device)
    _freeze(model, config)
    table = replace_table(model, world, config) if config.token_table == "rows" else None
    model.train()
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        for tower in (model.vision_model, model.text_model):
            tower.compile(dynamic=tower is model.text_model)
    parallel = _wrap(towers, config, world, device)
    optimizer = create_optimizer(towers, config)
    ema = Ema(towers.trained(), config.ema_decay) if config.ema_decay else None
    learner = Learner(
        config=config,
        world=world,
        device=device,
        towers=towers,
        parallel=parallel,
        optimizer=optimizer,
        table=table,
        ema=ema,
    )
    if stored is not None:
        _load_moments(learner, stored)
    return learner


def load_initial_weights(model: MetaClip2Model, source: str) -> None:
    """Fill `model` with the weights of a run, a Hugging Face folder or a hub id.

    Raises UserError where shapes differ, or what shapes do not show: heads and activation.
    """
    from worldclip.model.load import load

    towers: Any = load(source, device="cpu").backend
    given, own = towers.model.state_dict(), model.state_dict()
    problems = [
        f"{name} is {tuple(given[name].shape) if name in given else 'missing'} there, {tuple(own[name].shape)} here"
        for name in own
        if name not in given or given[name].shape != own[name].shape
    ]
    for tower in ("vision_config", "text_config"):
        there, here = getattr(towers.model.config, tower), getattr(model.config, tower)
        problems += [
            f"{tower}.{key} is {getattr(there, key)} there, {getattr(here, key)} here"
            for key in ("hidden_act", "num_attention_heads")
            if getattr(there, key) != getattr(here, key)
        ]
    if problems:
        raise UserError(
            f"train.initial_weights is {source!r}; its model is another one ({'; '.join(problems[:3])}): set "
            "train.model and train.tokenizer.path as they are there"
        )
    model.load_state_dict(given)


def _freeze(model: MetaClip2Model, config: TrainConfig) -> None:
    """Towers named in config.freeze keep their weights; their projections go on learning."""
    for name in config.freeze:
        (model.vision_model if name == "vision" else model.text_model).requires_grad_(False)


def _wrap(towers: TwoTowers, config: TrainConfig, world: World, device: torch.device) -> torch.nn.Module:
    """The towers as several ranks run them.  The scalars stay whole on each rank, outside of both DDP and FSDP."""
    if world.size == 1:
        return towers
    scalars = towers.replicated()
    if config.parallel == "ddp":
        ddp: Any = torch.nn.parallel.DistributedDataParallel
        ddp._set_params_and_buffers_to_ignore_for_model(towers, list(scalars))
        ids = [device.index] if device.type == "cuda" else None
        return ddp(towers, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    mesh = init_device_mesh(device.type, (world.size,))
    is_bf16 = config.precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for tower in (towers.clip.vision_model, towers.clip.text_model):
        for block in tower.encoder.layers:
            fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(towers, mesh=mesh, mp_policy=policy, ignored_params=set(scalars.values()))
    return towers


# what a checkpoint holds of it


def pieces_of(learner: Learner) -> dict[str, Piece]:
    """Copies, in memory of the CPU, of this rank's part of weights, moments and the slow copy.

    Names: weights.<parameter>, exp_avg.<parameter>, exp_avg_sq.<parameter>, ema.<parameter>, row_steps.<table>.
    """
    found = {}
    state = learner.optimizer.state
    for name, parameter in learner.towers.trained().items():
        tensors = {"weights": parameter.detach()}
        tensors |= {kind: state[parameter][kind] for kind in ("exp_avg", "exp_avg_sq") if parameter in state}
        if learner.ema is not None:
            tensors["ema"] = learner.ema.shadow[name]
        first = share_of(len(parameter), learner.world)[0] if isinstance(parameter, DTensor) else None
        for kind, tensor in tensors.items():
            found[f"{kind}.{name}"] = Piece.copy(local(tensor), tuple(parameter.shape), first)
    if learner.table is not None:
        for kind, tensor in _table_tensors(learner.table).items():
            shape = (learner.table.num_rows, *tensor.shape[1:])
            first = learner.table.first if learner.world.size > 1 else None
            found[f"{kind}.{TABLE}"] = Piece.copy(tensor, shape, first)
    return found


def _table_tensors(table: TokenTable) -> dict[str, torch.Tensor]:
    return {
        "weights": table.weight,
        "exp_avg": table.exp_avg,
        "exp_avg_sq": table.exp_avg_sq,
        "row_steps": table.row_steps,
    }


@torch.no_grad()
def _load_moments(learner: Learner, stored: Tensors) -> None:
    """The moments of a checkpoint, this rank's rows of them, whatever number of ranks wrote them."""
    optimizer = learner.optimizer
    names = {parameter: name for name, parameter in learner.towers.trained().items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            if f"exp_avg.{name}" not in stored:  # not one update was made before
                continue
            moments = {kind: torch.zeros_like(parameter) for kind in ("exp_avg", "exp_avg_sq")}
            for kind, tensor in moments.items():
                rows = share_of(len(parameter), learner.world) if isinstance(parameter, DTensor) else None
                local(tensor).copy_(stored.read(f"{kind}.{name}", rows))
            step = torch.tensor(float(stored.updates), device=parameter.device if group.get("fused") else "cpu")
            optimizer.state[parameter] = {"step": step, **moments}
    if learner.ema is not None:
        for name, tensor in learner.ema.shadow.items():
            is_sharded = isinstance(learner.towers.trained()[name], DTensor)
            rows = share_of(len(learner.towers.trained()[name]), learner.world) if is_sharded else None
            tensor.copy_(stored.read(f"ema.{name}", rows))
    if learner.table is not None:
        for kind, tensor in _table_tensors(learner.table).items():
            tensor.copy_(stored.read(f"{kind}.{TABLE}", (learner.table.first, learner.table.last)))
