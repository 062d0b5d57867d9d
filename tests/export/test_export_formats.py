"""Embeddings survive the way to each library and back at any size; what a library cannot express is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from transformers import AutoTokenizer, MetaClip2Model

import worldclip
from model_folders import edit
from small_models import TEXTS, random_pixels, reduced_config, save_hugging_face, unit
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig, export_model
from worldclip.model import published
from worldclip.model.clip import model_config
from worldclip.model.formats.open_clip_folder import (
    from_hugging_face_config,
    named_config,
    own_name,
    to_hugging_face_config,
)
from worldclip.model.formats.timm_folder import architecture
from worldclip.model.tensor_names import shapes, timm_rules, to_theirs

TOLERANCE = 1e-5
B32 = published.find("metaclip-2-worldwide-b32")
HUGE_QUICK = published.find("metaclip-2-worldwide-huge-quickgelu")
MT5 = published.find("metaclip-2-mt5-worldwide-s16")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export a published row at reduced size, once per row: exported(row) -> (source folder, exports)."""
    cache: dict[str, tuple[Path, Path]] = {}

    def export(row: published.Published) -> tuple[Path, Path]:
        if row.name not in cache:
            place = tmp_path_factory.mktemp(row.name)
            save_hugging_face(row, place / "source")
            export_model(place / "source", place / "out", ExportConfig(formats=("open_clip", "timm")))
            cache[row.name] = place / "source", place / "out"
        return cache[row.name]

    return export


@pytest.mark.parametrize("row", [B32, HUGE_QUICK, MT5], ids=lambda row: row.name)
def test_open_clip_loads_exports_with_their_tokenizer_at_any_size(row, exported):
    source, out = exported(row)
    clip, name = worldclip.load(source, device="cpu"), f"local-dir:{out / 'open_clip'}"
    model, _, _ = open_clip.create_model_and_transforms(name)
    size = clip.model.config.vision_config.image_size
    pixels = random_pixels(size)
    with torch.inference_mode():
        images = unit(model.eval().encode_image(pixels))
        texts = unit(model.encode_text(open_clip.get_tokenizer(name)(list(TEXTS))))
    np.testing.assert_allclose(clip.backend.encode_pixels(pixels), images, atol=TOLERANCE)
    np.testing.assert_allclose(clip.encode_text(TEXTS), texts, atol=TOLERANCE)
    assert model.visual.transformer.resblocks[0].mlp.gelu.__class__.__name__ == (
        "QuickGELU" if row.activation == "quick_gelu" else "GELU"
    )


@pytest.mark.parametrize("row", published.FAMILY, ids=lambda row: row.name)
def test_exports_load_again_with_the_same_embeddings(row, exported):
    source, out = exported(row)
    clip = worldclip.load(source, device="cpu")
    pixels = random_pixels(clip.model.config.vision_config.image_size)
    for name in ("open_clip", "timm"):
        again = worldclip.load(out / name, device="cpu")
        np.testing.assert_allclose(
            again.backend.encode_pixels(pixels), clip.backend.encode_pixels(pixels), atol=TOLERANCE
        )
    again = worldclip.load(f"local-dir:{out / 'open_clip'}", device="cpu")
    np.testing.assert_allclose(again.encode_text(TEXTS), clip.encode_text(TEXTS), atol=TOLERANCE)
    assert again.logit_scale == clip.logit_scale
    export_model(out / "open_clip", out / "back")
    back = worldclip.load(out / "back" / "huggingface", device="cpu").model.state_dict()
    for key, tensor in clip.model.state_dict().items():
        assert torch.equal(tensor, back[key]), key


def test_timm_export_keeps_projection_and_activation(exported):
    _, out = exported(HUGE_QUICK)
    model = timm.create_model(f"local-dir:{out / 'timm'}", pretrained=True).eval()
    assert "quick" in type(model.blocks[0].mlp.act).__name__.lower()
    assert not model.head.bias.any()
    export_model(out / "timm", out / "timm_again", ExportConfig(formats=("timm",)))
    with pytest.raises(UserError, match="image tower alone; export it to timm or vision, not to huggingface"):
        export_model(out / "timm", out / "no")


