"""One training step: forward, backward, optimizer; the same on one rank, on many, and with gradient accumulation.

The first four functions are the step of the paper, the others its form in parts of a batch and over ranks.  DDP or FSDP
averages gradients over ranks; the step itself averages those of the scalars.  B pairs of this rank, D embed_dim.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from worldclip.model.clip import MAX_LOGIT_SCALE
from worldclip.model.tokenizer import Tokens
from worldclip.train.distributed import all_reduce, local_tensor
from worldclip.train.loader import Batch, ModelInputs
from worldclip.train.loss import LOSSES, distillation_loss
from worldclip.train.progress import LaunchedStep, Message, StepResult
from worldclip.train.train_state import TrainState

Features = tuple[torch.Tensor, torch.Tensor]
"""Features of images and of texts, (B, D) float32 each."""


def train_step(state: TrainState, batch: Batch, lr: float, teacher_features: Features | None = None) -> StepResult:
    """Take a step as `launch_step` does, and wait for its numbers."""
    return launch_step(state, batch, lr, teacher_features).read()


def launch_step(
    state: TrainState, batch: Batch, lr: float, teacher_features: Features | None = None, message: Message | None = None
) -> LaunchedStep:
    """Run forward, backward and optimizer.  A step with a non-finite loss or gradient changes no weight on any rank.

    That is decided on the device: nothing here waits for it, unless the optimizer is not fused (mps).
    teacher_features: a teacher's features of the same pairs, for distillation.  message: to the other ranks.
    """
    message = message or Message()
    state.optimizer.zero_grad(set_to_none=True)
    if state.config.accum_steps > 1:
        loss = _accumulate_gradients(state, batch, teacher_features, message)
    else:
        (inputs,) = batch.inputs or [(batch.images, batch.tokens, batch.patches)]
        features = state.wrapped(*inputs)
        message.note_features()
        loss = _compute_loss(state, features, teacher_features)
        loss.backward()
        loss = loss.detach()
    scalar_grads = [scalar.grad for scalar in state.model.scalars() if scalar.grad is not None]
    message_means = message.exchange([loss, *scalar_grads], state.world)
    grad_norm = _gradient_norm(state)
    is_finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
    _update(state, lr, grad_norm, is_finite)
    logit_scale = state.model.clip.logit_scale.detach().exp()
    return LaunchedStep.of(loss, grad_norm, is_finite, logit_scale, message_means)


def _compute_loss(state: TrainState, features: Features, teacher_features: Features | None) -> torch.Tensor:
    """Return the configured loss of this rank's rows.  Its mean over ranks is the loss of the global batch."""
    scale = state.model.clip.logit_scale.exp()
    factors = [scale]
    if state.model.logit_bias is not None:
        factors.append(state.model.logit_bias)
    all_images = state.model.take_all_images()
    loss = LOSSES[state.config.loss](*features, *factors, state.world, all_images=all_images)
    if teacher_features is None:
        return loss
    distill = state.config.distill
    taught = distillation_loss(
        *features, scale, teacher_features, distill.teacher_scale, state.world, all_images=all_images
    )
    return loss + distill.weight * taught


@torch.no_grad()
def _update(state: TrainState, lr: float, grad_norm: torch.Tensor, is_finite: torch.Tensor) -> None:
    """Clip gradients, step the optimizer, clamp the logit scale; all without effect unless is_finite.

    Fused AdamW reads `found_inf` on the device, as torch.amp's GradScaler sets it; it then keeps weights, moments and
    its count of steps.
    """
    optimizer: Any = state.optimizer
    if not optimizer.defaults["fused"] and not is_finite:
        return
    max_norm = state.config.max_grad_norm
    if max_norm > 0:
        clip_factor = (max_norm / grad_norm).clamp(max=1)
        grads = [local_tensor(p.grad) for p in state.model.parameters() if p.grad is not None]
        torch._foreach_mul_(grads, clip_factor)
    for group in optimizer.param_groups:
        group["lr"] = lr
    if optimizer.defaults["fused"]:
        optimizer.found_inf = (~is_finite).float()
    optimizer.step()
    scale = state.model.clip.logit_scale
    scale.copy_(torch.where(is_finite, scale.clamp(0, MAX_LOGIT_SCALE), scale))
    if state.model.towers is not None:
        state.model.towers.renew()


