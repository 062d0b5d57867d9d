"""The token embedding row by row: each step reads and updates only the rows of its own tokens.

A worldwide table of 901,629 rows is most of a small model, and a dense AdamW step touches all of it.  Here

- each rank holds every world-size-th row (all of them on one process), with its optimizer state.  Tokenizers number
  frequent tokens first: consecutive rows would give the first rank most of the work;
- a step fetches the rows of its tokens from their owners, and sends their gradients back, summed by the owner;
- a row follows dense AdamW.  A step without its token would move it by weight decay and by its old momentum: that is
  made up for when the row is fetched next, for all such steps in one operation (`IdleUpdates`).

V rows of the table, D width, U distinct tokens of a rank's batch, R rows that a rank is asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World

if TYPE_CHECKING:
    from transformers import MetaClip2Model

NAME = "text_model.embeddings.token_embedding.weight"  # name of the whole table in the Hugging Face folder
CHUNK_ROWS = 65_536  # rows that are brought up to date at a time, for a checkpoint
NEGLIGIBLE = 1e-10  # share of its first step that momentum still adds after the window


class IdleUpdates:
    """The effect of dense AdamW on a row in the updates that have no gradient for it.

    A row of weight w and moments m, v, last touched by update s, is changed by update s + j, at learning rate lr, to

        w * (1 - lr * weight_decay) - lr / c1 * beta1^j * m / (sqrt(beta2^j * v) / sqrt(c2) + eps)

    with c1 = 1 - beta1^(s + j) and c2 = 1 - beta2^(s + j).  With eps next to sqrt(v), where it fades as the moment
    does, the second term is m / (sqrt(v) + eps) times a factor that depends only on s and j, and falls with
    (beta1 / sqrt(beta2))^j.  So all updates since s are one multiplication and one subtraction, whose factors are kept
    here by s.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.count = 0  # number of updates
        # MPS has no float64
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._log_decay = torch.zeros(1, dtype=dtype, device=device)  # log of the product of decays so far, per update
        self._drift = torch.zeros(1, dtype=dtype, device=device)  # sum of the factors since update s, per update
        ratio = config.beta1 / math.sqrt(config.beta2) if config.beta2 else 0.0
        window = math.ceil(math.log(NEGLIGIBLE) / math.log(ratio)) if ratio else 1
        self._fading = ratio ** torch.arange(window, 0, -1, dtype=dtype, device=device)

    def add(self, lr: float) -> None:
        """Count an update at this learning rate."""
        config, last = self.config, self.count
        self.count += 1
        if self.count == len(self._log_decay):
            self._log_decay, self._drift = (
                torch.cat([values, torch.zeros_like(values)]) for values in (self._log_decay, self._drift)
            )
        self._log_decay[self.count] = self._log_decay[last] + math.log1p(-lr * config.weight_decay)
        recent = slice(max(0, self.count - len(self._fading)), self.count)
        factor = lr * math.sqrt(1 - config.beta2**self.count) / (1 - config.beta1**self.count)
        # divided by the decay since then, which `since` multiplies the difference with
        decay = torch.exp(self._log_decay[self.count] - self._log_decay[recent])
        self._drift[recent] += factor * self._fading[-(recent.stop - recent.start) :] / decay

    def since(self, updates_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (decay, drift), (R, 1) float32 each, for rows touched last by these updates.

        The present weight is (weight - drift * exp_avg / (sqrt(exp_avg_sq) + eps)) * decay.
        """
        decay = torch.exp(self._log_decay[self.count] - self._log_decay[updates_R])
        return decay.float()[:, None], self._drift[updates_R].float()[:, None]

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint stores: (updates + 1,) each.  Memory is shared."""
        return {"idle_decay": self._log_decay[: self.count + 1], "idle_drift": self._drift[: self.count + 1]}

    def restore(self, count: int, state: dict[str, torch.Tensor]) -> None:
        """Go on after `count` updates, from their `state`."""
        self.count = count
        self._log_decay = state["idle_decay"].to(self._log_decay).clone()
        self._drift = state["idle_drift"].to(self._drift).clone()


class SparseEmbedding(torch.nn.Module):
    """Replaces the model's token embedding.  Its rows are plain tensors, so that DDP and FSDP leave them alone."""

    def __init__(
        self,
        weight_VD: torch.Tensor,
        world: World,
        config: TrainConfig,
        pad_id: int,
        device: torch.device | None = None,
    ) -> None:
        """device: that of the rows, if weight_VD has no memory (meta) and they are read from a checkpoint."""
        super().__init__()
        self.world, self.config, self.pad_id = world, config, pad_id
        self.num_rows = len(weight_VD)
        self.own_rows = slice(world.rank, self.num_rows, world.size)
        """This rank's rows of the whole table."""
        own_RD = weight_VD[self.own_rows].detach()
        self.weight = torch.empty_like(own_RD, device=device) if own_RD.is_meta else own_RD.clone()
        self.exp_avg = torch.zeros_like(self.weight)
        self.exp_avg_sq = torch.zeros_like(self.weight)
        self.row_updates = torch.zeros(len(self.weight), dtype=torch.int64, device=self.weight.device)
        """The update after which each row is as it is here."""
        self.idle = IdleUpdates(config, self.weight.device)
        self.grad: torch.Tensor | None = None
        """(touched rows, D): gradient of the global batch for this rank's rows."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs of this rank's rows, by kind.  Memory is shared."""
        return {
            "rows": self.weight,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "row_updates": self.row_updates,
        }

    def present_weight(self) -> torch.Tensor:
        """Return this rank's rows as they are after the last update, on the CPU.  Changes nothing here.

        A checkpoint that changed the rows would let later weights depend, in rounding, on when it was written.
        """
        chunks = torch.arange(len(self.weight), device=self.weight.device).split(CHUNK_ROWS)
        return torch.cat([self._present(rows)[0].cpu() for rows in chunks] or [self.weight.cpu()])

    def fetch(self, ids: np.ndarray, *, is_update_next: bool = True) -> None:
        """Copy the rows of a batch's tokens to this rank, before its forward pass.

        Padding is among them: it is read in the forward pass, though without a gradient.  is_update_next: False
        changes no row, so that a measurement changes no later rounding.
        """
        ids_U = np.unique(np.append(ids, self.pad_id))
        owner_U = ids_U % self.world.size
        by_owner = np.argsort(owner_U, kind="stable")
        self._sent = np.bincount(owner_U, minlength=self.world.size).tolist()
        device = self.weight.device
        self._ids_U = torch.from_numpy(ids_U).to(device)
        self._place_U = torch.from_numpy(np.argsort(by_owner)).to(device)  # place of each id in the order by owner
        one_each = [1] * self.world.size  # each rank learns how many rows others request of it
        self._received = self._exchange(torch.tensor(self._sent, device=device), one_each, one_each).tolist()
        requested_R = self._exchange(self._ids_U[torch.from_numpy(by_owner).to(device)], self._sent, self._received)
        rows_R = requested_R // self.world.size  # indices into this rank's rows
        self._touched, self._touched_R = torch.unique(rows_R, return_inverse=True)
        if is_update_next:
            self._bring_up_to_date(self._touched)
            rows_RD = self.weight[rows_R]
        else:
            rows_RD = self._present(self._touched)[0][self._touched_R]
        self._rows_UD = self._exchange(rows_RD, self._received, self._sent).requires_grad_()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return (..., D): the rows of `ids`, all of which `fetch` has brought."""
        return torch.nn.functional.embedding(self._place_U[torch.searchsorted(self._ids_U, ids)], self._rows_UD)

    def collect_gradients(self) -> None:
        """Send the gradients of the rows to their owners, which average them over ranks as DDP does."""
        assert self._rows_UD.grad is not None
        grad_RD = self._exchange(self._rows_UD.grad, self._sent, self._received)
        summed = grad_RD.new_zeros((len(self._touched), grad_RD.shape[1]))
        self.grad = summed.index_add_(0, self._touched_R, grad_RD).div_(self.world.size)

    @torch.no_grad()
    def update(self, lr: float, clip_factor: float) -> None:
        """Take an AdamW step on the fetched rows.  clip_factor: what gradient clipping multiplies gradients by.

        The operations and their order are those of torch.optim.AdamW with decoupled decay.
        """
        assert self.grad is not None
        config, rows = self.config, self._touched
        self.idle.add(lr)
        grad = self.grad * clip_factor
        exp_avg = self.exp_avg[rows].lerp_(grad, 1 - config.beta1)
        exp_avg_sq = self.exp_avg_sq[rows].mul_(config.beta2).addcmul_(grad, grad, value=1 - config.beta2)
        correction_1 = 1 - config.beta1**self.idle.count
        correction_2 = 1 - config.beta2**self.idle.count
        denominator = (exp_avg_sq.sqrt() / math.sqrt(correction_2)).add_(config.eps)
        weight = self.weight[rows].mul_(1 - lr * config.weight_decay)
        self._store(rows, weight.addcdiv_(exp_avg, denominator, value=-lr / correction_1), exp_avg, exp_avg_sq)

    @torch.no_grad()
    def _bring_up_to_date(self, rows: torch.Tensor) -> None:
        """Make up for the updates that rows have missed."""
        weight, idle_updates = self._present(rows)
        fading = idle_updates.float()[:, None]
        exp_avg = self.exp_avg[rows] * self.config.beta1**fading
        exp_avg_sq = self.exp_avg_sq[rows] * self.config.beta2**fading
        self._store(rows, weight, exp_avg, exp_avg_sq)

    @torch.no_grad()
    def _present(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (weights of rows after the last update, number of updates that each has missed)."""
        updates = self.row_updates[rows]
        decay, drift = self.idle.since(updates)
        direction = self.exp_avg[rows].div_(self.exp_avg_sq[rows].sqrt_().add_(self.config.eps))
        return (self.weight[rows] - direction.mul_(drift)).mul_(decay), self.idle.count - updates

    def _store(self, rows: torch.Tensor, weight: torch.Tensor, exp_avg: torch.Tensor, exp_avg_sq: torch.Tensor) -> None:
        """Store rows as they are after the last update."""
        self.weight.index_copy_(0, rows, weight)
        self.exp_avg.index_copy_(0, rows, exp_avg)
        self.exp_avg_sq.index_copy_(0, rows, exp_avg_sq)
        self.row_updates.index_fill_(0, rows, self.idle.count)

    def _exchange(self, values: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        """Send sent[r] consecutive rows of `values` to rank r, and return the rows received, by rank."""
        if self.world.size == 1:
            return values
        out = values.new_empty((sum(received), *values.shape[1:]))
        dist.all_to_all_single(out, values.contiguous(), received, sent)
        return out


def replace_token_embedding(
    model: MetaClip2Model, world: World, config: TrainConfig, device: torch.device
) -> SparseEmbedding:
    """Replace the model's token embedding by a SparseEmbedding with the same rows, and return it.

    device: see SparseEmbedding.
    """
    embeddings = model.text_model.embeddings
    text_config: Any = model.config.text_config
    sparse = SparseEmbedding(embeddings.token_embedding.weight, world, config, text_config.pad_token_id, device)
    embeddings.token_embedding = sparse
    return sparse
