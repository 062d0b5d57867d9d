"""The sparse embedding: rows follow dense AdamW, although a step touches only those of its own tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.sparse_embedding import IdleUpdates, SparseEmbedding

ROWS, WIDTH, PAD = 9, 4, 1
CONFIG = TrainConfig(weight_decay=0.2)
# row 6 only at the first step, 3 once in the middle, 7 rarely, 0 and 4 never
STEPS = [[6, 2, 5], [2, 5, 5, 8], [5, 3], [2, 7, 5], *[[8, 5, 5]] * 40, [5, 7, 2]] * 2
STEPS = [[token for token in ids if token != 6 or step == 0] for step, ids in enumerate(STEPS)]
LRS = [0.1 * (1 + step % 7) / 8 for step in range(len(STEPS))]


def make_embedding(config: TrainConfig = CONFIG) -> tuple[torch.Tensor, SparseEmbedding]:
    whole = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    return whole, SparseEmbedding(whole, World(), config, PAD)


def row_gradients(step: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(step))


def take_step(table: SparseEmbedding, step: int, factor: float = 1.0, scale: float = 1.0) -> None:
    """Take a step whose loss is linear in each row, once per occurrence of its token."""
    ids = torch.tensor(STEPS[step])
    table.fetch(ids.numpy())
    padded = torch.cat([ids, torch.tensor([PAD, PAD])])
    (table(padded)[: len(ids)] * row_gradients(step, scale)[ids]).sum().backward()
    table.collect_gradients()
    table.update(LRS[step], factor)


def train(table: SparseEmbedding, factor: float = 1.0, scale: float = 1.0) -> torch.Tensor:
    for step in range(len(STEPS)):
        take_step(table, step, factor, scale)
    return table.present_weight()


def dense_adamw(whole: torch.Tensor, config: TrainConfig, factor: float = 1.0, scale: float = 1.0) -> torch.Tensor:
    """Train the whole table with torch's AdamW, in float64."""
    weight = torch.nn.Parameter(whole.double())
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW([weight], betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    for step, ids in enumerate(STEPS):
        weight.grad = torch.zeros_like(weight)
        for token in ids:
            weight.grad[token] += factor * row_gradients(step, scale)[token]
        optimizer.param_groups[0]["lr"] = LRS[step]
        optimizer.step()
    return weight.detach().float()


@pytest.mark.parametrize("factor", [1.0, 0.25])
@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, beta2=0.98), TrainConfig(beta1=0.0)])
def test_every_row_follows_dense_adamw(config, factor):
    whole, table = make_embedding(config)
    expected = dense_adamw(whole, config, factor)
    assert (expected - whole).abs().min() > 0
    torch.testing.assert_close(train(table, factor), expected, rtol=5e-5, atol=5e-5)


def test_a_rare_token_learns_as_much_as_under_the_dense_rule():
    """A row that AdamW moves only in the steps of its token moves less than a fifth as far."""
    whole, table = make_embedding(dataclasses.replace(CONFIG, weight_decay=0.0))
    moved = (train(table)[6] - whole[6]).abs()
    assert moved.min() > 5 * LRS[0]
    alone = torch.nn.Parameter(whole[6].clone())
    alone.grad = row_gradients(0)[6]
    torch.optim.AdamW([alone], lr=LRS[0], weight_decay=0.0).step()
    torch.testing.assert_close((alone.detach() - whole[6]).abs(), torch.full((WIDTH,), LRS[0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("scale", "tolerance"), [(1e-3, 0.003), (1e-5, 0.25)])
def test_eps_changes_only_rows_whose_gradients_are_as_small(scale, tolerance):
    """eps fades with the moment here, under the dense rule it does not: it shows where gradients are near it (1e-6)."""
    whole, table = make_embedding()
    actual, expected = train(table, scale=scale) - whole, dense_adamw(whole, CONFIG, scale=scale) - whole
    assert float((actual - expected).norm() / expected.norm()) < tolerance


def test_reading_the_present_weights_changes_nothing():
    """Else a checkpoint more, after a signal, would change later weights."""
    _, plain = make_embedding()
    _, saved = make_embedding()
    for step in range(len(STEPS)):
        take_step(plain, step)
        take_step(saved, step)
        saved.present_weight()
    assert torch.equal(plain.weight, saved.weight)
    assert torch.equal(plain.present_weight(), saved.present_weight())


def test_a_restored_history_goes_on_to_the_bit():
    whole, restored = IdleUpdates(CONFIG, torch.device("cpu")), IdleUpdates(CONFIG, torch.device("cpu"))
    for step, lr in enumerate(LRS):
        whole.add(lr)
        if step == 50:
            restored.restore(whole.count, {kind: values.clone() for kind, values in whole.state().items()})
        elif step > 50:
            restored.add(lr)
    updates = torch.arange(len(LRS) + 1)
    for actual, expected in zip(restored.since(updates), whole.since(updates), strict=True):
        assert torch.equal(actual, expected)


def test_ranks_are_asked_for_equal_numbers_of_rows():
    """Tokens by Zipf's law, numbered by frequency: with consecutive rows the first of 8 ranks has 4 times its share."""
    num_rows, num_ranks = 100_000, 8
    frequency = 1 / np.arange(1, num_rows + 1)
    ids = np.unique(np.random.default_rng(0).choice(num_rows, 20_000, p=frequency / frequency.sum()))
    tables = [
        SparseEmbedding(torch.zeros(num_rows, 1), World(rank, num_ranks), CONFIG, PAD) for rank in range(num_ranks)
    ]
    counts = np.array([np.isin(ids, np.arange(num_rows)[table.own_rows]).sum() for table in tables])
    assert counts.sum() == len(ids)
    assert counts.max() < 1.1 * counts.mean()
    consecutive = np.bincount(ids // (num_rows // num_ranks), minlength=num_ranks)
    assert consecutive.max() > 4 * consecutive.mean()
