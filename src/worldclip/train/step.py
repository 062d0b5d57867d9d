"""One training step: forward, backward, optimizer; the same on one rank, on many, and with gradient accumulation.

DDP or FSDP averages gradients over ranks; the step itself averages those of the scalars.  B pairs of this rank,
D embed_dim.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from worldclip.model.clip import MAX_LOGIT_SCALE
from worldclip.model.tokenizer import Tokens
from worldclip.train.distributed import all_reduce
from worldclip.train.loader import Batch
from worldclip.train.loss import contrastive_loss, distillation_loss, siglip_loss
from worldclip.train.train_state import TrainState

Features = tuple[torch.Tensor, torch.Tensor]
"""(B, D) float32 each: of images, of texts."""
MicroBatch = tuple[torch.Tensor, Tokens, torch.Tensor | None]
"""What the model's forward takes: images, tokens, kept patches."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The numbers of one step; grad_norm and is_applied are the same on all ranks, so is the loss."""

    loss: float
    grad_norm: float
    is_applied: bool


def train_step(state: TrainState, batch: Batch, lr: float, teacher_features: Features | None = None) -> StepResult:
    """Run forward, backward and optimizer.  A step with a non-finite loss or gradient changes no weight on any rank.

    teacher_features: a teacher's features of the same pairs, for distillation.
    """
    state.optimizer.zero_grad(set_to_none=True)
    if state.sparse_embedding is not None:
        state.sparse_embedding.fetch(batch.tokens.ids)
    loss = _backward(state, batch, teacher_features)
    _average_scalars(state, loss)
    if state.sparse_embedding is not None:
        state.sparse_embedding.collect_gradients()
    grad_norm = _gradient_norm(state)
    loss_value = float(loss)
    is_finite = math.isfinite(loss_value) and math.isfinite(grad_norm)
    if is_finite:
        _update(state, lr, grad_norm)
    return StepResult(loss_value, grad_norm, is_finite)


def _compute_loss(state: TrainState, features: Features, teacher_features: Features | None) -> torch.Tensor:
    """Return the configured loss of this rank's rows.  Its mean over ranks is the loss of the global batch."""
    scale, bias = state.model.clip.logit_scale.exp(), state.model.logit_bias
    if bias is None:
        loss = contrastive_loss(*features, scale, state.world)
    else:
        loss = siglip_loss(*features, scale, bias, state.world)
    if teacher_features is None:
        return loss
    distill = state.config.distill
    taught = distillation_loss(*features, scale, teacher_features, distill.teacher_scale, state.world)
    return loss + distill.weight * taught


def _backward(state: TrainState, batch: Batch, teacher_features: Features | None) -> torch.Tensor:
    """Fill .grad and return this rank's loss, detached."""
    if state.config.accum_steps > 1:
        return _accumulate_gradients(state, batch, teacher_features)
    loss = _compute_loss(state, state.wrapped(batch.images, batch.tokens, batch.patches), teacher_features)
    loss.backward()
    return loss.detach()


def _accumulate_gradients(state: TrainState, batch: Batch, teacher_features: Features | None) -> torch.Tensor:
    """Add the gradient of the whole batch's loss to .grad, micro-batch by micro-batch, and return that loss, detached.

    Averaging the gradients of micro-batches is not the gradient of a contrastive loss, in which every pair sees all
    others.  As in GradCache (arXiv:2101.06983) the features of all micro-batches are computed first, without a graph;
    the loss of the whole batch gives their gradients; then each micro-batch runs again and back-propagates its
    features' gradients.  The model must return the same features both times, so it has no dropout except patch
    dropout, which the plan draws.
    """
    micro_batches = _micro_batches(batch, state.config.accum_steps)
    with torch.no_grad():
        cached = [state.wrapped(*micro_batch) for micro_batch in micro_batches]
    image_BD, text_BD = (torch.cat(side).requires_grad_() for side in zip(*cached, strict=True))
    loss = _compute_loss(state, (image_BD, text_BD), teacher_features)
    loss.backward()
    assert image_BD.grad is not None
    assert text_BD.grad is not None
    sizes = [len(image) for image, _ in cached]
    grads = zip(image_BD.grad.split(sizes), text_BD.grad.split(sizes), strict=True)
    for i, (micro_batch, feature_grads) in enumerate(zip(micro_batches, grads, strict=True)):
        with _gradient_sync(state.wrapped, is_last=i == len(micro_batches) - 1):
            torch.autograd.backward(state.wrapped(*micro_batch), feature_grads)
    return loss.detach()


