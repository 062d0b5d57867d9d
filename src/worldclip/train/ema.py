"""A slow copy of the weights: after each update, copy = decay * copy + (1 - decay) * weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor


class Ema:
    """The mean of the weights over about the last 1 / (1 - decay) updates.  Under FSDP each rank has its own rows'."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._weights = {name: local(parameter.detach()) for name, parameter in parameters.items()}
        self.shadow = {name: weight.clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(list(self.shadow.values()), list(self._weights.values()), 1 - self.decay)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor; all of it where it is not sharded.  Shares memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