def _accumulate_gradients(
    state: TrainState, batch: Batch, teacher_features: Features | None, message: Message
) -> torch.Tensor:
    """Add the gradient of the whole batch's loss to .grad, micro-batch by micro-batch; return this rank's loss.

    Averaging the gradients of micro-batches is not the gradient of a contrastive loss, in which every pair sees all
    others.  As in GradCache (arXiv:2101.06983) the features of all micro-batches are computed first, without a graph;
    the loss of the whole batch gives their gradients; then each micro-batch runs again and back-propagates its
    features' gradients.  The model must return the same features both times, so it has no dropout except patch
    dropout, which the plan draws.
    """
    micro_batches = batch.inputs or split_batch(batch, state.config.accum_steps)
    with torch.no_grad():
        cached = [state.wrapped(*micro_batch) for micro_batch in micro_batches]
    image_BD, text_BD = (torch.cat(side).requires_grad_() for side in zip(*cached, strict=True))
    message.note_features()
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


def split_batch(batch: Batch, accum_steps: int) -> list[ModelInputs]:
    """Split a batch into consecutive micro-batches, the last one possibly smaller."""
    size = -(-len(batch.images) // accum_steps)
    micro_batches: list[ModelInputs] = []
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


def _gradient_norm(state: TrainState) -> torch.Tensor:
    """Return the Euclidean norm of the global batch's gradient over all trained parameters, a scalar on the device.

    torch.nn.utils.get_total_norm takes plain tensors and DTensors only apart.  The squares of the sharded ones are
    therefore summed over ranks here; under HSDP every machine has a copy of FSDP's shards.
    """
    grads = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    sharded = [grad.to_local() for grad in grads if isinstance(grad, DTensor)]
    if not sharded:
        return torch.nn.utils.get_total_norm(grads)
    num_copies = state.world.num_machines if state.config.parallel == "hsdp" else 1
    square = torch.nn.utils.get_total_norm(sharded) ** 2 / num_copies
    all_reduce(square, state.world)
    replicated = [grad for grad in grads if not isinstance(grad, DTensor)]
    if replicated:
        square += torch.nn.utils.get_total_norm(replicated) ** 2
    return square.sqrt()


def assign_buckets(state: TrainState, batch: Batch) -> None:
    """Let DDP assign parameters to buckets as in all later steps: one forward and backward pass that changes nothing.

    DDP sums the gradients of its first backward pass in one bucket, in the order of the parameters.  Then it assigns
    parameters to buckets again, in the order in which their gradients came.  Gloo and NCCL add the numbers of the ranks
    in an order that depends on a number's place in its bucket.  Without this pass a sum of more than two numbers would
    be rounded differently in the first step after a start and in the same step of an uninterrupted run.
    """
    if state.config.parallel != "ddp" or state.world.size < 3:  # the sums of two ranks have one order
        return
    inputs = (batch.inputs or split_batch(batch, state.config.accum_steps))[0]
    features = state.wrapped(*inputs)
    gathering = state.model.take_all_images()
    if gathering is not None:
        gathering.wait()
    torch.autograd.backward(features, [torch.zeros_like(side) for side in features])
    state.optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def validation_loss(state: TrainState, batches: Iterable[Batch]) -> float:
    """Return the mean contrastive loss over global batches, the same on all ranks.  Changes nothing."""
    losses = []
    for batch in batches:
        parts = [state.wrapped(*inputs) for inputs in split_batch(batch, state.config.accum_steps)]
        image_BD, text_BD = (torch.cat(side) for side in zip(*parts, strict=True))
        loss = _compute_loss(state, (image_BD, text_BD), None)
        losses.append(all_reduce(loss, state.world) / state.world.size)
    return float(torch.stack(losses).mean())
