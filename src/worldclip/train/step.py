"""One training step: forward, backward, optimizer; the same on one rank, on many, and with gradient accumulation.

launch_step, compute_loss and _update are the step of the paper, the others its form in parts of a batch and over ranks.
DDP or FSDP averages gradients over ranks; the step itself averages those of the scalar parameters, logit_scale and
logit_bias.
B pairs of this rank, D embed_dim.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from worldclip.model.clip import MAX_LOGIT_SCALE
from worldclip.model.tokenizer import Tokens
from worldclip.train.distributed import World, all_reduce, local_tensor
from worldclip.train.loader import Batch, ModelInputs
from worldclip.train.loss import LOSSES, distillation_loss
from worldclip.train.train_state import TrainState

Features = tuple[torch.Tensor, torch.Tensor]
"""Features of images and of texts, (B, D) float32 each."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The numbers of one step, the same on all ranks."""

    loss: float
    grad_norm: float
    is_applied: bool
    """Whether the step changed the weights: loss and gradient were finite."""
    logit_scale: float
    """The factor, after the step."""
    votes: tuple[bool, ...]
    """Whether any rank voted for it, of each of the votes that launch_step took."""
    busy_s: tuple[float, ...]
    """By rank, the seconds before its first exchange with others; of one process empty."""


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step whose numbers a GPU may still compute."""

    numbers: torch.Tensor
    """(4 + votes + ranks,) float32 in this machine's memory; of one process without its rank."""
    num_votes: int
    copied: torch.cuda.Event | None
    """Comes after the copy of the numbers; None: they are there."""

    @classmethod
    def of(cls, num_votes: int, *parts: torch.Tensor) -> LaunchedStep:
        """Start to copy the numbers, scalars and vectors, from their device."""
        numbers = torch.cat([part.reshape(-1).float() for part in parts])
        if numbers.device.type != "cuda":
            return cls(numbers.cpu(), num_votes, None)
        pinned = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        pinned.copy_(numbers, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return cls(pinned, num_votes, copied)

    def read(self) -> StepResult:
        """Wait for the numbers and return them."""
        if self.copied is not None:
            self.copied.synchronize()
        loss, grad_norm, is_applied, logit_scale, *mean_votes_and_busy_s = self.numbers.tolist()
        votes = tuple(mean > 0 for mean in mean_votes_and_busy_s[: self.num_votes])
        busy_s = tuple(mean_votes_and_busy_s[self.num_votes :])
        return StepResult(loss, grad_norm, bool(is_applied), logit_scale, votes, busy_s)


def train_step(state: TrainState, batch: Batch, lr: float, teacher_features: Features | None = None) -> StepResult:
    """Take a step as `launch_step` does, and wait for its numbers."""
    return launch_step(state, batch, lr, teacher_features).read()


def launch_step(
    state: TrainState,
    batch: Batch,
    lr: float,
    teacher_features: Features | None = None,
    votes: Sequence[bool] = (),
    idle_since: float = 0.0,
) -> LaunchedStep:
    """Run forward, backward and optimizer.  A step with a non-finite loss or gradient changes no weight on any rank.

    That is decided on the device: nothing here waits for it, unless the optimizer is not fused (mps).
    teacher_features: a teacher's features of the same pairs, for distillation.  votes: what this rank asks of all, such
    as to stop; as many on each rank, and StepResult says whether any rank asked it.  idle_since: time.perf_counter at
    the end of this rank's step before.
    """
    state.optimizer.zero_grad(set_to_none=True)
    micro_batches = batch.inputs or split_batch(batch, state.config.accum_steps)
    accumulates = state.config.accum_steps > 1
    busy_s = time.perf_counter() - idle_since
    if accumulates:
        features = encode_parts(state, micro_batches)
        for side in features:  # leaves that get the gradient of the whole batch's loss
            side.requires_grad_()
    else:
        features = state.wrapped(*micro_batches[0])
    if state.config.parallel == "ddp":  # its first exchange is after the forward pass; FSDP's is in it
        busy_s = time.perf_counter() - idle_since
    loss = compute_loss(state, features, teacher_features)
    loss.backward()
    loss = loss.detach()
    if accumulates:
        _accumulate_gradients(state, micro_batches, features)
    scalar_grads = [scalar.grad for scalar in state.model.scalars() if scalar.grad is not None]
    votes_and_busy = average_scalars([loss, *scalar_grads], votes, busy_s, state.world)
    grad_norm = _gradient_norm(state)
    is_finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
    _update(state, lr, grad_norm, is_finite)
    logit_scale = state.model.clip.logit_scale.detach().exp()
    return LaunchedStep.of(len(votes), loss, grad_norm, is_finite, logit_scale, votes_and_busy)


def compute_loss(state: TrainState, features: Features, teacher_features: Features | None) -> torch.Tensor:
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


def average_scalars(
    scalars: Sequence[torch.Tensor], votes: Sequence[bool], busy_s: float, world: World
) -> torch.Tensor:
    """Replace scalars by their means over ranks.  Return one vector: the mean votes, then busy_s of each rank.

    With one process it has only the votes.  All of it is one all-reduce, since each collective costs a step the
    latency of the whole network.  busy_s: from the end of this rank's step before to its first exchange with others.
    """
    votes_V = scalars[0].new_zeros(len(votes))
    for i, is_wanted in enumerate(votes):
        if is_wanted:
            votes_V[i].fill_(1)  # a tensor of Python's numbers would be copied from pageable memory, which waits
    if world.size == 1:
        return votes_V
    busy_R = votes_V.new_zeros(world.size)
    busy_R[world.rank].fill_(busy_s * world.size)  # the mean over ranks is busy_s again
    values = torch.cat([torch.stack([scalar.detach() for scalar in scalars]), votes_V, busy_R])
    means = all_reduce(values, world).div_(world.size)
    for scalar, mean in zip(scalars, means, strict=False):
        scalar.copy_(mean)
    return means[len(scalars) :]


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


@torch.no_grad()
def encode_parts(state: TrainState, micro_batches: Sequence[ModelInputs]) -> Features:
    """Return the features of all micro-batches, without a graph."""
    parts = [state.wrapped(*micro_batch) for micro_batch in micro_batches]
    image_BD, text_BD = (torch.cat(side) for side in zip(*parts, strict=True))
    return image_BD, text_BD


def _accumulate_gradients(state: TrainState, micro_batches: Sequence[ModelInputs], features: Features) -> None:
    """Add the gradient of the whole batch's loss to .grad, micro-batch by micro-batch.

    Averaging the gradients of micro-batches is not the gradient of a contrastive loss, in which every pair sees all
    others.  As in GradCache (arXiv:2101.06983) the features of all micro-batches are computed first, without a graph;
    the loss of the whole batch gives their gradients; then each micro-batch runs again and back-propagates its
    features' gradients.  The model must return the same features both times, so it has no dropout except patch
    dropout, which the plan draws.
    """
    image_BD, text_BD = features
    assert image_BD.grad is not None
    assert text_BD.grad is not None
    sizes = [len(images) for images, *_ in micro_batches]
    grads = zip(image_BD.grad.split(sizes), text_BD.grad.split(sizes), strict=True)
    for i, (micro_batch, feature_grads) in enumerate(zip(micro_batches, grads, strict=True)):
        with _gradient_sync(state.wrapped, is_last=i == len(micro_batches) - 1):
            torch.autograd.backward(state.wrapped(*micro_batch), feature_grads)


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
    scalars = [grad for grad in grads if not isinstance(grad, DTensor)]
    square += torch.nn.utils.get_total_norm(scalars) ** 2
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
