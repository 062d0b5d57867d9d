"""One step: forward, backward, update; the same on one process, on many, and in parts.

What a step works on is a Learner.  Gradients are averaged over ranks by DDP or FSDP, those of the scalars here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor

from worldclip.model.clip import MAX_LOGIT_SCALE
from worldclip.model.tokenizer import Tokens
from worldclip.train.accumulate import backward_in_parts
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World, sum_over_ranks
from worldclip.train.dual_encoder import TwoTowers
from worldclip.train.ema import Ema
from worldclip.train.loss import contrastive_loss, distillation_loss, siglip_loss
from worldclip.train.sparse_embedding import TokenTable

if TYPE_CHECKING:
    from worldclip.train.loader import Batch


Taught = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """What is trained and by what."""

    config: TrainConfig
    world: World
    device: torch.device
    towers: TwoTowers
    parallel: torch.nn.Module
    """The towers as DDP or FSDP runs them; the towers themselves on one process."""
    optimizer: torch.optim.Optimizer
    table: TokenTable | None = None
    """The token table where its rows learn alone (train.token_table = "rows")."""
    ema: Ema | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step's numbers, the same on all ranks."""

    loss: float
    grad_norm: float
    is_applied: bool


def take_step(learner: Learner, batch: Batch, lr: float, taught: Taught | None = None) -> StepResult:
    """Forward, backward, update; a step whose loss or gradient is not finite changes nothing, on any rank.

    taught: a teacher's features of the same pairs.
    """
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.table is not None:
        learner.table.fetch(batch.tokens.ids)
    loss = _backward(learner, batch, taught)
    _average_scalars(learner, loss)
    if learner.table is not None:
        learner.table.collect_gradients()
    grad_norm = gradient_norm(learner)
    loss_value = float(loss)
    is_finite = math.isfinite(loss_value) and math.isfinite(grad_norm)
    if is_finite:
        _update(learner, lr, grad_norm)
    return StepResult(loss_value, grad_norm, is_finite)


def loss_of(
    learner: Learner, image_BD: torch.Tensor, text_BD: torch.Tensor, taught: Taught | None = None
) -> torch.Tensor:
    """The configured loss of this rank's rows; its mean over ranks is the global batch's."""
    scale, bias = learner.towers.clip.logit_scale.exp(), learner.towers.logit_bias
    if bias is None:
        loss = contrastive_loss(image_BD, text_BD, scale, learner.world)
    else:
        loss = siglip_loss(image_BD, text_BD, scale, bias, learner.world)
    if taught is None:
        return loss
    distill = learner.config.distill
    return loss + distill.weight * distillation_loss(
        image_BD, text_BD, scale, taught, distill.teacher_scale, learner.world
    )


def _backward(learner: Learner, batch: Batch, taught: Taught | None) -> torch.Tensor:
    """Gradients in .grad; the rank's loss, detached."""
    num_parts = learner.config.accum_steps
    if num_parts == 1:
        image_BD, text_BD = learner.parallel(batch.images, batch.tokens, batch.patches)
        loss = loss_of(learner, image_BD, text_BD, taught)
        loss.backward()
        return loss.detach()
    return backward_in_parts(
        _parts(batch, num_parts),
        lambda part: learner.parallel(*part),
        lambda image_BD, text_BD: loss_of(learner, image_BD, text_BD, taught),
        lambda is_last: _communicating(learner.parallel, is_last),
    )


def _parts(batch: Batch, num_parts: int) -> list[tuple[torch.Tensor, Tokens, torch.Tensor | None]]:
    size = -(-len(batch.images) // num_parts)
    starts = range(0, len(batch.images), size)
    return [
        (
            batch.images[start : start + size],
            _some(batch.tokens, start, start + size),
            None if batch.patches is None else batch.patches[start : start + size],
        )
        for start in starts
    ]


def _some(tokens: Tokens, start: int, stop: int) -> Tokens:
    offsets = tokens.offsets[start : stop + 1]
    return Tokens(tokens.ids[offsets[0] : offsets[-1]], offsets - offsets[0], tokens.pad_id)


@contextlib.contextmanager
def _communicating(parallel: torch.nn.Module, is_last: bool) -> Iterator[None]:
    """Whether the backward in this context exchanges gradients with other ranks."""
    wrapped: Any = parallel
    if hasattr(wrapped, "set_requires_gradient_sync"):  # FSDP
        wrapped.set_requires_gradient_sync(is_last)
        yield
    elif hasattr(wrapped, "no_sync") and not is_last:  # DDP
        with wrapped.no_sync():
            yield
    else:
        yield


def _average_scalars(learner: Learner, loss: torch.Tensor) -> None:
    """The mean over ranks of the scalars' gradients and of the loss, in one exchange."""
    if learner.world.size == 1:
        return
    grads = [scalar.grad for scalar in learner.towers.replicated().values() if scalar.grad is not None]
    together = torch.stack([loss.detach(), *grads])
    sum_over_ranks(together, learner.world).div_(learner.world.size)
    for target, value in zip([loss, *grads], together, strict=True):
        target.copy_(value)


def gradient_norm(learner: Learner) -> float:
    """Euclidean norm of the global batch's gradient over all trained parameters."""
    grads = [parameter.grad for parameter in learner.towers.parameters() if parameter.grad is not None]
    sharded = [grad.to_local() for grad in grads if isinstance(grad, DTensor)]
    if learner.table is not None and learner.table.grad is not None:
        sharded.append(learner.table.grad)
    if not sharded:
        return float(torch.nn.utils.get_total_norm(grads))
    whole = [grad for grad in grads if not isinstance(grad, DTensor)]
    square = sum_over_ranks(torch.nn.utils.get_total_norm(sharded) ** 2, learner.world)
    if whole:
        square += torch.nn.utils.get_total_norm(whole) ** 2
    return math.sqrt(float(square))


def _update(learner: Learner, lr: float, grad_norm: float) -> None:
    factor = learner.config.max_grad_norm / grad_norm if learner.config.max_grad_norm else 1.0
    if factor < 1:
        for parameter in learner.towers.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
    for group in learner.optimizer.param_groups:
        group["lr"] = lr
    learner.optimizer.step()
    if learner.table is not None:
        learner.table.update(lr, min(1.0, factor))
    with torch.no_grad():
        learner.towers.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    if learner.ema is not None:
        learner.ema.update()
