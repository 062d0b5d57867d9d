"""The sparse embedding: each row follows AdamW over the steps that contain its token, and nothing else moves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.sparse_embedding import SparseEmbedding

ROWS, WIDTH, PAD = 9, 4, 1
STEPS = [[2, 5, 5, 8], [5, 3], [2, 3, 5], [8], [5, 2, 2]]
LRS = [0.1, 0.05, 0.2, 0.1, 0.03]


def make_embedding(config=TrainConfig(weight_decay=0.2)):  # noqa: B008  frozen
    whole = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    return whole, SparseEmbedding(whole, World(), config, PAD)


def row_gradients(step: int) -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(step))


def train(table: SparseEmbedding, factor: float = 1.0) -> None:
    """Take steps whose loss is linear in each row, once per occurrence of its token."""
    for step, (ids, lr) in enumerate(zip(STEPS, LRS, strict=True)):
        table.fetch(np.array(ids))
        padded = torch.tensor([[*ids, PAD, PAD]])
        (table(padded)[0, : len(ids)] * row_gradients(step)[torch.tensor(ids)]).sum().backward()
        table.collect_gradients()
        table.update(lr, factor)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_a_row_follows_adamw_over_the_steps_that_contain_its_token(factor):
    config = TrainConfig(weight_decay=0.2)
    whole, table = make_embedding(config)
    train(table, factor)
    for row in range(ROWS):
        weight = torch.nn.Parameter(whole[row].clone())
        betas = (config.beta1, config.beta2)
        optimizer = torch.optim.AdamW([weight], betas=betas, eps=config.eps, weight_decay=config.weight_decay)
        for step, (ids, lr) in enumerate(zip(STEPS, LRS, strict=True)):
            if row in ids:
                weight.grad = factor * ids.count(row) * row_gradients(step)[row]
                optimizer.param_groups[0]["lr"] = lr
                optimizer.step()
        torch.testing.assert_close(table.weight[row], weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_row_in_every_step_follows_dense_adamw():
    """A row that a step does not contain moves under dense AdamW all the same, by decay and old momentum."""
    config = TrainConfig(weight_decay=0.2)
    whole, table = make_embedding(config)
    train(table)
    dense = torch.nn.Parameter(whole.clone())
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW([dense], betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    for step, (ids, lr) in enumerate(zip(STEPS, LRS, strict=True)):
        dense.grad = torch.zeros_like(dense)
        for token in ids:
            dense.grad[token] += row_gradients(step)[token]
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        if step == 0:
            touched = torch.tensor(sorted(set(ids)))
            first = dense.detach()[touched].clone()
    after_one = make_embedding(config)[1]
    after_one.fetch(np.array(STEPS[0]))
    ids = torch.tensor(STEPS[0])
    (after_one(ids) * row_gradients(0)[ids]).sum().backward()
    after_one.collect_gradients()
    after_one.update(LRS[0], 1.0)
    torch.testing.assert_close(after_one.weight[touched], first, rtol=1e-5, atol=1e-6)
    rare = 8  # only in steps 0 and 3
    assert (dense.detach()[rare] - table.weight[rare]).abs().max() > 1e-2
    torch.testing.assert_close(dense.detach()[0], whole[0] * np.prod([1 - lr * 0.2 for lr in LRS]).item())
    assert torch.equal(table.weight[0], whole[0])


def test_padding_is_read_but_never_updated():
    whole, table = make_embedding()
    train(table)
    assert torch.equal(table.weight[PAD], whole[PAD])
    table.fetch(np.array([4, PAD]))  # unless it is a token of a text
    table(torch.tensor([[4, PAD]])).sum().backward()
    table.collect_gradients()
    table.update(0.1, 1.0)
    assert not torch.equal(table.weight[PAD], whole[PAD])
