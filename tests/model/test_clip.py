"""Presets have the published sizes, weights CLIP's scales, and positions are resized as open_clip resizes them."""

from __future__ import annotations

import math
import typing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import MetaClip2Config, MetaClip2Model

from worldclip.core.errors import UserError
from worldclip.model.clip import check_tokenizer, create_model, model_config, pick_device
from worldclip.model.config import PRESETS, ModelConfig, PresetName
from worldclip.model.published import XLM_V
from worldclip.model.resolution import patches_per_side, resize_positions

SMALL = ModelConfig(preset="tiny", image_size=32, vision_layers=2, vision_width=64, text_width=64, embed_dim=16)
SMALL_TOKENIZER = replace(XLM_V, vocab_size=50, context_length=20)


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
        model = MetaClip2Model(model_config(ModelConfig(preset=preset), XLM_V))
    vision = sum(p.numel() for p in model.vision_model.parameters()) + model.visual_projection.weight.numel()
    assert vision / 1e6 == pytest.approx(vision_millions, rel=0.012)
    assert model.text_model.embeddings.token_embedding.weight.numel() / 1e6 == pytest.approx(table_millions, abs=0.6)


def test_only_vit_h14_at_224_has_the_quick_gelu():
    def activation(**keys):
        return model_config(ModelConfig(**keys), XLM_V).vision_config.hidden_act

    assert activation(preset="vit_h14") == "quick_gelu"
    assert activation(preset="vit_h14", image_size=378) == "gelu"
    assert activation(preset="vit_b32") == "gelu"


def test_special_ids_come_from_the_tokenizer():
    text = model_config(SMALL, SMALL_TOKENIZER).text_config
    assert (text.eos_token_id, text.pad_token_id, text.bos_token_id) == (2, 1, 0)


def test_tokenizer_of_another_model_is_refused_with_all_differences():
    config = model_config(SMALL, SMALL_TOKENIZER)
    other = replace(SMALL_TOKENIZER, eos_id=3, pad_id=0, vocab_size=60, context_length=77)
    with pytest.raises(UserError) as caught:
        check_tokenizer(config, other)
    assert len(caught.value.problems) == 3
    with pytest.raises(UserError, match="eos_token_id is 49407"):
        check_tokenizer(MetaClip2Config(), XLM_V)


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


# What each weight is drawn from: ("normal", std), ("uniform", bound) or a constant, stated once per tower.
WIDTH, MLP, LAYERS, EMBED, PATCH_PIXELS = 64, 256, 2, 16, 3 * 8 * 8
EQUAL_TOWERS = replace(SMALL, text_layers=LAYERS)
QKV = [f"self_attn.{name}_proj.weight" for name in "qkv"]
SCALED_BLOCK = {
    **dict.fromkeys(QKV, ("normal", WIDTH**-0.5)),
    "self_attn.out_proj.weight": ("normal", WIDTH**-0.5 * (2 * LAYERS) ** -0.5),
    "mlp.fc1.weight": ("normal", (2 * WIDTH) ** -0.5),
    "mlp.fc2.weight": ("normal", WIDTH**-0.5 * (2 * LAYERS) ** -0.5),
}
UNIFORM_BIASES = {"mlp.fc1.bias": ("uniform", WIDTH**-0.5), "mlp.fc2.bias": ("uniform", MLP**-0.5)}
PYTORCH_BLOCK = {
    **dict.fromkeys(QKV, ("uniform", (6 / (WIDTH + 3 * WIDTH)) ** 0.5)),
    "self_attn.out_proj.weight": ("uniform", WIDTH**-0.5),
    "mlp.fc1.weight": ("uniform", WIDTH**-0.5),
    "mlp.fc2.weight": ("uniform", MLP**-0.5),
    **UNIFORM_BIASES,
}
OUTSIDE_BLOCKS = {
    "text_model.embeddings.token_embedding.weight": ("normal", 0.02),
    "text_model.embeddings.position_embedding.weight": ("normal", 0.01),
    "vision_model.embeddings.class_embedding": ("normal", WIDTH**-0.5),
    "vision_model.embeddings.position_embedding.weight": ("normal", WIDTH**-0.5),
    "vision_model.embeddings.patch_embedding.weight": ("uniform", PATCH_PIXELS**-0.5),
    "text_projection.weight": ("normal", WIDTH**-0.5),
    "visual_projection.weight": ("normal", WIDTH**-0.5),
    "logit_scale": math.log(1 / 0.07),
}
BLOCKS = {
    "scaled": {"text_model": SCALED_BLOCK, "vision_model": SCALED_BLOCK},
    "reference": {"text_model": SCALED_BLOCK | UNIFORM_BIASES, "vision_model": PYTORCH_BLOCK},
}


def expected_draw(name: str, init: str):
    if name in OUTSIDE_BLOCKS:
        return OUTSIDE_BLOCKS[name]
    tower, _, rest = name.partition(".")
    if "norm" in rest:
        return 1.0 if rest.endswith("weight") else 0.0
    in_block = rest.removeprefix("encoder.layers.").partition(".")[2]
    return BLOCKS[init][tower].get(in_block, 0.0 if in_block.endswith("bias") else None)


