"""Embeddings survive the way to each library and back at any size; what a library cannot express is refused."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import peft
import pytest
import timm
import torch
from transformers import AutoModel, AutoTokenizer

import worldclip
from model_folders import edit
from small_models import TEXTS, random_pixels, reduced_config, unit
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig, export_model
from worldclip.model import published
from worldclip.model.clip import model_config
from worldclip.model.formats.open_clip_folder import (
    from_hugging_face_config,
    named_config,
    to_hugging_face_config,
)

TOLERANCE = 1e-5
B32, MT5 = "metaclip-2-worldwide-b32", "metaclip-2-mt5-worldwide-s16"
HUGE_QUICK = "metaclip-2-worldwide-huge-quickgelu"


@pytest.fixture(scope="module")
def exported(published_model, tmp_path_factory):
    """Export a published model at reduced size, once per name: exported(name) -> its exports."""

    @functools.cache
    def export(name: str) -> Path:
        out = tmp_path_factory.mktemp(name)
        export_model(published_model(name), out, ExportConfig(formats=("open_clip",)))
        return out

    return export


@pytest.fixture
def source(published_model, tmp_path) -> Path:
    """A published model at reduced size, to be changed."""
    return Path(shutil.copytree(published_model(B32), tmp_path / "source"))


@pytest.mark.parametrize("model_name", [B32, HUGE_QUICK, MT5])
def test_open_clip_loads_exports_with_their_tokenizer_at_any_size(model_name, published_model, exported):
    clip = worldclip.load(published_model(model_name), device="cpu")
    name = f"local-dir:{exported(model_name) / 'open_clip'}"
    model, _, _ = open_clip.create_model_and_transforms(name)
    size = clip.model.config.vision_config.image_size
    pixels = random_pixels(size)
    with torch.inference_mode():
        images = unit(model.eval().encode_image(pixels))
        texts = unit(model.encode_text(open_clip.get_tokenizer(name)(list(TEXTS))))
    np.testing.assert_allclose(clip.backend.encode_pixels(pixels), images, atol=TOLERANCE)
    np.testing.assert_allclose(clip.encode_text(TEXTS), texts, atol=TOLERANCE)
    assert model.visual.transformer.resblocks[0].mlp.gelu.__class__.__name__ == (
        "QuickGELU" if model_name == HUGE_QUICK else "GELU"
    )


@pytest.mark.parametrize("model_name", [B32, HUGE_QUICK])
def test_timm_reads_the_image_tower_of_an_open_clip_folder(model_name, published_model, exported):
    """docs/7_export.md has these lines for the whole size."""
    folder = exported(model_name) / "open_clip"
    model_cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    vision, dim = model_cfg["vision_cfg"], model_cfg["embed_dim"]
    tower = timm.create_model(
        f"vit_base_patch32_clip{'_quickgelu' if 'quick_gelu' in model_cfg else ''}_224",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(folder / "open_clip_model.safetensors"), "num_classes": dim},
        num_classes=dim,
        img_size=vision["image_size"],
        patch_size=vision["patch_size"],
        embed_dim=vision["width"],
        depth=vision["layers"],
        num_heads=vision["width"] // vision["head_width"],
    ).eval()
    pixels = random_pixels(vision["image_size"])
    with torch.inference_mode():
        actual = unit(tower(pixels))
    expected = worldclip.load(published_model(model_name), device="cpu").backend.encode_pixels(pixels)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("name", [row.name for row in published.FAMILY])
def test_exports_load_again_with_the_same_embeddings(name, published_model, exported):
    out = exported(name)
    clip = worldclip.load(published_model(name), device="cpu")
    pixels = random_pixels(clip.model.config.vision_config.image_size)
    expected = clip.backend.encode_pixels(pixels)
    again = worldclip.load(f"local-dir:{out / 'open_clip'}", device="cpu")
    np.testing.assert_allclose(again.backend.encode_pixels(pixels), expected, atol=TOLERANCE)
    np.testing.assert_allclose(again.encode_text(TEXTS), clip.encode_text(TEXTS), atol=TOLERANCE)
    assert again.logit_scale == clip.logit_scale
    export_model(out / "open_clip", out / "back")
    back = worldclip.load(out / "back" / "huggingface", device="cpu").model.state_dict()
    for key, tensor in clip.model.state_dict().items():
        assert torch.equal(tensor, back[key]), key


@pytest.mark.parametrize("row", [row for row in published.FAMILY if row.open_clip], ids=lambda row: row.name)
def test_presets_at_full_size_equal_the_configurations_of_open_clip(row):
    """Compare every number of the configurations, in both directions."""
    ours = model_config(row.model_config(), row.tokenizer)
    theirs = named_config(row.open_clip)["model_cfg"]
    back = to_hugging_face_config(theirs)
    again = to_hugging_face_config(from_hugging_face_config(ours, row.tokenizer.hub_id))
    assert again.to_dict() == back.to_dict()
    for tower in ("text_config", "vision_config"):
        actual, expected = getattr(back, tower).to_dict(), getattr(ours, tower).to_dict()
        assert {**actual, "bos_token_id": 0} == {**expected, "bos_token_id": 0}  # open_clip says nothing of it
    assert reduced_config(row, row.tokenizer).vision_config.hidden_act == row.activation


@pytest.mark.parametrize("model_max_length", [512, int(1e30), 64])
def test_published_folder_is_exported_with_the_context_of_the_model(model_max_length, published_model, tmp_path):
    source = shutil.copytree(published_model(MT5 if model_max_length == 64 else B32), tmp_path / "source")
    edit(source / "tokenizer_config.json", model_max_length=model_max_length)
    report = export_model(source, tmp_path / "out")
    assert report["formats"]["huggingface"]["max_difference"] <= TOLERANCE
    folder = tmp_path / "out" / "huggingface"
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 77
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["CLIPModel", "Normalize"]
    name = "model.safetensors"
    assert (folder / name).read_bytes() == (source / name).read_bytes()


def test_end_token_that_the_configuration_lacks_is_added_to_the_export(source, tmp_path):
    expected = worldclip.load(source, device="cpu").encode_text(TEXTS)
    config = json.loads((source / "config.json").read_text())
    del config["text_config"]["eos_token_id"]
    config["text_config"]["pad_token_id"] = None
    (source / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(worldclip.load(source, device="cpu").encode_text(TEXTS), expected, atol=TOLERANCE)
    export_model(source, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "huggingface" / "config.json").read_text())
    assert written["text_config"]["eos_token_id"] == 2


def test_tokenizer_from_elsewhere_goes_into_the_export(source, tmp_path):
    vocab_size = worldclip.load(source, device="cpu").tokenizer.vocab_size
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).rename(tmp_path / "tokenizer" / name)
    export_model(source, tmp_path / "out", tokenizer=tmp_path / "tokenizer")
    assert worldclip.load(tmp_path / "out" / "huggingface", device="cpu").tokenizer.vocab_size == vocab_size


def test_activations_that_open_clip_cannot_express_are_refused(source, tmp_path):
    edit(source / "config.json", "text_config", hidden_act="quick_gelu")
    with pytest.raises(UserError, match=r"image tower has gelu, the text tower quick_gelu"):
        export_model(source, tmp_path / "out", ExportConfig(formats=("open_clip",)))
    assert not (tmp_path / "out" / "open_clip").exists()


def test_adapters_of_peft_merge_into_an_exported_folder(published_model, tmp_path):
    export_model(published_model(B32), tmp_path / "out")
    folder = tmp_path / "out/huggingface"
    model = peft.get_peft_model(
        AutoModel.from_pretrained(folder), peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "adapters")
    base = AutoModel.from_pretrained(folder)
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "adapters").merge_and_unload()
    shutil.copytree(folder, tmp_path / "merged")
    merged.save_pretrained(tmp_path / "merged")
    clip = worldclip.load(tmp_path / "merged", device="cpu")
    pixels = random_pixels(clip.model.config.vision_config.image_size)
    with torch.inference_mode():
        expected = unit(model.eval().get_image_features(pixel_values=pixels))
    np.testing.assert_allclose(clip.backend.encode_pixels(pixels), expected, atol=TOLERANCE)
    assert np.abs(worldclip.load(folder, device="cpu").backend.encode_pixels(pixels) - expected).max() > 1e-3
