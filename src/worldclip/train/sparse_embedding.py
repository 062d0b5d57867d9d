"""The token table row by row: each step reads and updates only the rows of its own tokens, wherever they lie.

A table of 901,629 rows is most of a small model, and a step of the dense rule touches all of it.  Here

- each rank holds its share of the rows (all of them on one process), with their moments;
- a step asks the owners for the rows of its tokens, and sends their gradients back, summed by the owner;
- a row is exactly AdamW on the steps whose batch holds its token.  The dense rule differs in what it does to all other
  rows at each step: there they decay, drift by their old momentum, and their moments fade.

V rows of the table, D width, U distinct tokens of a rank's batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World, share_of

if TYPE_CHECKING:
    from transformers import MetaClip2Model

NAME = "text_model.embeddings.token_embedding.weight"  # of the whole table, in the Hugging Face folder


class TokenTable(torch.nn.Module):
    """Stands in for the model's token embedding.  Its rows are no parameters: neither DDP nor FSDP may touch them."""

    def __init__(self, whole_VD: torch.Tensor, world: World, config: TrainConfig, pad_id: int) -> None:
        super().__init__()
        self.world, self.config, self.pad_id = world, config, pad_id
        self.num_rows = len(whole_VD)
        self.first, self.last = share_of(self.num_rows, world)
        self.weight = whole_VD[self.first : self.last].detach().clone()
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        self.row_steps = torch.zeros(len(self.weight), dtype=torch.int64, device=self.weight.device)
        self._touched = torch.zeros(0, dtype=torch.int64)
        self.grad: torch.Tensor | None = None
        """(rows touched, D) of the global batch, for the rows of this rank."""

    def fetch(self, ids: np.ndarray) -> None:
        """Bring the rows of a batch's tokens here, before its forward pass."""
        device = self.weight.device
        self._ids_U = torch.from_numpy(np.unique(np.append(ids, self.pad_id))).to(device)
        self._is_token_U = torch.from_numpy(np.isin(self._ids_U.cpu().numpy(), ids)).to(device)
        asked, counts, asked_counts = self._to_owners(self._ids_U)
        rows_UD = self._back(self.weight[asked - self.first], counts, asked_counts)
        self._rows_UD = rows_UD.requires_grad_()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(torch.searchsorted(self._ids_U, ids), self._rows_UD)

    def collect_gradients(self) -> None:
        """Send the gradients of the rows to their owners, who make their mean over ranks, as DDP does."""
        assert self._rows_UD.grad is not None
        ids_U, grad_UD = self._ids_U[self._is_token_U], self._rows_UD.grad[self._is_token_U]
        ids, counts, asked_counts = self._to_owners(ids_U)
        grad = self._exchange(grad_UD, counts, asked_counts)
        self._touched, place = torch.unique(ids - self.first, return_inverse=True)
        summed = grad.new_zeros((len(self._touched), grad.shape[1]))
        self.grad = summed.index_add_(0, place, grad).div_(self.world.size)

    @torch.no_grad()
    def update(self, lr: float, factor: float) -> None:
        """AdamW on the touched rows; factor: what clipping multiplies gradients by."""
        assert self.grad is not None
        config, rows, grad = self.config, self._touched, self.grad * factor
        steps = self.row_steps[rows] + 1
        mean = self.exp_avg[rows].lerp_(grad, 1 - config.beta1)
        square = self.exp_avg_sq[rows].mul_(config.beta2).addcmul_(grad, grad, value=1 - config.beta2)
        mean_correction, square_correction = (
            1 - beta ** steps.float()[:, None] for beta in (config.beta1, config.beta2)
        )
        size = (square / square_correction).sqrt_().add_(config.eps)
        weight = self.weight[rows].mul_(1 - lr * config.weight_decay).sub_(lr * (mean / mean_correction) / size)
        for whole, part in (
            (self.weight, weight),
            (self.exp_avg, mean),
            (self.exp_avg_sq, square),
            (self.row_steps, steps),
        ):
            whole.index_copy_(0, rows, part)

    def _to_owners(self, ids: torch.Tensor) -> tuple[torch.Tensor, list[int], list[int]]:
        """(ids that other ranks sent to this one, how many went to each rank, how many came); `ids` ascend."""
        if self.world.size == 1:
            return ids, [len(ids)], [len(ids)]
        bounds = [share_of(self.num_rows, World(rank, self.world.size))[1] for rank in range(self.world.size)]
        ends = torch.searchsorted(ids, torch.tensor(bounds, device=ids.device))
        counts = torch.diff(ends, prepend=ends.new_zeros(1))
        asked_counts = torch.empty_like(counts)
        dist.all_to_all_single(asked_counts, counts)
        sent, came = counts.tolist(), asked_counts.tolist()
        return self._exchange(ids, sent, came), sent, came

    def _exchange(self, values: torch.Tensor, sent: list[int], came: list[int]) -> torch.Tensor:
        if self.world.size == 1:
            return values
        out = values.new_empty((sum(came), *values.shape[1:]))
        dist.all_to_all_single(out, values.contiguous(), came, sent)
        return out

    def _back(self, values: torch.Tensor, sent: list[int], came: list[int]) -> torch.Tensor:
        return self._exchange(values, came, sent)


def replace_table(model: MetaClip2Model, world: World, config: TrainConfig) -> TokenTable:
    """Put a TokenTable with the model's own rows in the place of its token embedding."""
    embeddings = model.text_model.embeddings
    text: Any = model.config.text_config
    table = TokenTable(embeddings.token_embedding.weight, world, config, text.pad_token_id)
    embeddings.token_embedding = table
    return table
