"""Corrupt, foreign and ambiguous sources are refused with the file, the tensor, the candidates and the remedy."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import XLMRobertaTokenizer

import worldclip
from model_folders import edit, load_error
from small_models import random_open_clip, reduced_open_clip_config, save_mt5, save_xlm_v, write_open_clip_config
from worldclip.core.errors import install_hint
from worldclip.model.formats import open_clip_folder as open_clip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Write an open_clip checkpoint with its configuration and tokenizer."""
    folder = tmp_path_factory.mktemp("open_clip")
    save_xlm_v(folder)
    model_cfg = reduced_open_clip_config(
        "ViT-H-14-worldwide", len(worldclip.model.tokenizer.load_tokenizer(folder, 77).hf)
    )
    torch.save(random_open_clip(model_cfg).state_dict(), folder / "model.pt")
    write_open_clip_config(folder, model_cfg)
    return folder


def change(file: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors of a file; None removes one."""
    changed = {**load_file(file), **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, file, {"format": "pt"})


def remove(*files: Path) -> None:
    for file in files:
        file.unlink()


def name_a_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    edit(folder / "model.safetensors.index.json", weight_map=weight_map)


WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
PROCESSOR = "preprocessor_config.json"
DAMAGES = {
    "missing shard": (name_a_missing_shard, "lacks model-00002-of-00002.safetensors"),
    "other shape": (
        lambda folder: change(folder / WEIGHTS, text_projection__weight=torch.zeros(48, 100)),
        "tensor text_projection.weight has shape (48, 100), expected (48, 128)",
    ),
    "missing tensor": (
        lambda folder: change(folder / WEIGHTS, visual_projection__weight=None),
        "lacks 1 tensor(s): visual_projection.weight",
    ),
    "unknown tensor": (
        lambda folder: change(folder / WEIGHTS, surplus=torch.zeros(2)),
        "also holds 1 tensor(s): surplus",
    ),
    "no weights": (lambda folder: remove(folder / WEIGHTS), "holds config.json and no weights"),
    "no tokenizer": (
        lambda folder: remove(folder / TOKENIZER, folder / "tokenizer_config.json"),
        "holds no tokenizer",
    ),
    # transformers makes an empty one up
    "no tokenizer.json": (lambda folder: remove(folder / TOKENIZER), "use the model's own tokenizer"),
    "empty tokenizer": (lambda folder: (folder / TOKENIZER).write_text("{}"), "does not load as a tokenizer"),
    "no processor": (lambda folder: remove(folder / PROCESSOR), "does not say how images become pixels"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folder_is_refused_with_the_reason(folder, damage):
    do, said = DAMAGES[damage]
    do(folder)
    assert said in load_error(folder)


NOT_LOADED = "does not load as a Hugging Face model"


@pytest.mark.parametrize(
    ("file", "section", "values", "said"),
    [
        (PROCESSOR, "", {"crop_size": {"height": 20, "width": 20}}, "makes images of 20 px, the model reads 64 px"),
        (CONFIG, "text_config", {"hidden_size": "wide"}, NOT_LOADED),
        (CONFIG, "text_config", {"num_attention_heads": 0}, NOT_LOADED),
        (CONFIG, "text_config", {"hidden_act": "nope"}, NOT_LOADED),
        (CONFIG, "vision_config", {"patch_size": 0}, NOT_LOADED),
        (CONFIG, "text_config", {"eos_token_id": 49407}, "eos_token_id is 49407, the tokenizer's is 2"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_the_reason(folder, file, section, values, said):
    edit(folder / file, section, **values)
    assert said in load_error(folder)


def test_truncated_safetensors_are_refused(folder):
    file = folder / WEIGHTS
    whole = file.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert "model.safetensors is cut or corrupt" in load_error(folder)


def test_errors_use_the_tensor_names_of_the_open_clip_file(checkpoint, tmp_path):
    state = torch.load(checkpoint / "model.pt", weights_only=True)
    state["visual.proj"] = torch.zeros(160, 7)
    del state["ln_final.bias"]
    torch.save(state, tmp_path / "bad.pt")
    said = load_error(tmp_path / "bad.pt", arch=str(checkpoint / open_clip.CONFIG_FILE), tokenizer=checkpoint)
    assert "tensor visual.proj has shape (160, 7), expected (160, 48)" in said
    assert "lacks 1 tensor(s): ln_final.bias" in said


@pytest.mark.parametrize(
    ("package", "extra"), [("torch", "train"), ("transformers", "train"), ("onnxruntime", "export")]
)
def test_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, extra):
    for tower in ("vision", "text"):
        (tmp_path / "onnx").mkdir(exist_ok=True)
        (tmp_path / "onnx" / f"{tower}_model.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    said = load_error(tmp_path)
    assert said == f"a model in the layout 'onnx' needs {package}: {install_hint(extra)}"


def test_torchscript_archive_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    assert "TorchScript" in load_error(tmp_path / "model.pt")


def test_files_that_hold_no_checkpoint_are_refused(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "is not a checkpoint" in load_error(tmp_path / "notes.txt")
    whole = (checkpoint / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2])
    assert "is cut or corrupt" in load_error(tmp_path / "model.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds no state dict" in load_error(tmp_path / "list.pt")


def test_tokenizer_of_another_model_is_refused(folder, checkpoint, tmp_path):
    save_mt5(tmp_path / "mt5")
    assert "eos_token_id is 2, the tokenizer's is 1" in load_error(folder, tokenizer=tmp_path / "mt5")
    assert "holds no tokenizer" in load_error(checkpoint / "model.pt", tokenizer=tmp_path)


def test_bare_checkpoint_needs_its_architecture(checkpoint, tmp_path):
    shutil.copy(checkpoint / "model.pt", tmp_path / "model.pt")
    said = load_error(tmp_path / "model.pt")
    assert "give arch=, the path of its open_clip_config.json or a name: ViT-H-14-worldwide-quickgelu" in said
    assert "or a checkpoint file and its arch; it holds model.pt" in load_error(tmp_path)
    said = load_error(tmp_path / "model.pt", arch="ViT-Z-14-worldwide")
    assert "unknown architecture 'ViT-Z-14-worldwide'; those of this family: ViT-H-14-worldwide" in said


def test_vit_l_of_open_clip_is_another_model_and_refused_with_the_reason(checkpoint, tmp_path):
    state = torch.load(checkpoint / "model.pt", weights_only=True)
    torch.save(state | {"token_embedding.weight": torch.zeros(250_100, 1)}, tmp_path / "mt5_base.pt")
    said = load_error(tmp_path / "mt5_base.pt", arch="ViT-L-14-worldwide")
    assert "another model: its tokenizer is mT5-base with 250,100 ids" in said
    write_open_clip_config(tmp_path, reduced_open_clip_config("ViT-L-14-worldwide", 100))
    said = load_error(checkpoint / "model.pt", arch=str(tmp_path / open_clip.CONFIG_FILE), tokenizer=checkpoint)
    assert "does not load as an open_clip model" in said


def test_weights_of_this_family_do_not_load_as_another_architecture(checkpoint, tmp_path):
    arch = write_open_clip_config(tmp_path, reduced_open_clip_config("ViT-B-32", 49_408))
    said = load_error(checkpoint / "model.pt", arch=str(arch))
    assert "does not load as an open_clip model" in said
    assert "do its weights and its configuration match?" in said


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "model_cfg.vision_cfg is None; it must be an object"),
        ({"model_cfg": {}}, "model_cfg.text_cfg is None; it must be an object"),
        ({"model_cfg": {"vision_cfg": {}, "text_cfg": []}}, "model_cfg.text_cfg is []; it must be an object"),
        ({"model_cfg": [], "preprocess_cfg": 1}, "preprocess_cfg is 1; it must be an object"),
        ({"embed_dim": None}, "does not load as an open_clip model"),
        ({"text_cfg": {"context_length": "long"}}, "does not load as an open_clip model"),
        ({"text_cfg": {"heads": 0}}, "does not load as an open_clip model"),
        ({"vision_cfg": {"head_width": 10**6}}, "does not load as an open_clip model"),
    ],
)
def test_open_clip_configuration_without_its_values_is_refused(record, said, checkpoint, tmp_path):
    if record.keys() & {"embed_dim", "text_cfg", "vision_cfg"}:  # changes of one that is right
        whole = json.loads((checkpoint / open_clip.CONFIG_FILE).read_text())["model_cfg"]
        record = whole | {
            key: {**whole[key], **value} if isinstance(value, dict) else value for key, value in record.items()
        }
    edit(tmp_path / "arch.json", **record)
    assert said in load_error(checkpoint / "model.pt", arch=str(tmp_path / "arch.json"), tokenizer=checkpoint)


def test_folder_with_a_model_in_two_layouts_is_read_in_a_fixed_order(folder, checkpoint):
    (folder / "onnx").mkdir()
    assert worldclip.load(folder, device="cpu").embed_dim == 48
    shutil.copy(checkpoint / open_clip.CONFIG_FILE, folder / open_clip.CONFIG_FILE)
    assert "holds open_clip_config.json and none of its weights" in load_error(folder)


def test_option_that_the_layout_does_not_use_is_refused(folder):
    said = load_error(folder, arch="ViT-H-14-worldwide")
    assert "arch = 'ViT-H-14-worldwide': only used for open_clip checkpoints" in said


def test_tokenizer_of_another_vocabulary_size_is_refused(folder, tmp_path):
    """Far fewer ids than rows mean another tokenizer; a table padded to a round number does not."""
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("<mask>", 0.0)]
    XLMRobertaTokenizer(vocab=vocab, model_max_length=77).save_pretrained(tmp_path / "small")
    assert "token rows, the tokenizer 6 ids" in load_error(folder, tokenizer=tmp_path / "small")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        *((source, "must be a path or a hub id") for source in (None, "", 3, ["a"])),
        *(
            (source, "does not exist; give a run, a model's folder or file")
            for source in ("runs/my run", "runs/", "runs/a--b", "hf-hub:runs/my run")
        ),
        ("metaclip-2-worldwide-s16", "the hub id of this model is facebook/metaclip-2-worldwide-s16"),
    ],
)
def test_source_that_is_no_path_and_no_hub_id_is_refused(source: Any, said: str) -> None:
    assert said in load_error(source)
