"""Inference gives the features of transformers' forward pass, with fewer operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MetaClip2Config, MetaClip2Model

from worldclip.model import forward, onednn
from worldclip.model.forward import embed_pixels, embed_tokens
from worldclip.model.tokenizer import Tokens

WIDTH, LAYERS, PATCHES = 64, 3, 4


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def model(request):
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "hidden_act": request.param,
        "projection_dim": 16,
    }
    text = sizes | {"vocab_size": 50, "max_position_embeddings": 20, "eos_token_id": 2}
    config = MetaClip2Config(
        text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 16}, projection_dim=16
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MetaClip2Model(config).eval()
        for parameter in model.parameters():  # biases too, which are 0 at the start
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(params=[1, 10**9], ids=["onednn", "plain"])
def onednn_rows(request, monkeypatch) -> None:
    if request.param == 1 and not onednn.has_onednn(torch.float32):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(forward, "ONEDNN_ROWS", request.param)


def random_tokens(num: int) -> Tokens:
    random = np.random.default_rng(0)
    rows = [[*random.integers(4, 50, random.integers(0, 19)).tolist(), 2] for _ in range(num)]
    return Tokens.of(rows, pad_id=1)


def unit(output) -> torch.Tensor:
    return torch.nn.functional.normalize(output.pooler_output, dim=-1)


@pytest.mark.usefixtures("onednn_rows")
@pytest.mark.parametrize("cpu_tokens", [1, 11, 1024])
def test_images_have_the_features_of_transformers(model, monkeypatch, cpu_tokens):
    monkeypatch.setattr(forward, "CPU_TOKENS", cpu_tokens)
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = unit(model.get_image_features(pixel_values=pixels))
        torch.testing.assert_close(embed_pixels(model, pixels), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("onednn_rows")
@pytest.mark.parametrize(("num_chunks", "text_tokens"), [(1, 16_384), (4, 16_384), (4, 150), (50, 1)])
def test_texts_have_the_features_of_transformers(model, monkeypatch, num_chunks, text_tokens):
    monkeypatch.setattr(forward, "TEXT_TOKENS", text_tokens)
    tokens = random_tokens(40)
    with torch.inference_mode():
        expected = unit(model.get_text_features(input_ids=torch.from_numpy(tokens.padded())))
        torch.testing.assert_close(embed_tokens(model, tokens, num_chunks), expected, atol=1e-6, rtol=1e-5)


def test_half_precision_stays_half(model):
    half = type(model)(model.config).eval().to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    pixels, tokens = torch.randn(2, 3, 32, 32), random_tokens(3)
    images = embed_pixels(half, pixels.bfloat16()), embed_pixels(model, pixels)
    texts = embed_tokens(half, tokens, 1), embed_tokens(model, tokens, 1)
    for actual, expected in (images, texts):
        assert actual.dtype == torch.float32
        assert (actual * expected).sum(dim=1).min() > 0.99
        assert (actual - expected).abs().max() > 1e-5


def test_last_block_runs_for_pooled_tokens_alone_and_padding_not_at_all(model, monkeypatch):
    monkeypatch.setattr(forward, "ONEDNN_ROWS", 10**9)  # its operation is not counted
    tokens, num_images, num_texts = random_tokens(40), 3, 40
    image_flops = multiplications(lambda: embed_pixels(model, torch.zeros(num_images, 3, 32, 32)))
    text_flops = multiplications(lambda: embed_tokens(model, tokens, 4))
    patches = num_images * PATCHES * 3 * 16 * 16 * WIDTH
    assert image_flops == patches + encoder_multiplications(num_images * (PATCHES + 1), num_images)
    assert text_flops == encoder_multiplications(len(tokens.ids), num_texts)


def multiplications(run) -> int:
    """Return the multiplications of matrix products and convolutions, attention excepted."""
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return sum(count for name, count in counts.items() if "attention" not in str(name)) // 2


def encoder_multiplications(rows: int, pooled: int) -> int:
    of_row = 12 * WIDTH**2  # query, key, value, output 1 each; MLP 8
    last = 2 * WIDTH**2 * rows + 10 * WIDTH**2 * pooled
    return (LAYERS - 1) * of_row * rows + last + WIDTH * 16 * pooled
