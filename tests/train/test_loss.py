"""The chunked losses against the full matrix, in float64 so that rounding hides no error."""

from __future__ import annotations

import math

import pytest
import torch

from worldclip.train.loss import contrastive_loss, siglip_loss


def features(num_pairs, dtype=torch.float64):
    generator = torch.Generator().manual_seed(num_pairs)
    rows = [torch.randn(num_pairs, 7, generator=generator, dtype=dtype) for _ in range(2)]
    return [torch.nn.functional.normalize(features, dim=-1).requires_grad_() for features in rows]


def value_and_gradients(compute_loss, num_pairs, dtype=torch.float64):
    image, text = features(num_pairs, dtype)
    log_scale = torch.tensor(math.log(9.0), dtype=dtype, requires_grad=True)
    bias = torch.tensor(-3.0, dtype=dtype, requires_grad=True)
    loss = compute_loss(image, text, log_scale.exp(), bias)
    (3 * loss).backward()  # a factor, so that the incoming gradient is not 1
    return loss.detach(), image.grad, text.grad, log_scale.grad, bias.grad


def plain_siglip(image, text, scale, bias):
    """arXiv:2303.15343, algorithm 1, word for word."""
    logits = image @ text.T * scale + bias
    labels = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -torch.nn.functional.logsigmoid(labels * logits).sum() / len(image)


@pytest.mark.parametrize("num_pairs", [1, 2, 5, 64, 101])
@pytest.mark.parametrize("chunk_rows", [1, 7, 40])
def test_chunks_change_neither_value_nor_gradient(num_pairs, chunk_rows):
    chunked = value_and_gradients(lambda i, t, s, b: contrastive_loss(i, t, s, chunk_rows=chunk_rows), num_pairs)
    full = value_and_gradients(lambda i, t, s, b: contrastive_loss(i, t, s), num_pairs)
    for actual, expected in zip(chunked[:4], full[:4], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


def test_chunks_agree_within_rounding_in_float32():
    chunked = value_and_gradients(lambda i, t, s, b: contrastive_loss(i, t, s, chunk_rows=70), 300, dtype=torch.float32)
    full = value_and_gradients(lambda i, t, s, b: contrastive_loss(i, t, s), 300, dtype=torch.float32)
    for actual, expected in zip(chunked[:4], full[:4], strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=1e-7)


def test_chunked_loss_equals_that_of_open_clip():
    open_clip = pytest.importorskip("open_clip")
    expected = value_and_gradients(lambda i, t, s, b: open_clip.ClipLoss()(i, t, s), 40)
    actual = value_and_gradients(lambda i, t, s, b: contrastive_loss(i, t, s, chunk_rows=3), 40)
    for one, other in zip(actual[:4], expected[:4], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("num_pairs", [1, 3, 64])
@pytest.mark.parametrize("chunk_rows", [1, 20, 10**6])
def test_siglip_loss_equals_the_algorithm_of_its_paper(num_pairs, chunk_rows):
    chunked = value_and_gradients(lambda *args: siglip_loss(*args, chunk_rows=chunk_rows), num_pairs)
    for one, other in zip(chunked, value_and_gradients(plain_siglip, num_pairs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_logits_too_large_for_exp_in_float32_give_a_finite_loss():
    image, text = features(30, torch.float32)
    scale = torch.tensor(1e4)
    assert torch.isfinite(contrastive_loss(image, text, scale, chunk_rows=2))
    assert torch.isfinite(siglip_loss(image, text, scale, torch.tensor(0.0)))


def test_no_tensor_as_large_as_the_matrix_is_allocated():
    """The profiler sees every allocation of forward and backward; none is larger than a chunk or the features."""
    num_pairs, chunk_rows = 512, 8
    image, text = (torch.nn.functional.normalize(torch.randn(num_pairs, 8), dim=-1).requires_grad_() for _ in range(2))
    with torch.profiler.profile(profile_memory=True) as profile:
        contrastive_loss(image, text, torch.tensor(5.0), chunk_rows=chunk_rows).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 4 * 4 * num_pairs * max(chunk_rows, 8) < 4 * num_pairs**2
