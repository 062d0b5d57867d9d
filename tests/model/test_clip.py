"""Presets have the published sizes, weights CLIP's scales, and the fast path of texts is exact."""

from __future__ import annotations

import math
import typing
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MetaClip2Config, MetaClip2Model

from worldclip.core.errors import UserError
from worldclip.model.clip import (
    check_tokenizer,
    create_model,
    image_features,
    model_config,
    normalise_pixels,
    pick_device,
    text_features,
)
from worldclip.model.config import PRESETS, ModelConfig, PresetName
from worldclip.model.tokenizer import Tokens


class SomeTokenizer:
    """The numbers of XLM-V's tokenizer."""

    bos_id, pad_id, eos_id, vocab_size, context_length = 0, 1, 2, 901_629, 77


SMALL = ModelConfig(preset="tiny", image_size=32, vision_layers=2, vision_width=64, text_width=64, embed_dim=16)


def small_tokenizer():
    tokenizer = SomeTokenizer()
    tokenizer.vocab_size, tokenizer.context_length = 50, 20
    return tokenizer


@pytest.fixture(scope="module")
def model() -> MetaClip2Model:
    return create_model(model_config(SMALL, small_tokenizer()), seed=3).eval()


def test_preset_names_and_rows_agree():
    assert set(typing.get_args(PresetName)) == set(PRESETS)


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
        model = MetaClip2Model(model_config(ModelConfig(preset=preset), SomeTokenizer()))
    vision = sum(p.numel() for p in model.vision_model.parameters()) + model.visual_projection.weight.numel()
    assert vision / 1e6 == pytest.approx(vision_millions, rel=0.012)
    assert model.text_model.embeddings.token_embedding.weight.numel() / 1e6 == pytest.approx(table_millions, abs=0.6)


def test_only_vit_h14_at_224_has_the_quick_gelu():
    def activation(**keys):
        return model_config(ModelConfig(**keys), SomeTokenizer()).vision_config.hidden_act

    assert activation(preset="vit_h14") == "quick_gelu"
    assert activation(preset="vit_h14", image_size=378) == "gelu"
    assert activation(preset="vit_b32") == "gelu"


def test_special_ids_come_from_the_tokenizer():
    text = model_config(SMALL, small_tokenizer()).text_config
    assert (text.eos_token_id, text.pad_token_id, text.bos_token_id) == (2, 1, 0)


def test_tokenizer_of_another_model_is_refused_with_all_differences():
    config = model_config(SMALL, small_tokenizer())
    other = small_tokenizer()
    other.eos_id, other.pad_id, other.vocab_size, other.context_length = 3, 0, 60, 77
    with pytest.raises(UserError) as caught:
        check_tokenizer(config, other)
    assert len(caught.value.problems) == 4
    with pytest.raises(UserError, match="eos_token_id is 49407"):
        check_tokenizer(MetaClip2Config(), SomeTokenizer())


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_generator_untouched():
    config = model_config(SMALL, small_tokenizer())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again, other = (create_model(config, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weights = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["text_projection.weight"], weights[2]["text_projection.weight"])


def test_initial_weights_have_the_scales_of_clip(model):
    width, layers = 64, 2
    block = model.vision_model.encoder.layers[0]
    residual = width**-0.5 * (2 * layers) ** -0.5
    scales = {
        width**-0.5: (block.self_attn.q_proj.weight, block.self_attn.v_proj.weight, model.visual_projection.weight),
        residual: (block.self_attn.out_proj.weight, block.mlp.fc2.weight),
        (2 * width) ** -0.5: (block.mlp.fc1.weight,),
        0.02: (model.text_model.embeddings.token_embedding.weight,),
        0.01: (model.text_model.embeddings.position_embedding.weight,),
    }
    for std, weights in scales.items():
        for weight in weights:
            assert weight.std().item() == pytest.approx(std, rel=0.1)
    assert not block.self_attn.q_proj.bias.any()
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def random_tokens(seed: int, num: int = 13) -> Tokens:
    random = np.random.default_rng(seed)
    rows = [[*random.integers(4, 50, random.integers(0, 18)).tolist(), 2] for _ in range(num)]
    return Tokens(np.concatenate(rows), np.cumsum([0, *map(len, rows)]), pad_id=1)


@pytest.mark.parametrize("num_chunks", [1, 2, 4, 50])
def test_length_sorted_chunks_give_the_features_of_full_padding(model, num_chunks):
    tokens = random_tokens(0)
    whole = np.pad(tokens.padded(), ((0, 0), (0, 20 - tokens.lengths.max())), constant_values=1)
    ids = torch.from_numpy(whole)
    with torch.inference_mode():
        expected = model.get_text_features(input_ids=ids, attention_mask=(ids != 1).long()).pooler_output
        actual = text_features(model, tokens, num_chunks)
    torch.testing.assert_close(actual, torch.nn.functional.normalize(expected, dim=-1), atol=1e-6, rtol=1e-5)


def test_chunks_give_the_gradient_of_one_batch(model):
    tokens, weight = random_tokens(1), model.text_model.embeddings.token_embedding.weight
    gradients = []
    for num_chunks in (1, 4):
        model.zero_grad()
        (text_features(model, tokens, num_chunks) * torch.arange(16)).sum().backward()
        gradients.append(weight.grad.clone())
    model.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)  # sums in another order


def test_image_features_equal_those_of_transformers(model):
    pixels = normalise_pixels(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(image_features(model, pixels), torch.nn.functional.normalize(expected, dim=-1))


def test_config_problems_name_key_value_and_remedy():
    assert ModelConfig(preset="vit_b32").problems() == []
    (uneven,) = ModelConfig(preset="vit_b32", image_size=230).problems()
    assert uneven.startswith("train.model.image_size = 230: 230 is not a multiple of the patch size 32")
    (width,) = ModelConfig(preset="vit_h14", vision_width=1200 + 8).problems()
    assert width == "train.model.vision_width = 1208: must be a multiple of 80, the width of the heads of vit_h14"
    assert "multiple of 32" in replace(SMALL, text_width=100).problems()[0]
    assert len(replace(SMALL, text_layers=0, embed_dim=-1).problems()) == 2


def test_unavailable_device_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device = 'cuda': not available"):
            pick_device("cuda")
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
