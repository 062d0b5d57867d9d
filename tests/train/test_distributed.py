"""Two ranks give the loss, gradients and weights of one, under DDP and FSDP, with every option of the step."""

from __future__ import annotations

import pytest
import torch

from on_ranks import VARIANTS, run_on_ranks


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return {world size: {variant: tensors}}."""
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("steps")
    for world_size in (1, 2):
        run_on_ranks("steps", folder, world_size)
    return {
        world_size: {name: load_file(folder / f"{name}.{world_size}.safetensors") for name in VARIANTS}
        for world_size in (1, 2)
    }


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Compare norms of whole tensors: a single gradient that cancels to nothing has no relative precision."""
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-6))


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_give_the_loss_gradients_and_weights_of_one(results, variant):
    one, two = results[1][variant], results[2][variant]
    assert set(one) == set(two)
    assert any(name.startswith("gradient ") for name in one)
    for name, expected in one.items():
        assert two[name].shape == expected.shape, name
        if name.endswith("k_proj.bias"):  # changes no softmax: its gradient is only rounding
            continue
        assert relative_difference(two[name], expected) < 1e-5, name


def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(results):
    whole, accumulated = results[1]["ddp"], results[1]["accumulation"]
    for name, expected in whole.items():
        if name.startswith(("gradient", "loss", "norm 0")) and not name.endswith("k_proj.bias"):
            assert relative_difference(accumulated[name], expected) < 1e-5, name


def test_fsdp_gives_the_loss_of_ddp(results):
    one, two = results[1]["fsdp"], results[2]["fsdp"]
    assert all(torch.equal(one[name], results[1]["ddp"][name]) for name in one)
    assert relative_difference(two["loss 2"], results[2]["ddp"]["loss 2"]) < 1e-5


def test_a_frozen_encoder_has_no_gradient_but_its_projection_has(results):
    frozen, plain = results[1]["checkpointing"], results[1]["ddp"]
    names = [name for name in frozen if name.startswith("weight vision_model")]
    assert names
    assert not any(name.startswith("gradient vision_model") for name in frozen)
    assert "gradient visual_projection.weight" in frozen
    assert "gradient vision_model.post_layernorm.weight" in plain


def test_clipping_reports_the_norm_before_clipping(results):
    plain, clipped = results[1]["ddp"], results[1]["clipped"]
    assert plain["norm 0"] == clipped["norm 0"] > 0.05
    assert relative_difference(clipped["weight logit_scale"], plain["weight logit_scale"]) > 0


def test_sparse_rows_have_the_gradient_norm_of_the_dense_table(results):
    assert relative_difference(results[1]["rows"]["norm 0"], results[1]["ddp"]["norm 0"]) < 1e-5
