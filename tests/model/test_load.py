"""Each published format loads, and embeds like the library that wrote it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, MetaClip2Model

import worldclip
from model_folders import load_error, put_in_hub_cache
from small_models import (
    TEXTS,
    random_open_clip,
    random_pixels,
    reduced_open_clip_config,
    save_xlm_v,
    unit,
    write_open_clip_config,
)
from worldclip.model import published
from worldclip.model.clip import model_config
from worldclip.model.formats.open_clip_folder import named_config, to_hugging_face_config
from worldclip.model.load import find

TOLERANCE = 1e-5
OPEN_CLIP_NAMES = (
    "ViT-H-14-worldwide",
    "ViT-H-14-worldwide-quickgelu",
    "ViT-H-14-worldwide-378",
    "ViT-bigG-14-worldwide",
    "ViT-bigG-14-worldwide-378",
)
row_names = [row.name for row in published.FAMILY]


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("row", published.FAMILY, ids=row_names)
def test_hugging_face_folder_embeds_like_transformers(row, published_model):
    folder = published_model(row.name)
    clip = worldclip.load(folder, device="cpu")
    theirs = MetaClip2Model.from_pretrained(folder).eval()
    assert theirs.config.vision_config.hidden_act == row.activation
    assert theirs.config.text_config.eos_token_id == row.tokenizer.eos_id
    pixels = random_pixels(theirs.config.vision_config.image_size)
    options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    ids = AutoTokenizer.from_pretrained(folder)(list(TEXTS), **options)["input_ids"]
    with torch.inference_mode():
        images = theirs.get_image_features(pixel_values=pixels)
        texts = theirs.get_text_features(input_ids=ids)
    assert_close(clip.backend.encode_pixels(pixels), unit(images))
    assert_close(clip.encode_text(TEXTS), unit(texts))


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("xlm_v")
    save_xlm_v(folder)
    return folder


def open_clip_texts(model: torch.nn.Module, tokenizer_folder: Path) -> np.ndarray:
    ids = open_clip.tokenizer.HFTokenizer(str(tokenizer_folder), context_length=77)(list(TEXTS))
    with torch.inference_mode():
        return unit(model.encode_text(ids))


def write_checkpoint(folder, tokenizer_folder, name, file="model.pt", change=lambda state: state):
    """Write an open_clip model of this name at reduced size, and its configuration; return the model."""
    model_cfg = reduced_open_clip_config(name, len(AutoTokenizer.from_pretrained(tokenizer_folder)))
    write_open_clip_config(folder, model_cfg)
    model = random_open_clip(model_cfg)
    save = save_file if file.endswith(".safetensors") else torch.save
    save(change(model.state_dict()), folder / file)
    return model


def assert_same_images(clip, encode_image) -> None:
    pixels = random_pixels(28)
    with torch.inference_mode():
        assert_close(clip.backend.encode_pixels(pixels), unit(encode_image(pixels)))


@pytest.mark.parametrize("name", OPEN_CLIP_NAMES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_open_clip_checkpoint_embeds_like_open_clip(name, suffix, tokenizer_folder, tmp_path):
    (tmp_path / "config").mkdir()
    theirs = write_checkpoint(tmp_path / "config", tokenizer_folder, name, f"epoch_1{suffix}")
    file = shutil.move(tmp_path / "config" / f"epoch_1{suffix}", tmp_path)
    arch = tmp_path / "config" / "open_clip_config.json"
    clip = worldclip.load(file, device="cpu", arch=str(arch), tokenizer=tokenizer_folder)
    assert_same_images(clip, theirs.encode_image)
    assert_close(clip.encode_text(TEXTS), open_clip_texts(theirs, tokenizer_folder))
    assert clip.logit_scale == pytest.approx(theirs.logit_scale.exp().item())


REFERENCE_NAMES = [
    "ViT-H-14-quickgelu-worldwide",
    "ViT-H-14-378-worldwide",
    "ViT-bigG-14-worldwide",
    "ViT-bigG-14-378-worldwide",
    *(f"ViT-{size}-worldwide" for size in ("S-16", "M-16", "B-32", "B-16")),
    *(f"ViT-{size}-384-worldwide" for size in ("S-16", "M-16", "B-32", "B-16")),
    "ViT-L-14-worldwide",
    *(f"ViT-{size}-mT5-worldwide" for size in ("S-16", "M-16", "B-32")),
]


@pytest.mark.parametrize(("name", "row"), list(zip(REFERENCE_NAMES, published.FAMILY, strict=True)))
def test_names_of_the_reference_are_architectures(name, row):
    expected = model_config(row.model_config(), row.tokenizer)
    text_encoder = "mT5WorldWideCLIP" if "mT5" in name else "WorldWideCLIP"
    for arch in (name, f"{name}@{text_encoder}"):  # a configuration's file, and the README's model_name
        config = to_hugging_face_config(named_config(arch, row.tokenizer.vocab_size)["model_cfg"])
        assert config.vision_config.to_dict() == expected.vision_config.to_dict()
        actual = config.text_config.to_dict()
        assert actual | {"bos_token_id": 0} == expected.text_config.to_dict() | {"bos_token_id": 0}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("is_bare", [True, False])
def test_checkpoints_of_the_reference_load_with_any_wrapper_prefix(prefix, is_bare, tokenizer_folder, tmp_path):
    def wrap(state):
        prefixed = {prefix + name: tensor for name, tensor in state.items()}
        return prefixed if is_bare else {"epoch": 3, "state_dict": prefixed}

    theirs = write_checkpoint(tmp_path, tokenizer_folder, "ViT-H-14-worldwide-quickgelu", change=wrap)
    clip = worldclip.load(tmp_path / "model.pt", device="cpu", tokenizer=tokenizer_folder)
    assert_same_images(clip, theirs.encode_image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_load_as_float32(dtype, tokenizer_folder, tmp_path):
    def halve(state):
        return {name: tensor.to(dtype) for name, tensor in state.items()}

    theirs = write_checkpoint(tmp_path, tokenizer_folder, "ViT-bigG-14-worldwide", change=halve)
    clip = worldclip.load(tmp_path / "model.pt", device="cpu", tokenizer=tokenizer_folder)
    theirs.load_state_dict(halve(theirs.state_dict()))
    assert_same_images(clip, theirs.encode_image)


def test_hub_id_loads_from_the_local_cache(hugging_face, tmp_path, monkeypatch):
    put_in_hub_cache(hugging_face, "facebook/metaclip-2-worldwide-b32", tmp_path / "hub", monkeypatch)
    features = worldclip.load("facebook/metaclip-2-worldwide-b32", device="cpu").encode_text(TEXTS)
    assert_close(features, worldclip.load(hugging_face, device="cpu").encode_text(TEXTS))
    assert "nobody/nothing is neither a local path nor a repository" in load_error("nobody/nothing")


def test_special_strings_stay_text_in_each_published_tokenizer(published_model):
    for row in (published.FAMILY[0], published.FAMILY[-1]):
        clip = worldclip.load(published_model(row.name), device="cpu")
        tokens = clip.tokenizer.encode(["a </s> red </s></s> apple", "<pad>", "<unk>"])
        assert (tokens.ids == row.tokenizer.eos_id).sum() == 3
        assert np.abs(clip.encode_text("a </s> red apple") - clip.encode_text("a")).max() > 1e-3


def test_digest_is_of_the_files_that_decide_the_embeddings(folder):
    before = find(folder).digest()
    (folder / "trainer").mkdir()
    for name in ("trainer/state.json", "README.md"):
        (folder / name).write_text("{}")
    assert find(folder).digest() == before
    (folder / "tokenizer_config.json").write_text("{}")
    assert find(folder).digest() != before
