"""The optimizer's parameter groups, and the loss of two pairs by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.metaclip_2.modeling_metaclip_2 import image_text_contrastive_loss

from worldclip.train.config import TrainConfig
from worldclip.train.loss import contrastive_loss
from worldclip.train.train_state import create_optimizer


def test_contrastive_loss_of_two_pairs_by_hand():
    image = torch.eye(2)
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # cosines: [[1, .6], [0, .8]]
    by_image = (math.log(1 + math.exp(2 * (0.6 - 1))) + math.log(1 + math.exp(2 * (0 - 0.8)))) / 2
    by_text = (math.log(1 + math.exp(2 * (0 - 1))) + math.log(1 + math.exp(2 * (0.6 - 0.8)))) / 2
    assert contrastive_loss(image, text, torch.tensor(2.0)).item() == pytest.approx((by_image + by_text) / 2, rel=1e-6)


def test_contrastive_loss_equals_that_of_transformers():
    image, text = (torch.nn.functional.normalize(torch.randn(9, 5), dim=-1) for _ in range(2))
    expected = image_text_contrastive_loss(7.0 * text @ image.T)
    torch.testing.assert_close(contrastive_loss(image, text, torch.tensor(7.0)), expected)


def test_one_dimensional_parameters_have_no_weight_decay():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    model.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
    decayed, plain = create_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.3
    assert sorted(tuple(p.shape) for p in plain["params"]) == [(), (2,), (2,), (2,)]
    assert plain["weight_decay"] == 0
