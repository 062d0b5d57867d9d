"""Inference and training give the features of transformers' forward pass, inference with fewer operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MetaClip2Config, MetaClip2Model

import worldclip
from worldclip.model import forward, onednn, precision
from worldclip.model.clip import image_features, normalise_pixels, pixel_statistics, text_features
from worldclip.model.forward import embed_pixels, embed_tokens
from worldclip.model.tokenizer import Tokens

WIDTH, LAYERS, PATCHES, CONTEXT = 64, 3, 4, 20


def make_model(activation: str, layers: int) -> MetaClip2Model:
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "hidden_act": activation,
        "projection_dim": 16,
    }
    text = sizes | {"vocab_size": 50, "max_position_embeddings": CONTEXT, "eos_token_id": 2}
    config = MetaClip2Config(
        text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 16}, projection_dim=16
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MetaClip2Model(config).eval()
        for parameter in model.parameters():  # biases too, which are 0 at the start
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def model(request) -> MetaClip2Model:
    return make_model(request.param, LAYERS)


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
        for embed in (embed_pixels, image_features):
            torch.testing.assert_close(embed(model, pixels), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("onednn_rows")
@pytest.mark.parametrize(("num_chunks", "text_tokens"), [(1, 16_384), (4, 16_384), (4, 150), (50, 1)])
def test_texts_have_the_features_of_transformers(model, monkeypatch, num_chunks, text_tokens):
    monkeypatch.setattr(forward, "TEXT_TOKENS", text_tokens)
    tokens = random_tokens(40)
    with torch.inference_mode():
        ids = torch.nn.functional.pad(torch.from_numpy(tokens.padded()), (0, CONTEXT - tokens.lengths.max()), value=1)
        expected = unit(model.get_text_features(input_ids=ids, attention_mask=(ids != 1).long()))
        for embed in (embed_tokens, text_features):
            torch.testing.assert_close(embed(model, tokens, num_chunks), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("layers", "num_chunks"), [(1, 1), (2, 1), (2, 4)])  # of one block the last one is the first
def test_gradients_of_training_are_those_of_transformers(layers, num_chunks):
    model = make_model("gelu", layers)
    tokens = random_tokens(13)
    noise = torch.randint(0, 256, (13, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = normalise_pixels(noise, *pixel_statistics(noise.device))
    ids = torch.from_numpy(tokens.padded())

    def gradients(image, text):
        model.zero_grad()
        torch.nn.functional.cross_entropy(20 * image @ text.T, torch.arange(13)).backward()
        return {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
        }

    output = model(input_ids=ids, pixel_values=pixels)
    expected = gradients(output.image_embeds, output.text_embeds)
    actual = gradients(image_features(model, pixels), text_features(model, tokens, num_chunks))
    assert len(actual) > 20 * layers
    assert set(actual) == set(expected)
    for name, gradient in expected.items():
        if not name.endswith("k_proj.bias"):  # changes no softmax: its gradient is only rounding
            assert (actual[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


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


# --- precision ------------------------------------------------------------------------------------------------------


CPUINFO = "processor\t: 0\nflags\t\t: fpu avx512f {}\nbogomips\t: 4000\n\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("cpuinfo", "hardware"),
    [
        (CPUINFO.format("avx512_bf16 amx_bf16 amx_tile"), "amx_bf16, avx512_bf16"),
        (CPUINFO.format("avx512_bf16"), "avx512_bf16"),
        (CPUINFO.format("avx512_vnni"), ""),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", ""),
        (None, ""),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_its_flags(cpuinfo, hardware, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    cpu = torch.device("cpu")
    assert precision.bf16_hardware(cpu) == hardware
    assert precision.pick_precision(cpu) == ("bf16" if hardware else "fp32")


def test_auto_of_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.pick_precision(torch.device("mps")) == "fp32"
    for capability, expected in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert precision.pick_precision(torch.device("cuda:0")) == expected


@pytest.mark.parametrize(("hardware", "dtype"), [("", torch.float32), ("amx_bf16", torch.bfloat16)])
def test_load_takes_what_auto_picks(toy_run, hardware: str, dtype: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(precision, "bf16_hardware", lambda device: hardware)
    clip = worldclip.load(toy_run, device="cpu", precision="auto")
    assert next(clip.model.parameters()).dtype == dtype
    features = clip.encode_text(["simba", "paka"])
    assert features.dtype == np.float32
    plain = worldclip.load(toy_run, device="cpu").encode_text(["simba", "paka"])
    assert (features * plain).sum(1).min() > 0.999
    assert np.array_equal(features, plain) == (dtype == torch.float32)
