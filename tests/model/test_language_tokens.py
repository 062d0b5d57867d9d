"""NLLB-CLIP: the token of a text's language is that of NLLB's own tokenizer, for languages in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from test_other_clips import save_clip_folder, unit

import worldclip
from model_folders import load_error
from small_models import write_open_clip_config

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")

TEXTS = ["a red apple", "deu_Latn apple", "a text of many words " * 40, ""]
LANGUAGES = ["eng_Latn", "deu_Latn", "zho_Hans", "zho_Hant", "arb_Arab", "acm_Arab", "pes_Arab", "prs_Arab"]
VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}


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
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=96,
        pad_token_id=1,
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
    write_open_clip_config(folder, config, mean=[0.5] * 3, std=[0.5] * 3)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).eval()
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return model


@pytest.mark.parametrize("is_legacy", [False, True])
def test_texts_of_each_language_are_those_of_open_clip(is_legacy: bool, tmp_path: Path) -> None:
    model = save_nllb_clip(tmp_path, is_legacy=is_legacy)
    clip = worldclip.load(tmp_path, device="cpu")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    used = {lang: clip.in_language(lang) for lang in LANGUAGES}  # all at once: none changes another
    for lang in LANGUAGES:
        tokenizer.tokenizer.src_lang = lang  # set_language alone: transformers 5 goes back to src_lang at each call
        ids = tokenizer(["a red apple", TEXTS[2], ""])
        assert used[lang].tokenizer.encode(["a red apple", TEXTS[2], ""]).padded().tolist() == ids.tolist()
        expected = unit(model.encode_text(tokenizer([TEXTS[0], TEXTS[2]])))
        np.testing.assert_allclose(used[lang].encode_text([TEXTS[0], TEXTS[2]]), expected, atol=2e-6)
        assert used[lang].language == lang
        german = clip.tokenizer.languages.ids["deu_Latn"]
        is_once = used[lang].tokenizer.encode(["deu_Latn apple"]).ids.tolist().count(german)
        assert is_once == (lang == "deu_Latn")  # a language's name in a text stays text
    assert clip.language == "eng_Latn"
    np.testing.assert_array_equal(clip.encode_text(TEXTS), used["eng_Latn"].encode_text(TEXTS))


def test_our_codes_mean_the_variety_of_the_table(tmp_path: Path) -> None:
    save_nllb_clip(tmp_path)
    for ours, code in {"de": "deu_Latn", "zh": "zho_Hans", "ar": "arb_Arab", "fa": "pes_Arab"}.items():
        assert worldclip.load(tmp_path, device="cpu", language=ours).language == code
    said = load_error(tmp_path, language="fr")
    assert "language = 'fr': the model's tokenizer has no token of this language" in said


def test_models_that_are_told_no_language_refuse_one(tmp_path: Path) -> None:
    folder = save_clip_folder(tmp_path)
    assert "language = 'de': this model is not told the language of a text" in load_error(folder, language="de")
    clip = worldclip.load(folder, device="cpu")
    assert clip.in_language("de") is clip
