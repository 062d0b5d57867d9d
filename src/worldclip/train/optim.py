"""The optimizer (AdamW with the reference's parameter groups) and the EMA of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor

from worldclip.train.config import TrainConfig
from worldclip.train.distributed import local_tensor


def create_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW without weight decay for one-dimensional parameters and scalars.  Each step sets its groups' lr."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_sharded = any(isinstance(parameter, DTensor) for parameter in trained)
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim == 1 or (p.ndim < 1 and not is_sharded)], "weight_decay": 0.0},
    ]
    if is_sharded:  # the scalars are plain tensors, and fused AdamW may not mix them with DTensors in one group
        groups.append({"params": [p for p in trained if p.ndim < 1], "weight_decay": 0.0})
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=trained[0].device.type != "mps",
    )


class Ema:
    """Exponential moving average of the weights: ema = decay * ema + (1 - decay) * weights after each update.

    It averages over about the last 1 / (1 - decay) updates.  Under FSDP each rank holds the EMA of its own shard.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._weights = {name: local_tensor(parameter.detach()) for name, parameter in parameters.items()}
        self.shadow = {name: weight.clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the EMA towards the present weights, all tensors in one kernel."""
        torch._foreach_lerp_(list(self.shadow.values()), list(self._weights.values()), 1 - self.decay)
