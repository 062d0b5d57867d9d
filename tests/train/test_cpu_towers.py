"""Towers on a CPU against the plain ones: float32 up to rounding; bfloat16 close to it, exact where it is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from on_ranks import make_batch, make_state
from worldclip.train.cpu_towers import Product
from worldclip.train.distributed import ALONE
from worldclip.train.step import train_step

BF16 = {"precision": "bf16"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "siglip": {"loss": "siglip"},
    "patch dropout": {"patch_dropout": 0.5},
    "lora": {"lora_rank": 4},
    "frozen": {"freeze": ("vision",)},
}


def gradients(variant: dict[str, Any], *, is_plain: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    """Return loss and gradients of one step; is_plain: by model/towers.py, with padded texts."""
    state = make_state(variant, ALONE)
    if is_plain:
        state.model._towers = None
    loss = train_step(state, make_batch(variant, 0, 1), 0.0).loss
    parameters = state.model.checkpoint_parameters().items()
    return loss, {name: parameter.grad.clone() for name, parameter in parameters if parameter.grad is not None}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_float32_gradients_are_those_of_the_plain_towers(
    name: str, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    loss, expected = gradients(VARIANTS[name], is_plain=True)
    own_loss, own = gradients(VARIANTS[name])
    assert own_loss == pytest.approx(loss, rel=1e-5)
    assert own.keys() == expected.keys()
    for key, grad in expected.items():
        assert (own[key] - grad).norm() <= 3e-5 * grad.norm() + 1e-6, key


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_are_those_of_float32_up_to_rounding(name: str) -> None:
    loss, expected = gradients(VARIANTS[name])
    own_loss, own = gradients(VARIANTS[name] | BF16)
    assert own_loss == pytest.approx(loss, rel=0.01)
    assert own_loss != loss
    assert own.keys() == expected.keys()
    total = torch.cat([grad.flatten() for grad in expected.values()])
    difference = torch.cat([(own[key] - grad).flatten() for key, grad in expected.items()])
    assert difference.norm() < 0.03 * total.norm()
    assert all(grad.dtype == torch.float32 for grad in own.values())


@pytest.mark.parametrize(
    "changes", [{"activation_checkpointing": True}, {"activation_checkpointing": 1, "patch_dropout": 0.5}]
)
def test_recomputed_blocks_give_the_same_bits(changes: dict[str, Any]) -> None:
    loss, expected = gradients(changes | BF16 | {"activation_checkpointing": False})
    own_loss, own = gradients(changes | BF16)
    assert own_loss == loss
    assert all(torch.equal(own[name], grad) for name, grad in expected.items())


def test_accumulated_gradients_are_those_of_the_whole_batch_up_to_rounding() -> None:
    loss, expected = gradients(BF16)
    own_loss, own = gradients(BF16 | {"accum_steps": 4})
    assert own_loss == pytest.approx(loss, rel=1e-2)
    for name, grad in expected.items():
        assert (own[name] - grad).norm() <= 0.03 * grad.norm() + 1e-5, name


def test_product_is_that_of_the_renewed_copies() -> None:
    layer = torch.nn.Linear(3, 5)
    product, inputs = Product([layer], torch.bfloat16), torch.eye(3, dtype=torch.bfloat16)
    for factor in (1, 2):
        layer.weight.data.mul_(factor)
        product.renew()
        expected = layer.weight.bfloat16().T + layer.bias.bfloat16()
        (own,) = product(inputs)
        assert torch.equal(own, expected)


def take_steps(variant: dict[str, Any]) -> list[float]:
    state, batch = make_state(variant, ALONE), make_batch(variant, 0, 1)
    return [train_step(state, batch, 1e-3).loss for _ in range(8)]


def test_steps_train_as_in_float32() -> None:
    plain, own = take_steps({}), take_steps(BF16)
    assert own == pytest.approx(plain, rel=0.03)
    assert plain[-1] < plain[0]
