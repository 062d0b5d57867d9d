"""Every kind of tower that open_clip builds loads, small and random, and gives open_clip's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import worldclip
from small_models import unit, write_open_clip_config
from worldclip.model.sample_inputs import images as sample_images

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
pytest.importorskip("timm", reason="timm is not installed")

TEXTS = ["a red apple", "cat", "two </s> words"]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}


def timm(name: str, **changed: Any) -> dict[str, Any]:
    settings = {"timm_pool": "", "timm_proj": "linear", "image_size": 64, **changed}
    return {"timm_model_name": name, "timm_model_pretrained": False, **settings}


COCA_VISION = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
COCA_TEXT = {**TEXT, "embed_cls": True, "output_tokens": True}
# The towers of open_clip's 144 configurations: its own ViT and ResNet, timm's by way of several families, CoCa
TOWERS: dict[str, dict[str, Any]] = {
    "ViT": {"vision_cfg": {**VISION, "ls_init_value": 0.1}, "text_cfg": TEXT},
    "ModifiedResNet": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": TEXT},
    "timm ViT": {"vision_cfg": timm("vit_tiny_patch16_224", image_size=224), "text_cfg": TEXT},
    "timm ResNet": {"vision_cfg": timm("resnet10t", timm_pool="avg"), "text_cfg": TEXT},
    "ConvNeXt": {"vision_cfg": timm("convnext_atto"), "text_cfg": TEXT},
    "MobileCLIP": {
        "vision_cfg": timm("fastvit_t8", timm_pool="avg", timm_proj=None),
        "text_cfg": {**TEXT, "no_causal_mask": True},
        "embed_dim": 768,
    },
    "Perception Encoder": {
        "vision_cfg": timm("vit_pe_core_tiny_patch16_384", timm_pool="map", timm_proj=None, image_size=384),
        "text_cfg": {**TEXT, "pool_type": "argmax"},
        "embed_dim": 512,
    },
    "CoCa": {
        "vision_cfg": COCA_VISION,
        "text_cfg": COCA_TEXT,
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
        "custom_text": True,
    },
}


@pytest.mark.parametrize("name", TOWERS)
def test_embeddings_are_those_of_open_clip(name: str, tmp_path: Path) -> None:
    config = {"embed_dim": 24, **TOWERS[name]}
    path = tmp_path / f"small_{name.replace(' ', '_')}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model = open_clip.create_model(path.stem, load_weights=False).eval()
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    write_open_clip_config(tmp_path, config, **preprocess)
    state = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")

    clip = worldclip.load(tmp_path, device="cpu")
    settings = open_clip.transform.PreprocessCfg(**{**model.visual.preprocess_cfg, **preprocess})
    transform = open_clip.transform.image_transform_v2(settings, is_train=False)
    pictures = sample_images()
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(picture) for picture in pictures]))
        texts = model.encode_text(open_clip.get_tokenizer(path.stem)(TEXTS[:2]))
    np.testing.assert_allclose(clip.encode_image(pictures), unit(images), atol=3e-6)
    np.testing.assert_allclose(clip.encode_text(TEXTS)[:2], unit(texts), atol=3e-6)
    assert clip.embed_dim == config["embed_dim"]
    assert clip.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