def distance_to_draw(values: np.ndarray, kind: str, scale: float) -> float:
    """Return Kolmogorov's distance of a sample from a distribution, times the root of the sample's size."""
    ordered = np.sort(values)
    if kind == "normal":
        below = np.array([0.5 * (1 + math.erf(value / scale / 2**0.5)) for value in ordered])
    else:
        below = np.clip((ordered / scale + 1) / 2, 0, 1)
        assert np.abs(ordered).max() <= scale
    seen = np.arange(len(ordered) + 1) / len(ordered)
    distance = max(np.abs(seen[1:] - below).max(), np.abs(seen[:-1] - below).max())
    return float(distance * len(ordered) ** 0.5)


@pytest.mark.parametrize("init", ["scaled", "reference"])
def test_each_initial_weight_has_its_stated_distribution(init):
    model = create_model(model_config(EQUAL_TOWERS, SMALL_TOKENIZER), seed=3, init=init)
    for name, weight in model.named_parameters():
        expected = expected_draw(name, init)
        values = weight.detach().double().numpy().ravel()
        if isinstance(expected, float):
            assert values == pytest.approx(expected), name
        else:
            assert distance_to_draw(values, *expected) < 2.3, name  # exceeded with probability 0.00005


def test_reference_weights_are_distributed_as_open_clip_draws_them():
    open_clip = pytest.importorskip("open_clip")
    sizes = {"width": WIDTH, "layers": LAYERS}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = open_clip.CLIP(
            EMBED,
            vision_cfg={**sizes, "head_width": 32, "image_size": 32, "patch_size": 8},
            text_cfg={**sizes, "heads": 2, "vocab_size": 50, "context_length": 32},
        )
    ours = create_model(model_config(EQUAL_TOWERS, SMALL_TOKENIZER), seed=3, init="reference")
    for tower, blocks in (
        (ours.text_model, theirs.transformer.resblocks),
        (ours.vision_model, theirs.visual.transformer.resblocks),
    ):
        for block, their_block in zip(tower.encoder.layers, blocks, strict=True):
            attention = block.self_attn
            fused = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            pairs = [
                (fused, their_block.attn.in_proj_weight),
                (attention.out_proj.weight, their_block.attn.out_proj.weight),
                (attention.out_proj.bias, their_block.attn.out_proj.bias),
                (block.mlp.fc1.weight, their_block.mlp.c_fc.weight),
                (block.mlp.fc1.bias, their_block.mlp.c_fc.bias),
                (block.mlp.fc2.weight, their_block.mlp.c_proj.weight),
                (block.mlp.fc2.bias, their_block.mlp.c_proj.bias),
            ]
            for our_weight, their_weight in pairs:
                assert two_sample_distance(our_weight, their_weight) < 2.3


def two_sample_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return Kolmogorov's distance of two samples of one size, times the root of half their size."""
    samples = [np.sort(weight.detach().numpy().ravel()) for weight in (first, second)]
    at = np.concatenate(samples)
    below = [np.searchsorted(sample, at, side="right") / len(sample) for sample in samples]
    return float(np.abs(below[0] - below[1]).max() * (len(samples[0]) / 2) ** 0.5)


def test_config_problems_name_key_value_and_remedy():
    assert ModelConfig(preset="vit_b32").problems() == []
    (uneven,) = ModelConfig(preset="vit_b32", image_size=230).problems()
    assert uneven.startswith("train.model.image_size = 230: 230 is not a multiple of the patch size 32")
    (width,) = ModelConfig(preset="vit_h14", vision_width=1200 + 8).problems()
    assert width == "train.model.vision_width = 1208: must be a multiple of 80, the width of the heads of vit_h14"
    assert "multiple of 32" in replace(SMALL, text_width=100).problems()[0]
    assert len(replace(SMALL, text_layers=0, embed_dim=-1).problems()) == 2


@pytest.mark.parametrize(
    ("num_gpus", "name", "said"),
    [
        (0, "tpu", "device = 'tpu': not available on this machine; use auto or one of: cpu"),
        (0, "cuda", "device = 'cuda': not available on this machine, which has no CUDA GPU; "),
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


@pytest.mark.parametrize(("side", "own_side"), [(27, 16), (16, 27), (12, 7), (7, 7)])
def test_positions_are_those_of_open_clip(side: int, own_side: int) -> None:
    model = pytest.importorskip("open_clip.model")
    positions_PW = torch.randn(1 + own_side**2, 24, generator=torch.Generator().manual_seed(1))
    weights = {"visual.positional_embedding": positions_PW.clone()}
    tower = SimpleNamespace(grid_size=(side, side), positional_embedding=torch.zeros(1 + side**2, 24))
    model.resize_pos_embed(weights, SimpleNamespace(visual=tower))
    own = resize_positions(positions_PW, side)
    torch.testing.assert_close(own, weights["visual.positional_embedding"], rtol=0, atol=1e-6)
    assert torch.equal(own[0], positions_PW[0])


def test_only_a_class_token_and_a_square_can_be_resized() -> None:
    assert patches_per_side(torch.zeros(50, 4)) == 7
    assert patches_per_side(torch.zeros(49, 4)) is None
    with pytest.raises(ValueError, match="49 positions are not a class token and a square"):
        resize_positions(torch.zeros(49, 4), 5)
