"""The optimizer's parameter groups."""

from __future__ import annotations

import torch

from worldclip.train.config import TrainConfig
from worldclip.train.train_state import create_optimizer


def test_one_dimensional_parameters_have_no_weight_decay():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    model.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
    decayed, plain = create_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.3
    assert sorted(tuple(p.shape) for p in plain["params"]) == [(), (2,), (2,), (2,)]
    assert plain["weight_decay"] == 0
