"""AdamW with the reference's parameter groups, and the learning rate of a step."""

from __future__ import annotations

import math

import torch
from torch.distributed.tensor import DTensor

from worldclip.train.config import TrainConfig


def create_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; one-dimensional parameters and scalars do not decay.  Its groups' lr is set at each step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_sharded = any(isinstance(parameter, DTensor) for parameter in trained)
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim == 1 or (p.ndim < 1 and not is_sharded)], "weight_decay": 0.0},
    ]
    if is_sharded:  # the scalars are replicated, and one call may not mix the two kinds
        groups.append({"params": [p for p in trained if p.ndim < 1], "weight_decay": 0.0})
    betas = (config.beta1, config.beta2)
    fused = trained[0].device.type != "mps"
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=fused)


def learning_rate(step: int, num_steps: int, num_warmup_steps: int, peak: float) -> float:
    """Of step `step` (from 0): linear to `peak` over the warm-up, then half a cosine to 0 behind the last step."""
    if step < num_warmup_steps:
        return peak * (step + 1) / num_warmup_steps
    done = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * peak * (1 + math.cos(math.pi * done))