def test_built_in_configuration_of_open_clip_is_recognised_by_its_sizes(exported, tmp_path):
    """Register a configuration at reduced size, as open_clip registers its own."""
    source, out = exported(B32)
    record = json.loads((out / "open_clip" / "open_clip_config.json").read_text())
    (tmp_path / "ViT-tiny-worldwide.json").write_text(json.dumps(record["model_cfg"]))
    open_clip.add_model_config(tmp_path)
    try:
        report = export_model(source, tmp_path / "out", ExportConfig(formats=("open_clip",)))
        assert report["formats"]["open_clip"]["own_name"] == "ViT-tiny-worldwide"
    finally:
        open_clip.factory._MODEL_CONFIG_PATHS.remove(tmp_path)
        open_clip.factory._MODEL_CONFIGS.pop("ViT-tiny-worldwide")


@pytest.mark.parametrize("row", [row for row in published.FAMILY if row.open_clip], ids=lambda row: row.name)
def test_presets_at_full_size_equal_the_configurations_of_open_clip(row):
    """Compare every number of the configurations, in both directions."""
    ours = model_config(row.model_config(), row.tokenizer)
    model_cfg = from_hugging_face_config(ours, row.tokenizer.hub_id)
    assert own_name(model_cfg) == row.open_clip
    back = to_hugging_face_config(named_config(row.open_clip)["model_cfg"])
    for tower in ("text_config", "vision_config"):
        actual, expected = getattr(back, tower).to_dict(), getattr(ours, tower).to_dict()
        assert {**actual, "bos_token_id": 0} == {**expected, "bos_token_id": 0}  # open_clip says nothing of it
    assert reduced_config(row, row.tokenizer).vision_config.hidden_act == row.activation


@pytest.mark.parametrize("row", [row for row in published.FAMILY if row.timm], ids=lambda row: row.name)
def test_presets_at_full_size_equal_the_architectures_of_timm(row):
    config = model_config(row.model_config(), row.tokenizer)
    name, arguments = architecture(config.vision_config)
    assert name == row.timm.removeprefix("timm/").split(".")[0].replace("_378", "_224").replace(
        "clip_", "clip_quickgelu_" if row.activation == "quick_gelu" else "clip_"
    )
    with torch.device("meta"):
        theirs = timm.create_model(name, **arguments)
        ours = to_theirs(timm_rules(config.vision_config.num_hidden_layers), MetaClip2Model(config).state_dict())
    assert {**shapes(ours), "head.bias": (config.projection_dim,)} == shapes(theirs.state_dict())


@pytest.mark.parametrize("model_max_length", [512, int(1e30), 64])
def test_published_folder_is_exported_with_the_context_of_the_model(model_max_length, tmp_path):
    row = MT5 if model_max_length == 64 else B32
    save_hugging_face(row, tmp_path / "source")
    edit(tmp_path / "source" / "tokenizer_config.json", model_max_length=model_max_length)
    report = export_model(tmp_path / "source", tmp_path / "out")
    assert report["formats"]["huggingface"]["max_difference"] <= TOLERANCE
    folder = tmp_path / "out" / "huggingface"
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 77
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["CLIPModel", "Normalize"]
    name = "model.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / "source" / name).read_bytes()


def test_end_token_that_the_configuration_lacks_is_added_to_the_export(tmp_path):
    save_hugging_face(B32, tmp_path / "source")
    expected = worldclip.load(tmp_path / "source", device="cpu").encode_text(TEXTS)
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    del config["text_config"]["eos_token_id"]
    config["text_config"]["pad_token_id"] = None
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(
        worldclip.load(tmp_path / "source", device="cpu").encode_text(TEXTS), expected, atol=TOLERANCE
    )
    export_model(tmp_path / "source", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "huggingface" / "config.json").read_text())
    assert written["text_config"]["eos_token_id"] == 2


def test_tokenizer_from_elsewhere_goes_into_the_export(tmp_path):
    save_hugging_face(B32, tmp_path / "source")
    vocab_size = worldclip.load(tmp_path / "source", device="cpu").tokenizer.vocab_size
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "source" / name).rename(tmp_path / "tokenizer" / name)
    export_model(tmp_path / "source", tmp_path / "out", tokenizer=tmp_path / "tokenizer")
    assert worldclip.load(tmp_path / "out" / "huggingface", device="cpu").tokenizer.vocab_size == vocab_size


def test_activations_that_open_clip_cannot_express_are_refused(tmp_path):
    model = save_hugging_face(B32, tmp_path / "source")
    model.config.text_config.hidden_act = "quick_gelu"
    model.config.save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match=r"image tower has gelu, the text tower quick_gelu"):
        export_model(tmp_path / "source", tmp_path / "out", ExportConfig(formats=("open_clip",)))
    assert not (tmp_path / "out" / "open_clip").exists()
