"""What the files of a model folder may make run or fetch: nothing.  Each way in is listed here with what is said."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import worldclip
from small_models import save_hugging_face
from worldclip.core.errors import UserError
from worldclip.model import published
from worldclip.model.tokenizer import load_tokenizer

EVIL = """from pathlib import Path
Path({mark!r}).touch()
class Evil: pass
EvilConfig = EvilModel = EvilTokenizer = Evil
"""


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("huggingface")
    save_hugging_face(published.find("metaclip-2-worldwide-b32"), folder)
    return folder


@pytest.fixture
def folder(hugging_face, tmp_path, monkeypatch) -> Path:
    """Return a model folder with a module that leaves a mark when it runs; connections and questions fail the test."""
    folder = Path(shutil.copytree(hugging_face, tmp_path / "model"))
    (folder / "evil.py").write_text(EVIL.format(mark=str(tmp_path / "mark")))

    def fail(*arguments, **_):
        raise AssertionError(f"connected or asked: {arguments}")

    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setattr("builtins.input", fail)
    return folder


def edit(path: Path, **values) -> None:
    record = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(record | values))


def load_or_refuse(folder: Path) -> str:
    """Return what worldclip.load says, "" where it loads; nothing of the folder ran."""
    said = ""
    try:
        clip = worldclip.load(folder, device="cpu")
        assert type(clip.model).__module__.startswith("transformers.models.")
        assert type(clip.tokenizer.hf).__module__.startswith("transformers.")
        assert type(clip.processor).__module__.startswith("transformers.")
    except UserError as error:
        said = str(error)
    assert not (folder.parent / "mark").exists()
    assert "evil" not in sys.modules
    return said


AUTO_MAP = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModel": "evil.EvilModel",
    "AutoTokenizer": ["evil.EvilTokenizer", None],
}
ELSEWHERE = {"AutoModel": "somebody/repository--evil.EvilModel", "AutoConfig": "somebody/repository--evil.EvilConfig"}


@pytest.mark.parametrize("auto_map", [AUTO_MAP, ELSEWHERE])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_that_auto_map_names_never_runs(folder, file, auto_map):
    edit(folder / file, auto_map={**auto_map, "AutoImageProcessor": "evil.Evil"})
    load_or_refuse(folder)


def test_an_unknown_model_type_with_code_is_refused(folder):
    edit(folder / "config.json", auto_map=AUTO_MAP, model_type="evil")
    assert "does not load as a Hugging Face model" in load_or_refuse(folder)


def test_a_tokenizer_class_of_its_own_never_runs(folder):
    edit(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=AUTO_MAP)
    load_or_refuse(folder)
    with contextlib.suppress(UserError):
        load_tokenizer(folder, 77)
    assert not (folder.parent / "mark").exists()


def test_an_adapter_is_refused_with_its_remedy(folder):
    edit(folder / "adapter_config.json", base_model_name_or_path="somebody/repository", peft_type="LORA")
    assert "adapter_config.json: is an adapter" in load_or_refuse(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("attn_implementation", "somebody/kernel"),
        ("_attn_implementation", "somebody/kernel"),
    ],
)
def test_quantizers_and_kernels_from_the_net_are_refused(folder, key, value):
    edit(folder / "config.json", **{key: value})
    assert f"{key} = " in load_or_refuse(folder)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_pickle_with_code_is_refused(folder, name):
    mark = folder.parent / "mark"
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": Touch(mark)}, folder / name)
    assert load_or_refuse(folder)
    (folder / name).write_bytes(pickle.dumps(Touch(mark)))
    assert load_or_refuse(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "sub/../../x.safetensors", "..", ""])
def test_an_index_that_names_tensors_elsewhere_is_refused(folder, name):
    shutil.copy(folder / "model.safetensors", folder.parent / "model.safetensors")
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    edit(folder / "model.safetensors.index.json", weight_map=dict.fromkeys(names, name))
    assert "is refused" in load_or_refuse(folder)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "[" * 100_000, "nul"]
)
def test_an_index_of_another_form_is_refused(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    assert load_or_refuse(folder)


@pytest.mark.parametrize("layers", [0, -1, 10**9])
def test_towers_of_absurd_size_are_refused_before_they_are_built(folder, layers):
    record = json.loads((folder / "config.json").read_text())
    record["text_config"]["num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(record))
    assert load_or_refuse(folder)


def test_timm_folders_name_models_of_timm_alone(tmp_path, monkeypatch):
    pytest.importorskip("timm")

    def fail(*arguments, **_):
        raise AssertionError(f"connected: {arguments}")

    monkeypatch.setattr(socket, "create_connection", fail)
    (tmp_path / "model.safetensors").write_bytes(b"")
    torch.save(Touch(tmp_path / "mark"), tmp_path / "evil.pth")
    name = "vit_base_patch16_clip_224"
    for record, said in (
        ({"architecture": "hf-hub:somebody/model"}, "which timm does not have"),
        ({"architecture": "local-dir:/tmp"}, "which timm does not have"),
        ({"architecture": ["x"]}, "which timm does not have"),
        (
            {"architecture": name, "model_args": {"checkpoint_path": str(tmp_path / "evil.pth")}},
            "model_args checkpoint",
        ),
        ({"architecture": name, "model_args": {"pretrained_cfg": {"file": "evil.pth"}}}, "model_args pretrained_cfg"),
        ({"architecture": name, "model_args": {"depth": 10**9}}, "depth = 1000000000"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match=said):
            worldclip.load(tmp_path, device="cpu")
    assert not (tmp_path / "mark").exists()
