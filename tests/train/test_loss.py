"""The chunked losses against the full matrix, in float64 so that rounding hides no error."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import get_args, get_type_hints

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from transformers.models.metaclip_2 import modeling_metaclip_2

from on_ranks import make_batch, make_state
from worldclip.core.errors import UserError
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import ALONE
from worldclip.train.loss import LOSSES, contrastive_loss, distillation_loss, siglip_loss
from worldclip.train.step import train_step

NEWER_NAME = "image_text_contrastive_loss"
reference_loss = getattr(modeling_metaclip_2, NEWER_NAME, None) or modeling_metaclip_2.metaclip_2_loss


def features(num_pairs, dim=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(num_pairs + dim)
    return [normalize(torch.randn(num_pairs, dim, generator=generator, dtype=dtype), dim=-1) for _ in range(2)]


def value_and_gradients(compute_loss, num_pairs, dtype):
    image, text = (rows.requires_grad_() for rows in features(num_pairs, dtype=dtype))
    log_scale = torch.tensor(math.log(9.0), dtype=dtype, requires_grad=True)
    bias = torch.tensor(-3.0, dtype=dtype, requires_grad=True)
    loss = compute_loss(image, text, log_scale.exp(), bias)
    (3 * loss).backward()  # a factor, so that the incoming gradient is not 1
    return [loss.detach(), image.grad, text.grad, log_scale.grad, *([] if bias.grad is None else [bias.grad])]


def assert_same(compute_loss, expected_loss, num_pairs, dtype=torch.float64, rtol=1e-12, atol=1e-13):
    """Compare values and gradients of two losses of (image, text, scale, bias)."""
    actual, expected = (value_and_gradients(loss, num_pairs, dtype) for loss in (compute_loss, expected_loss))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def contrastive(image, text, scale, bias, **options):
    return contrastive_loss(image, text, scale, **options)


def plain_siglip(image, text, scale, bias):
    """arXiv:2303.15343, algorithm 1, word for word."""
    logits = image @ text.T * scale + bias
    labels = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -torch.nn.functional.logsigmoid(labels * logits).sum() / len(image)


@pytest.mark.parametrize("num_pairs", [1, 2, 5, 64, 101])
@pytest.mark.parametrize("chunk_rows", [1, 7, 40])
def test_chunks_change_neither_value_nor_gradient(num_pairs, chunk_rows):
    assert_same(functools.partial(contrastive, chunk_rows=chunk_rows), contrastive, num_pairs)


def test_chunks_agree_within_rounding_in_float32():
    chunked = functools.partial(contrastive, chunk_rows=70)
    assert_same(chunked, contrastive, 300, torch.float32, rtol=2e-6, atol=1e-7)


def test_contrastive_loss_of_two_pairs_by_hand():
    image = torch.eye(2)
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # cosines: [[1, .6], [0, .8]]
    by_image = (math.log(1 + math.exp(2 * (0.6 - 1))) + math.log(1 + math.exp(2 * (0 - 0.8)))) / 2
    by_text = (math.log(1 + math.exp(2 * (0 - 1))) + math.log(1 + math.exp(2 * (0.6 - 0.8)))) / 2
    assert contrastive_loss(image, text, torch.tensor(2.0)).item() == pytest.approx((by_image + by_text) / 2, rel=1e-6)


def test_chunked_loss_equals_those_of_transformers_and_open_clip():
    chunked = functools.partial(contrastive, chunk_rows=3)
    assert_same(chunked, lambda i, t, s, b: reference_loss(s * t @ i.T), 40)
    open_clip = pytest.importorskip("open_clip")
    assert_same(chunked, lambda i, t, s, b: open_clip.ClipLoss()(i, t, s), 40)


@pytest.mark.parametrize("num_pairs", [1, 3, 64])
@pytest.mark.parametrize("chunk_rows", [1, 20, 10**6])
def test_siglip_loss_equals_the_algorithm_of_its_paper(num_pairs, chunk_rows):
    assert_same(lambda *args: siglip_loss(*args, chunk_rows=chunk_rows), plain_siglip, num_pairs)


@pytest.mark.parametrize("chunk_rows", [1, 3, 10**6])
def test_distillation_loss_is_cross_entropy_against_the_teachers_softmax_in_both_directions(chunk_rows):
    teacher_image, teacher_text = features(11, dim=5)

    def formula(image, text, scale, bias):
        logits, target = scale * image @ text.T, 20.0 * teacher_image @ teacher_text.T
        return (cross_entropy(logits, target.softmax(1)) + cross_entropy(logits.T, target.T.softmax(1))) / 2

    def chunked(image, text, scale, bias):
        return distillation_loss(image, text, scale, (teacher_image, teacher_text), 20.0, chunk_rows=chunk_rows)

    assert_same(chunked, formula, 11, rtol=1e-10, atol=1e-12)


def test_logits_too_large_for_exp_in_float32_give_a_finite_loss():
    image, text = features(30, dtype=torch.float32)
    scale = torch.tensor(1e4)
    assert torch.isfinite(contrastive_loss(image, text, scale, chunk_rows=2))
    assert torch.isfinite(siglip_loss(image, text, scale, torch.tensor(0.0)))


def test_no_tensor_as_large_as_the_matrix_is_allocated():
    """The profiler sees every allocation of forward and backward; none is larger than a chunk or the features."""
    num_pairs, chunk_rows = 512, 8
    image, text = (rows.requires_grad_() for rows in features(num_pairs, dim=8, dtype=torch.float32))
    with torch.profiler.profile(profile_memory=True) as profile:
        contrastive_loss(image, text, torch.tensor(5.0), chunk_rows=chunk_rows).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 4 * 4 * num_pairs * max(chunk_rows, 8) < 4 * num_pairs**2


def test_the_names_of_the_config_are_the_losses_that_a_step_knows():
    assert tuple(LOSSES) == get_args(get_type_hints(TrainConfig)["loss"])


def test_a_step_takes_the_loss_that_the_config_names(monkeypatch):
    monkeypatch.setitem(LOSSES, "squared", lambda image, text, *_, **__: (image - text).square().sum(1).mean())
    state, batch = make_state({}, ALONE), make_batch({}, 0, 1)
    named = dataclasses.replace(state, config=dataclasses.replace(state.config, loss="squared"))
    image, text = state.wrapped(batch.images, batch.tokens)
    expected = (image - text).square().sum(1).mean().item()
    assert train_step(named, batch, 1e-3).loss == pytest.approx(expected, rel=1e-5)


def test_an_unknown_loss_is_an_error_before_the_first_step(monkeypatch):
    monkeypatch.delitem(LOSSES, "siglip")
    with pytest.raises(
        UserError, match=r"train\.loss = 'siglip': unknown loss; LOSSES in train/loss\.py has contrastive"
    ):
        make_state({"loss": "siglip"}, ALONE)
