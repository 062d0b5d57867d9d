"""Rows of the token table: each is AdamW on the steps that hold its token, and nothing else moves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.sparse_embedding import TokenTable

ROWS, WIDTH, PAD = 9, 4, 1
STEPS = [[2, 5, 5, 8], [5, 3], [2, 3, 5], [8], [5, 2, 2]]
LRS = [0.1, 0.05, 0.2, 0.1, 0.03]


def make(config=TrainConfig(weight_decay=0.2)):  # noqa: B008  frozen
    whole = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    return whole, TokenTable(whole, World(), config, PAD)


def direction(step: int) -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(step))


def train(table: TokenTable, factor: float = 1.0) -> None:
    """Steps whose loss is a given linear function of each row, once for each time that its token occurs."""
    for step, (ids, lr) in enumerate(zip(STEPS, LRS, strict=True)):
        table.fetch(np.array(ids))
        padded = torch.tensor([[*ids, PAD, PAD]])
        (table(padded)[0, : len(ids)] * direction(step)[torch.tensor(ids)]).sum().backward()
        table.collect_gradients()
        table.update(lr, factor)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_a_row_is_adamw_on_the_steps_that_hold_its_token(factor):
    config = TrainConfig(weight_decay=0.2)
    whole, table = make(config)
    train(table, factor)
    for row in range(ROWS):
        weight = torch.nn.Parameter(whole[row].clone())
        betas = (config.beta1, config.beta2)
        optimizer = torch.optim.AdamW([weight], betas=betas, eps=config.eps, weight_decay=config.weight_decay)
        for step, (ids, lr) in enumerate(zip(STEPS, LRS, strict=True)):
            if row in ids:
                weight.grad = factor * ids.count(row) * direction(step)[row]
                optimizer.param_groups[0]["lr"] = lr
                optimizer.step()
        torch.testing.assert_close(table.weight[row], weight.detach(), rtol=1e-5, atol=1e-6)


def test_where_every_step_holds_a_row_it_is_the_dense_rule():
    """And where one does not, the dense rule moves the row all the same: by decay, and by its old momentum."""
    config = TrainConfig(weight_decay=0.2)
    whole, table = make(config)
    train(table)
    dense = torch.nn.Parameter(whole.clone())
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW([dense], betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    for step, (ids, lr) in enumerate(zip(STEPS, LRS, strict=True)):
        dense.grad = torch.zeros_like(dense)
        for token in ids:
            dense.grad[token] += direction(step)[token]
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        if step == 0:
            touched = torch.tensor(sorted(set(ids)))
            first = dense.detach()[touched].clone()
    after_one = make(config)[1]
    after_one.fetch(np.array(STEPS[0]))
    ids = torch.tensor(STEPS[0])
    (after_one(ids) * direction(0)[ids]).sum().backward()
    after_one.collect_gradients()
    after_one.update(LRS[0], 1.0)
    torch.testing.assert_close(after_one.weight[touched], first, rtol=1e-5, atol=1e-6)
    rare = 8  # in steps 0 and 3 alone
    assert (dense.detach()[rare] - table.weight[rare]).abs().max() > 1e-2
    torch.testing.assert_close(dense.detach()[0], whole[0] * np.prod([1 - lr * 0.2 for lr in LRS]).item())
    assert torch.equal(table.weight[0], whole[0])


def test_padding_is_read_and_never_moved():
    whole, table = make()
    train(table)
    assert torch.equal(table.weight[PAD], whole[PAD])
    table.fetch(np.array([4, PAD]))  # unless it is a token of a text
    table(torch.tensor([[4, PAD]])).sum().backward()
    table.collect_gradients()
    table.update(0.1, 1.0)
    assert not torch.equal(table.weight[PAD], whole[PAD])
