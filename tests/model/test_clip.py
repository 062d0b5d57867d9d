"""Presets, initial weights and positions are as published; inference and training give transformers' features."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MetaClip2Config, MetaClip2Model

from worldclip.core.errors import UserError
from worldclip.model import forward, precision, rows, tensor_names
from worldclip.model.clip import (
    check_tokenizer,
    create_model,
    image_features,
    model_config,
    normalise_pixels,
    pick_device,
    pixel_statistics,
    text_features,
)
from worldclip.model.config import ModelConfig
from worldclip.model.formats.open_clip_folder import from_hugging_face_config
from worldclip.model.forward import embed_pixels, embed_tokens
from worldclip.model.published import XLM_V
from worldclip.model.tokenizer import Tokens

SMALL = ModelConfig(preset="tiny", image_size=32, vision_layers=2, vision_width=64, text_width=64, embed_dim=16)
SMALL_TOKENIZER = replace(XLM_V, vocab_size=50, context_length=20)


# image towers as in the papers (CLIP, OpenCLIP), token tables of arXiv:2507.22062
@pytest.mark.parametrize(
    ("preset", "vision_millions", "table_millions"),
    [
        ("vit_s16", 22, 346),
        ("vit_b32", 88, 462),
        ("vit_l14", 304, 692),
        ("vit_h14", 632, 923),
        ("vit_bigg14", 1845, 1154),
    ],
)
def test_presets_have_the_published_sizes(preset, vision_millions, table_millions):
    with torch.device("meta"):
        model = MetaClip2Model(model_config(ModelConfig(preset=preset), XLM_V))
    vision = sum(p.numel() for p in model.vision_model.parameters()) + model.visual_projection.weight.numel()
    assert vision / 1e6 == pytest.approx(vision_millions, rel=0.012)
    assert model.text_model.embeddings.token_embedding.weight.numel() / 1e6 == pytest.approx(table_millions, abs=0.6)
    assert model.config.vision_config.hidden_act == ("quick_gelu" if preset == "vit_h14" else "gelu")
    assert (model.config.text_config.eos_token_id, model.config.text_config.pad_token_id) == (2, 1)


def test_tokenizer_of_another_model_is_refused_with_all_differences():
    config = model_config(SMALL, SMALL_TOKENIZER)
    other = replace(SMALL_TOKENIZER, eos_id=3, pad_id=0, vocab_size=60, context_length=77)
    with pytest.raises(UserError, match="eos_token_id is 2, the tokenizer's is 3") as caught:
        check_tokenizer(config, other)
    assert len(caught.value.problems) == 3


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_generator_untouched():
    config = model_config(SMALL, SMALL_TOKENIZER)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again, other = (create_model(config, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weights = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["text_projection.weight"], weights[2]["text_projection.weight"])


@pytest.mark.parametrize("init", ["reference", "scaled"])
def test_each_initial_weight_has_the_distribution_of_open_clips(init):
    """`scaled` draws the blocks of both towers as open_clip draws those of the text tower, without biases."""
    open_clip, stats = pytest.importorskip("open_clip"), pytest.importorskip("scipy.stats")
    config = model_config(replace(SMALL, text_layers=SMALL.vision_layers), SMALL_TOKENIZER)
    torch.manual_seed(0)
    state = open_clip.CLIP(**from_hugging_face_config(config, "")).state_dict()
    theirs = tensor_names.to_ours(tensor_names.open_clip_rules(config), state)
    for name, weight in create_model(config, seed=3, init=init).named_parameters():
        expected = theirs[name]
        if init == "scaled" and "encoder.layers" in name and "norm" not in name:
            expected = theirs[name.replace("vision_model", "text_model")]
            if name.endswith("bias"):
                expected = torch.zeros_like(expected)
        samples = (values.detach().ravel().numpy() for values in (weight, expected))
        assert stats.ks_2samp(*samples).pvalue > 1e-5, name


def test_each_tower_of_an_open_clip_configuration_has_its_own_mlp():
    config = model_config(SMALL, SMALL_TOKENIZER)
    config.text_config.intermediate_size = 2 * config.text_config.hidden_size
    written = from_hugging_face_config(config, "")
    assert written["text_cfg"]["mlp_ratio"] == 2
    assert written["vision_cfg"].get("mlp_ratio", 4) == 4


@pytest.mark.parametrize(
    ("num_gpus", "name", "said"),
    [
        (0, "tpu", "device = 'tpu': not available on this machine; use auto or one of: cpu"),
        (0, "cuda:1", "device = 'cuda:1': not available on this machine, which has no CUDA GPU; "),
        (2, "cuda:2", r"device = 'cuda:2': not available on this machine; use .*cuda:0, cuda:1"),
    ],
)
def test_devices_are_auto_or_those_of_this_machine(num_gpus, name, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in (("cuda",) if num_gpus else ("mps", "cpu"))
    if num_gpus:
        assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=said):
        pick_device(name)


TOWER_WIDTH, TOWER_LAYERS, CONTEXT = 64, 3, 20


def make_model(activation: str, layers: int) -> MetaClip2Model:
    sizes = {
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": 4 * TOWER_WIDTH,
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
    return make_model(request.param, TOWER_LAYERS)


@pytest.fixture(params=[1, 10**9], ids=["onednn", "plain"])
def onednn_rows(request, monkeypatch) -> None:
    if request.param == 1 and not rows.has_onednn(torch.float32):
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


@pytest.mark.parametrize(("dtype", "images_together"), [(torch.float32, 3), (torch.bfloat16, 6)])
def test_images_run_together_while_their_rows_fit_into_a_cache(model, monkeypatch, dtype, images_together):
    tokens_per_image = model.vision_model.embeddings.num_positions
    monkeypatch.setattr(forward, "CPU_TOKENS", 3 * tokens_per_image)
    sizes = []

    def note_rows(encoder, part):
        sizes.append(len(part))
        return image_rows(encoder, part)

    image_rows = forward.image_rows
    monkeypatch.setattr(forward, "image_rows", note_rows)
    embed_pixels(copy.deepcopy(model).to(dtype), torch.zeros(12, 3, 32, 32, dtype=dtype))
    assert sizes == [images_together] * (12 // images_together)


@pytest.mark.usefixtures("onednn_rows")
@pytest.mark.parametrize(("num_chunks", "text_tokens"), [(1, 16_384), (4, 16_384), (20, 150), (50, 1)])
def test_texts_have_the_features_of_transformers(model, monkeypatch, num_chunks, text_tokens):
    monkeypatch.setattr(forward, "TEXT_TOKENS", text_tokens)
    tokens = random_tokens(40)
    chunks = tokens.chunks_by_length(num_chunks)
    for together in forward.limit_tokens(chunks, tokens):
        assert len(together) == 1 or tokens.lengths[np.concatenate(together)].sum() <= text_tokens
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


def test_a_layer_that_is_only_derived_from_a_linear_one_computes_by_itself():
    class Doubled(torch.nn.Linear):
        def forward(self, rows):
            return 2 * super().forward(rows)

    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    layer = Doubled(8, 3)
    with torch.inference_mode():
        assert torch.equal(rows.prepare(layer, len(inputs))(inputs), layer(inputs))
