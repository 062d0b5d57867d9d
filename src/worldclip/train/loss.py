"""Losses of a global batch, in memory that grows linearly with the batch, not with its square.

B pairs of this rank, G of all ranks, D embed_dim, E that of a teacher, C rows of a chunk.  Image i belongs to text i.

Each rank computes the loss of its own rows against the columns of all ranks; the mean over ranks is the loss of the
global batch.  The gradient of a rank's features is summed over all ranks, so that the mean of the ranks' parameter
gradients, which DDP and FSDP compute, is the gradient of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from worldclip.train.distributed import ALONE, Gathering, World, reduce_scatter_rows, start_gathering

LOSS_CHUNK_ROWS = 256  # rows of logits at a time; smaller chunks are bound by memory bandwidth
ChunkLoss = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]
"""(logits_CG, own_C: the matching column of each row, slice of the rows) -> sum of the rows' losses.  It replaces the
logits in place by the derivative of that sum."""


def contrastive_loss(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    world: World = ALONE,
    chunk_rows: int = LOSS_CHUNK_ROWS,
    all_images: Gathering | None = None,
) -> torch.Tensor:
    """Return the mean of the cross-entropies of images against texts and of texts against images, of this rank's rows.

    image_BD, text_BD: float32 of unit length, as many on each rank.  logit_scale: the factor, not its logarithm.
    all_images: image_BD of all ranks, if their exchange has begun.
    arXiv:2103.00020, figure 3.  A batch that fits into one chunk is computed by the plain formula.
    """
    if world.size == 1 and len(image_BD) <= chunk_rows:
        logits_BB = logit_scale * image_BD @ text_BD.T
        target_B = torch.arange(len(logits_BB), device=logits_BB.device)
        images = torch.nn.functional.cross_entropy(logits_BB, target_B)
        texts = torch.nn.functional.cross_entropy(logits_BB.T, target_B)
        return (images + texts) / 2
    chunk_losses = [_softmax_chunk, _softmax_chunk]
    return chunked(image_BD, text_BD, logit_scale, None, chunk_losses, world, chunk_rows, all_images)


def siglip_loss(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    world: World = ALONE,
    chunk_rows: int = LOSS_CHUNK_ROWS,
    all_images: Gathering | None = None,
) -> torch.Tensor:
    """Return the mean over images of sum over texts of -log sigmoid(z * logit); z = 1 for the own text, else -1.

    Arguments as for contrastive_loss; logit_bias is added to every logit.  arXiv:2303.15343, algorithm 1.
    """
    return chunked(image_BD, text_BD, logit_scale, logit_bias, [_sigmoid_chunk], world, chunk_rows, all_images)


LOSSES: dict[str, Callable[..., torch.Tensor]] = {"contrastive": contrastive_loss, "siglip": siglip_loss}
"""By train.loss.  A loss takes the features, the scale, the bias if the model has one, and the ranks."""


def distillation_loss(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    teacher_features: tuple[torch.Tensor, torch.Tensor],
    teacher_scale: float,
    world: World = ALONE,
    chunk_rows: int = LOSS_CHUNK_ROWS,
    all_images: Gathering | None = None,
) -> torch.Tensor:
    """Return the cross-entropy of the student's softmax against the teacher's, mean over texts and over images.

    teacher_features: (B, E) each of the same pairs' images and texts, of unit length.  The teacher's logits are
    teacher_scale times their cosines.  arXiv:2507.22062, section 4.6, does not publish its loss: this form is ours.
    """
    teacher_image_BE, teacher_text_BE = teacher_features
    chunk_losses = [
        _teacher_chunk(teacher_scale * teacher_image_BE, start_gathering(teacher_text_BE, world).wait()),
        _teacher_chunk(teacher_scale * teacher_text_BE, start_gathering(teacher_image_BE, world).wait()),
    ]
    return chunked(image_BD, text_BD, logit_scale, None, chunk_losses, world, chunk_rows, all_images)


# the loss of a chunk of logits, and its derivative


def _softmax_chunk(logits_CG: torch.Tensor, own_C: torch.Tensor, rows: slice) -> torch.Tensor:
    """Compute -log softmax(logits)[own]; its derivative is softmax(logits) - one_hot(own)."""
    own_logit_C1 = logits_CG.gather(1, own_C[:, None])
    log_sum_C1 = _softmax_in_place(logits_CG)
    _subtract_one(logits_CG, own_C)
    return (log_sum_C1 - own_logit_C1).sum()


def _sigmoid_chunk(logits_CG: torch.Tensor, own_C: torch.Tensor, rows: slice) -> torch.Tensor:
    """Compute -log sigmoid(z * x); its derivative is sigmoid(x) - one_hot(own).

    For every text -log sigmoid(-x) = softplus(x), for the own text -log sigmoid(x) = softplus(x) - x.
    """
    loss = torch.nn.functional.softplus(logits_CG).sum() - logits_CG.gather(1, own_C[:, None]).sum()
    logits_CG.sigmoid_()
    _subtract_one(logits_CG, own_C)
    return loss


def _teacher_chunk(teacher_rows_BE: torch.Tensor, teacher_columns_GE: torch.Tensor) -> ChunkLoss:
    """Compute the cross-entropy with target softmax(teacher's logits); its derivative is softmax(logits) - target."""

    def chunk_loss(logits_CG: torch.Tensor, own_C: torch.Tensor, rows: slice) -> torch.Tensor:
        target_CG = teacher_rows_BE[rows] @ teacher_columns_GE.T
        _softmax_in_place(target_CG)
        expected = torch.dot(target_CG.flatten(), logits_CG.flatten())
        log_sum_C1 = _softmax_in_place(logits_CG)
        logits_CG.sub_(target_CG)
        return log_sum_C1.sum() - expected

    return chunk_loss


def _softmax_in_place(logits_CG: torch.Tensor) -> torch.Tensor:
    """Replace logits by their softmax over columns, without a second matrix.  Return (C, 1) log-sum-exp."""
    highest_C1 = logits_CG.amax(1, keepdim=True)
    sum_C1 = logits_CG.sub_(highest_C1).exp_().sum(1, keepdim=True)
    logits_CG.div_(sum_C1)
    return sum_C1.log_().add_(highest_C1)


def _subtract_one(slope_CG: torch.Tensor, own_C: torch.Tensor) -> None:
    slope_CG[torch.arange(len(own_C), device=own_C.device), own_C] -= 1


class _Chunked(torch.autograd.Function):
    """Compute the mean over chunk losses and rows.  The first chunk loss has images as rows, a second one texts.

    The forward pass computes the gradient together with the value, chunk by chunk, and keeps it: 2 * G * D numbers
    instead of B * G.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image_BD: torch.Tensor,
        text_BD: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        chunk_losses: Sequence[ChunkLoss],
        world: World,
        chunk_rows: int,
        all_images: Gathering | None,
    ) -> torch.Tensor:
        own_features = (image_BD, text_BD)
        all_texts = start_gathering(text_BD, world)
        all_features = ((all_images or start_gathering(image_BD, world)).wait(), all_texts.wait())
        grads = tuple(torch.zeros_like(features) for features in all_features)
        loss, scale_grad, bias_grad = (image_BD.new_zeros(()) for _ in range(3))
        num_rows = len(image_BD)
        first = world.rank * num_rows
        factor = 1 / (len(chunk_losses) * num_rows)
        for side, chunk_loss in enumerate(chunk_losses):
            columns_GD = all_features[1 - side]
            columns_grad_GD = grads[1 - side]
            for start in range(0, num_rows, chunk_rows):
                stop = min(start + chunk_rows, num_rows)
                rows = slice(start, stop)
                own_C = torch.arange(first + start, first + stop, device=image_BD.device)
                rows_CD = own_features[side][rows]
                logits_CG = (scale * rows_CD) @ columns_GD.T
                if bias is not None:
                    logits_CG.add_(bias)
                loss += chunk_loss(logits_CG, own_C, rows)
                slope_CG = logits_CG  # the chunk loss put its derivative by the logits in their place
                if bias is not None:
                    bias_grad += slope_CG.sum()
                rows_grad_CD = slope_CG @ columns_GD
                scale_grad += (rows_grad_CD * rows_CD).sum()
                grads[side][first + start : first + stop] += rows_grad_CD
                columns_grad_GD.addmm_(slope_CG.T, rows_CD)
        for grad in grads:
            grad.mul_(factor * scale)
        ctx.world = world
        ctx.grads = [*grads, scale_grad * factor, None if bias is None else bias_grad * factor]
        return loss * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        image_GD, text_GD, scale_grad, bias_grad = ctx.grads
        ctx.grads = None  # freed at once, as autograd frees its own buffers
        own_grads = (reduce_scatter_rows(features.mul_(grad), ctx.world) for features in (image_GD, text_GD))
        return *own_grads, scale_grad * grad, None if bias_grad is None else bias_grad * grad, None, None, None, None


def chunked(*arguments: Any) -> torch.Tensor:
    """Return a loss, of the arguments of _Chunked.forward.  A loss of your own calls this (docs/5_train.md)."""
    loss: torch.Tensor = _Chunked.apply(*arguments)
    return loss
