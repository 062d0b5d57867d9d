"""The token embedding row by row: each step reads and updates only the rows of its own tokens.

A worldwide table of 901,629 rows is most of a small model, and a dense AdamW step touches all of it.  Here

- each rank holds its shard of the rows (all of them on one process), with their optimizer state;
- a step fetches the rows of its tokens from their owners, and sends their gradients back, summed by the owner;
- a row follows exactly AdamW over the steps whose batch contains its token.  Dense AdamW differs in the other rows: at
  each step they decay, drift by their old momentum, and their moments fade.

V rows of the table, D width, U distinct tokens of a rank's batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World, shard_rows

if TYPE_CHECKING:
    from transformers import MetaClip2Model

NAME = "text_model.embeddings.token_embedding.weight"  # of the whole table, in the Hugging Face folder


class SparseEmbedding(torch.nn.Module):
    """Replaces the model's token embedding.  Its rows are plain tensors, so that DDP and FSDP leave them alone."""

    def __init__(self, weight_VD: torch.Tensor, world: World, config: TrainConfig, pad_id: int) -> None:
        super().__init__()
        self.world, self.config, self.pad_id = world, config, pad_id
        self.num_rows = len(weight_VD)
        self.first, self.last = shard_rows(self.num_rows, world)
        self.weight = weight_VD[self.first : self.last].detach().clone()
        self.exp_avg = torch.zeros_like(self.weight)
        self.exp_avg_sq = torch.zeros_like(self.weight)
        self.row_steps = torch.zeros(len(self.weight), dtype=torch.int64, device=self.weight.device)
        self.grad: torch.Tensor | None = None
        """(touched rows, D): gradient of the global batch for this rank's rows."""
        self._touched = torch.zeros(0, dtype=torch.int64)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint stores of this rank's rows, by kind.  Memory is shared."""
        return {name: getattr(self, name) for name in ("exp_avg", "exp_avg_sq", "row_steps")} | {"weights": self.weight}

    def fetch(self, ids: np.ndarray) -> None:
        """Copy the rows of a batch's tokens to this rank, before its forward pass."""
        device = self.weight.device
        # Padding is read in the forward pass.  It receives a gradient only where a text really contains the pad id.
        self._ids_U = torch.from_numpy(np.unique(np.append(ids, self.pad_id))).to(device)
        self._is_token_U = torch.from_numpy(np.isin(self._ids_U.cpu().numpy(), ids)).to(device)
        requested_ids, sent, received = self._send_to_owners(self._ids_U)
        rows_UD = self._exchange(self.weight[requested_ids - self.first], received, sent)
        self._rows_UD = rows_UD.requires_grad_()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return (..., D): the rows of `ids`, all of which `fetch` has brought."""
        return torch.nn.functional.embedding(torch.searchsorted(self._ids_U, ids), self._rows_UD)

    def collect_gradients(self) -> None:
        """Send the gradients of the rows to their owners, which average them over ranks as DDP does."""
        assert self._rows_UD.grad is not None
        ids, sent, received = self._send_to_owners(self._ids_U[self._is_token_U])
        grad = self._exchange(self._rows_UD.grad[self._is_token_U], sent, received)
        self._touched, position = torch.unique(ids - self.first, return_inverse=True)
        summed = grad.new_zeros((len(self._touched), grad.shape[1]))
        self.grad = summed.index_add_(0, position, grad).div_(self.world.size)

    @torch.no_grad()
    def update(self, lr: float, clip_factor: float) -> None:
        """Take an AdamW step on the touched rows.  clip_factor: what gradient clipping multiplies gradients by.

        The operations and their order are those of torch.optim.AdamW with decoupled decay; the bias correction uses
        each row's own number of steps.
        """
        assert self.grad is not None
        config, rows = self.config, self._touched
        grad = self.grad * clip_factor
        row_steps = self.row_steps[rows] + 1
        exp_avg = self.exp_avg[rows].lerp_(grad, 1 - config.beta1)
        exp_avg_sq = self.exp_avg_sq[rows].mul_(config.beta2).addcmul_(grad, grad, value=1 - config.beta2)
        correction_1 = 1 - config.beta1 ** row_steps.float()[:, None]
        correction_2 = 1 - config.beta2 ** row_steps.float()[:, None]
        denominator = (exp_avg_sq / correction_2).sqrt_().add_(config.eps)
        weight = self.weight[rows].mul_(1 - lr * config.weight_decay).sub_(lr * (exp_avg / correction_1) / denominator)
        self.weight.index_copy_(0, rows, weight)
        self.exp_avg.index_copy_(0, rows, exp_avg)
        self.exp_avg_sq.index_copy_(0, rows, exp_avg_sq)
        self.row_steps.index_copy_(0, rows, row_steps)

    def _send_to_owners(self, ids: torch.Tensor) -> tuple[torch.Tensor, list[int], list[int]]:
        """Send each id, in ascending order, to the rank that holds its row.

        Returns (ids that this rank received, counts sent to each rank, counts received from each rank).
        """
        if self.world.size == 1:
            return ids, [len(ids)], [len(ids)]
        last_rows = [shard_rows(self.num_rows, World(rank, self.world.size))[1] for rank in range(self.world.size)]
        ends = torch.searchsorted(ids, torch.tensor(last_rows, device=ids.device))
        sent = torch.diff(ends, prepend=ends.new_zeros(1))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        sent_counts, received_counts = sent.tolist(), received.tolist()
        return self._exchange(ids, sent_counts, received_counts), sent_counts, received_counts

    def _exchange(self, values: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        """Send sent[r] consecutive rows of `values` to rank r, and return the rows received, by rank."""
        if self.world.size == 1:
            return values
        out = values.new_empty((sum(received), *values.shape[1:]))
        dist.all_to_all_single(out, values.contiguous(), received, sent)
        return out


def replace_token_embedding(model: MetaClip2Model, world: World, config: TrainConfig) -> SparseEmbedding:
    """Replace the model's token embedding by a SparseEmbedding with the same rows, and return it."""
    embeddings = model.text_model.embeddings
    text_config: Any = model.config.text_config
    sparse = SparseEmbedding(embeddings.token_embedding.weight, world, config, text_config.pad_token_id)
    embeddings.token_embedding = sparse
    return sparse
