"""Losses of a global batch: the contrastive one and SigLIP's, in memory that grows with the batch, not with its square.

B pairs of this rank, G of all ranks, D embed_dim, C rows at a time.  Pair i belongs to pair i.

Each rank computes the loss of its own rows against the columns of all ranks; the mean over ranks is the loss of the
global batch, and since features are gathered with their gradient, the mean of the ranks' parameter gradients (what DDP
and FSDP make) is its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from worldclip.train.distributed import World, gather_rows, gather_with_grad

CHUNK_LOGITS = 2**21  # logits at a time: 8 MiB in float32, whatever the batch

ALONE = World()


def contrastive_loss(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    world: World = ALONE,
    chunk_logits: int = CHUNK_LOGITS,
) -> torch.Tensor:
    """Mean of the cross-entropies of images against texts and of texts against images, of this rank's rows.

    image_BD, text_BD: float32 of unit length, as many on each rank.  logit_scale: the factor itself, not its logarithm.
    arXiv:2103.00020, figure 3.  A batch whose logits fit into one chunk is computed as the formula stands.
    """
    if world.size == 1 and len(image_BD) ** 2 <= chunk_logits:
        return _full_matrix(image_BD, text_BD, logit_scale)
    image_GD, text_GD = gather_with_grad(image_BD, world), gather_with_grad(text_BD, world)
    first = world.rank * len(image_BD)
    images = _RowsCrossEntropy.apply(image_BD, text_GD, logit_scale, first, chunk_logits)
    texts = _RowsCrossEntropy.apply(text_BD, image_GD, logit_scale, first, chunk_logits)
    return (images + texts) / 2


def _full_matrix(image_BD: torch.Tensor, text_BD: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    logits_BB = logit_scale * image_BD @ text_BD.T
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    images = torch.nn.functional.cross_entropy(logits_BB, target_B)
    texts = torch.nn.functional.cross_entropy(logits_BB.T, target_B)
    return (images + texts) / 2


def siglip_loss(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    world: World = ALONE,
    chunk_logits: int = CHUNK_LOGITS,
) -> torch.Tensor:
    """Sum over texts of -log sigmoid(z * logit), z = 1 for an image's own text and -1 for others, mean over images.

    Arguments as for contrastive_loss; logit_bias is added to every logit.  arXiv:2303.15343, algorithm 1.
    """
    text_GD = gather_with_grad(text_BD, world)
    first = world.rank * len(image_BD)
    return _RowsSigmoid.apply(image_BD, text_GD, logit_scale, logit_bias, first, chunk_logits)


class _RowsCrossEntropy(torch.autograd.Function):
    """Mean over rows i of -log softmax(scale * row_i . columns)[first + i].

    The gradient is made with the value, chunk by chunk, and kept: (B + G) * D numbers in place of B * G.
    """

    @staticmethod
    def forward(
        ctx: Any, rows_BD: torch.Tensor, columns_GD: torch.Tensor, scale: torch.Tensor, first: int, chunk_logits: int
    ) -> torch.Tensor:
        rows_grad, columns_grad = torch.empty_like(rows_BD), torch.zeros_like(columns_GD)
        loss = rows_BD.new_zeros(())
        for chunk, own in _chunks(rows_BD, columns_GD, first, chunk_logits):
            rows_CD = rows_BD[chunk]
            logits_CG = (scale * rows_CD) @ columns_GD.T
            own_logit_C = logits_CG.gather(1, own[:, None])
            log_sum_C = logits_CG.logsumexp(1, keepdim=True)
            loss += (log_sum_C - own_logit_C).sum()
            slope_CG = logits_CG.sub_(log_sum_C).exp_()
            slope_CG[torch.arange(len(own), device=own.device), own] -= 1
            _add_gradients(slope_CG, rows_CD, columns_GD, rows_grad[chunk], columns_grad)
        _finish_gradients(ctx, rows_BD, scale, rows_grad, columns_grad)
        return loss / len(rows_BD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        rows_grad, columns_grad, scale_grad = ctx.saved_tensors
        return rows_grad * grad, columns_grad * grad, scale_grad * grad, None, None


def distillation_loss(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    taught: tuple[torch.Tensor, torch.Tensor],
    teacher_scale: float,
    world: World = ALONE,
    chunk_logits: int = CHUNK_LOGITS,
) -> torch.Tensor:
    """Cross-entropy of the student's softmax over texts (and over images) against the teacher's, averaged.

    taught: the teacher's features of the same pairs, of unit length and any dimension; its logits are teacher_scale
    times their cosines.  arXiv:2507.22062, section 4.6, whose loss is not published: this form is ours.
    """
    teacher_image_BE, teacher_text_BE = taught
    all_of = [gather_with_grad(text_BD, world), gather_with_grad(image_BD, world)]
    teacher_of = [gather_rows(teacher_text_BE, world), gather_rows(teacher_image_BE, world)]
    images = _RowsSoftCrossEntropy.apply(
        image_BD, all_of[0], logit_scale, teacher_scale * teacher_image_BE, teacher_of[0], chunk_logits
    )
    texts = _RowsSoftCrossEntropy.apply(
        text_BD, all_of[1], logit_scale, teacher_scale * teacher_text_BE, teacher_of[1], chunk_logits
    )
    return (images + texts) / 2


class _RowsSoftCrossEntropy(torch.autograd.Function):
    """Mean over rows of -sum softmax(teacher_row . teacher_columns) * log softmax(scale * row . columns)."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_BD: torch.Tensor,
        columns_GD: torch.Tensor,
        scale: torch.Tensor,
        teacher_rows_BE: torch.Tensor,
        teacher_columns_GE: torch.Tensor,
        chunk_logits: int,
    ) -> torch.Tensor:
        rows_grad, columns_grad = torch.empty_like(rows_BD), torch.zeros_like(columns_GD)
        loss = rows_BD.new_zeros(())
        for chunk, _ in _chunks(rows_BD, columns_GD, 0, chunk_logits):
            rows_CD = rows_BD[chunk]
            target_CG = (teacher_rows_BE[chunk] @ teacher_columns_GE.T).softmax(1)
            logits_CG = (scale * rows_CD) @ columns_GD.T
            log_sum_C = logits_CG.logsumexp(1, keepdim=True)
            loss += log_sum_C.sum() - (target_CG * logits_CG).sum()
            slope_CG = logits_CG.sub_(log_sum_C).exp_().sub_(target_CG)
            _add_gradients(slope_CG, rows_CD, columns_GD, rows_grad[chunk], columns_grad)
        _finish_gradients(ctx, rows_BD, scale, rows_grad, columns_grad)
        return loss / len(rows_BD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        rows_grad, columns_grad, scale_grad = ctx.saved_tensors
        return rows_grad * grad, columns_grad * grad, scale_grad * grad, None, None, None


class _RowsSigmoid(torch.autograd.Function):
    """Mean over rows i of the sum over columns j of -log sigmoid(z_ij * (scale * row_i . column_j + bias))."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_BD: torch.Tensor,
        columns_GD: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        first: int,
        chunk_logits: int,
    ) -> torch.Tensor:
        rows_grad, columns_grad = torch.empty_like(rows_BD), torch.zeros_like(columns_GD)
        loss, bias_grad = rows_BD.new_zeros(()), rows_BD.new_zeros(())
        for chunk, own in _chunks(rows_BD, columns_GD, first, chunk_logits):
            rows_CD = rows_BD[chunk]
            logits_CG = ((scale * rows_CD) @ columns_GD.T).add_(bias)
            own_logit_C = logits_CG.gather(1, own[:, None])
            # -log sigmoid(-x) = softplus(x) of every text; of its own, softplus(-x) = softplus(x) - x
            loss += torch.nn.functional.softplus(logits_CG).sum() - own_logit_C.sum()
            slope_CG = logits_CG.sigmoid_()
            slope_CG[torch.arange(len(own), device=own.device), own] -= 1
            bias_grad += slope_CG.sum()
            _add_gradients(slope_CG, rows_CD, columns_GD, rows_grad[chunk], columns_grad)
        ctx.bias_grad = bias_grad / len(rows_BD)
        _finish_gradients(ctx, rows_BD, scale, rows_grad, columns_grad)
        return loss / len(rows_BD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        rows_grad, columns_grad, scale_grad = ctx.saved_tensors
        return rows_grad * grad, columns_grad * grad, scale_grad * grad, ctx.bias_grad * grad, None, None


def _chunks(
    rows_BD: torch.Tensor, columns_GD: torch.Tensor, first: int, chunk_logits: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows of a chunk, the column that belongs to each)."""
    step = max(1, chunk_logits // len(columns_GD))
    for start in range(0, len(rows_BD), step):
        stop = min(start + step, len(rows_BD))
        yield slice(start, stop), torch.arange(first + start, first + stop, device=rows_BD.device)


def _add_gradients(
    slope_CG: torch.Tensor,
    rows_CD: torch.Tensor,
    columns_GD: torch.Tensor,
    rows_grad_CD: torch.Tensor,
    columns_grad_GD: torch.Tensor,
) -> None:
    """A chunk's part of the gradients, without the factor scale / B."""
    torch.mm(slope_CG, columns_GD, out=rows_grad_CD)
    columns_grad_GD.addmm_(slope_CG.T, rows_CD)


def _finish_gradients(
    ctx: Any, rows_BD: torch.Tensor, scale: torch.Tensor, rows_grad: torch.Tensor, columns_grad: torch.Tensor
) -> None:
    """Apply the factor, and keep the gradients; that of the scale follows from the rows', logits being scale * x."""
    scale_grad = (rows_grad * rows_BD).sum() / len(rows_BD)
    factor = scale.detach() / len(rows_BD)
    ctx.save_for_backward(rows_grad.mul_(factor), columns_grad.mul_(factor), scale_grad)
