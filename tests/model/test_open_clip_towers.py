"""Every kind of tower that open_clip builds loads, small and random, and gives open_clip's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import worldclip
from model_folders import edit, load_error
from small_models import save_open_clip, unit, write_open_clip_config
from worldclip.evaluate import nllb
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


def save(folder: Path, name: str) -> Any:
    """Write a folder with these towers and return open_clip's model."""
    config = {"embed_dim": 24, **TOWERS[name]}
    path = folder / f"small_{name.replace(' ', '_')}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model = open_clip.create_model(path.stem, load_weights=False).eval()
    save_open_clip(folder, config, model)
    return model


@pytest.mark.parametrize("name", TOWERS)
def test_embeddings_are_those_of_open_clip(name: str, tmp_path: Path) -> None:
    model = save(tmp_path, name)
    clip = worldclip.load(tmp_path, device="cpu")
    stated = {**model.visual.preprocess_cfg, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    settings = open_clip.transform.PreprocessCfg(**stated)
    transform = open_clip.transform.image_transform_v2(settings, is_train=False)
    pictures = sample_images()
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(picture) for picture in pictures]))
        texts = model.encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS[:2]))
    np.testing.assert_allclose(clip.encode_image(pictures), unit(images), atol=3e-6)
    np.testing.assert_allclose(clip.encode_text(TEXTS)[:2], unit(texts), atol=3e-6)
    assert clip.embed_dim == images.shape[1]
    assert clip.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    for special in ("<end_of_text>", "<END_OF_TEXT>", "&lt;end_of_text&gt;", "＜end_of_text＞"):
        assert clip.tokenizer.encode([f"apple {special} apple"]).ids.tolist().count(49407) == 1


def test_another_resize_of_open_clip_is_described(tmp_path: Path) -> None:
    save(tmp_path, "ViT")
    edit(tmp_path / "open_clip_config.json", "preprocess_cfg", interpolation="bilinear", resize_mode="longest")
    stated = worldclip.load(tmp_path, device="cpu").preprocess
    assert (stated["resize"], stated["interpolation"]) == ("longest edge 32", "bilinear")


def test_open_clip_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "ViT")
    edit(tmp_path / "open_clip_config.json", "model_cfg", embed_dim=16)
    assert "does not load as an open_clip model" in load_error(tmp_path)
    edit(tmp_path / "open_clip_config.json", "model_cfg.text_cfg", tokenizer_kwargs=5)
    assert "tokenizer_kwargs is 5; it must be an object" in load_error(tmp_path)
    edit(tmp_path / "open_clip_config.json", "model_cfg.text_cfg", tokenizer_kwargs={}, heads=0)
    assert "does not load as an open_clip model" in load_error(tmp_path)


def test_a_transform_that_open_clip_does_not_make_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "ViT")
    edit(tmp_path / "open_clip_config.json", "preprocess_cfg", interpolation=5)
    assert "does not load as an open_clip model (AssertionError)" in load_error(tmp_path)


# --- NLLB-CLIP: the token of a text's language is that of NLLB's own tokenizer, for languages in turns ----------------

NLLB_TEXTS = ["a red apple", "deu_Latn apple", "a text of many words " * 40, ""]
LANGUAGES = ["eng_Latn", "deu_Latn", "zho_Hans", "zho_Hant", "arb_Arab", "acm_Arab", "pes_Arab", "prs_Arab"]


def save_nllb(folder: Path, *, is_legacy: bool) -> None:
    """Write NLLB's encoder and tokenizer, small: the real classes, with few pieces and eight languages."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁red", "▁apple", "▁text", "▁of", "▁many", "▁words"]
    tokenizer = transformers.NllbTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=[],
        extra_special_tokens=LANGUAGES,
        legacy_behaviour=is_legacy,
    )
    tokenizer.save_pretrained(folder)
    tokenizer.save_pretrained(folder.parent)  # open_clip looks for the tokenizer of a folder there
    layers = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer), d_model=16, max_position_embeddings=96, pad_token_id=1, **layers
    )
    config.save_pretrained(folder)


def save_nllb_clip(folder: Path, *, is_legacy: bool = False) -> Any:
    """Write an open_clip folder with the text_cfg of nllb-clip-base, and return open_clip's model."""
    save_nllb(folder / "nllb", is_legacy=is_legacy)
    tower = str(folder / "nllb")
    text = {
        "hf_model_name": tower,
        "hf_tokenizer_name": tower,
        "hf_proj_type": "linear",
        "hf_pooler_type": "cls_pooler",
    }
    config = {"embed_dim": 24, "custom_text": True, "vision_cfg": VISION, "text_cfg": text}
    write_open_clip_config(folder, config)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).eval()
    save_open_clip(folder, config, model)
    return model


@pytest.mark.parametrize("is_legacy", [False, True])
def test_texts_of_each_language_are_those_of_open_clip(is_legacy: bool, tmp_path: Path) -> None:
    model = save_nllb_clip(tmp_path, is_legacy=is_legacy)
    assert "is an NLLB-CLIP, which must be told the language of each text" in load_error(tmp_path)
    clip = worldclip.load(tmp_path, device="cpu", tells_language=True)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    codes = {"en": "eng_Latn", "de": "deu_Latn", "zh": "zho_Hans", "ar": "arb_Arab", "fa": "pes_Arab"}
    used = {lang: nllb.in_language(clip, lang) for lang in codes}  # all at once: none changes another
    texts = ["a red apple", NLLB_TEXTS[2], ""]
    german = tokenizer.tokenizer.convert_tokens_to_ids("deu_Latn")
    for lang, code in codes.items():
        tokenizer.tokenizer.src_lang = code  # set_language alone: transformers 5 goes back to src_lang at each call
        ids = tokenizer(texts)
        assert used[lang].tokenizer.encode(texts).padded().tolist() == ids.tolist()
        np.testing.assert_allclose(used[lang].encode_text(texts), unit(model.encode_text(ids)), atol=2e-6)
        is_once = used[lang].tokenizer.encode(["deu_Latn apple"]).ids.tolist().count(german)
        assert is_once == (lang == "de")  # a language's name in a text stays text
    assert nllb.in_language(clip, "fr") is clip  # its tokenizer has no token of it
    np.testing.assert_array_equal(clip.encode_text(NLLB_TEXTS), used["en"].encode_text(NLLB_TEXTS))