def _micro_batches(batch: Batch, accum_steps: int) -> list[MicroBatch]:
    """Split a batch into consecutive micro-batches, the last one possibly smaller."""
    size = -(-len(batch.images) // accum_steps)
    micro_batches: list[MicroBatch] = []
    for start in range(0, len(batch.images), size):
        stop = start + size
        offsets = batch.tokens.offsets[start : stop + 1]
        tokens = Tokens(batch.tokens.ids[offsets[0] : offsets[-1]], offsets - offsets[0], batch.tokens.pad_id)
        patches = None if batch.patches is None else batch.patches[start:stop]
        micro_batches.append((batch.images[start:stop], tokens, patches))
    return micro_batches


@contextlib.contextmanager
def _gradient_sync(wrapped: Any, is_last: bool) -> Iterator[None]:
    """Exchange gradients with other ranks only in the backward pass of the last micro-batch."""
    if hasattr(wrapped, "set_requires_gradient_sync"):  # FSDP
        wrapped.set_requires_gradient_sync(is_last)
    is_ddp = hasattr(wrapped, "no_sync")
    with wrapped.no_sync() if is_ddp and not is_last else contextlib.nullcontext():
        yield


def _average_scalars(state: TrainState, loss: torch.Tensor) -> None:
    """Replace the gradients of the scalars and the loss by their means over ranks, in one all-reduce."""
    if state.world.size == 1:
        return
    targets = [loss, *(scalar.grad for scalar in state.model.scalars().values() if scalar.grad is not None)]
    means = all_reduce(torch.stack([target.detach() for target in targets]), state.world).div_(state.world.size)
    for target, mean in zip(targets, means, strict=True):
        target.copy_(mean)


def _gradient_norm(state: TrainState) -> float:
    """Return the Euclidean norm of the global batch's gradient over all trained parameters.

    torch.nn.utils.get_total_norm takes plain tensors and DTensors only apart, and knows nothing of the sparse
    embedding's shards.  The squares of the sharded ones are therefore summed over ranks here; under HSDP every machine
    has a copy of FSDP's shards.
    """
    grads = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    sharded = [grad.to_local() for grad in grads if isinstance(grad, DTensor)]
    rows = state.sparse_embedding.grad if state.sparse_embedding is not None else None
    if not sharded and rows is None:
        return float(torch.nn.utils.get_total_norm(grads))
    num_copies = state.world.num_machines if state.config.parallel == "hsdp" else 1
    square = torch.zeros((), device=state.device)
    if sharded:
        square += torch.nn.utils.get_total_norm(sharded) ** 2 / num_copies
    if rows is not None:
        square += torch.nn.utils.get_total_norm([rows]) ** 2
    all_reduce(square, state.world)
    replicated = [grad for grad in grads if not isinstance(grad, DTensor)]
    if replicated:
        square += torch.nn.utils.get_total_norm(replicated) ** 2
    return math.sqrt(float(square))


def _update(state: TrainState, lr: float, grad_norm: float) -> None:
    """Clip gradients, step the optimizer, clamp the logit scale, update the EMA."""
    max_norm = state.config.max_grad_norm
    clip_factor = max_norm / grad_norm if 0 < max_norm < grad_norm else 1.0
    if clip_factor < 1:
        for parameter in state.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(clip_factor)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    if state.sparse_embedding is not None:
        state.sparse_embedding.update(lr, clip_factor)
    with torch.no_grad():
        state.model.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    if state.ema is not None:
        state.ema.update()
