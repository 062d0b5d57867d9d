"""What is cut, strange or ambiguous is refused: which file, which tensor, what it may be, what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import worldclip
from small_models import (
    random_open_clip,
    reduced_open_clip_config,
    save_hugging_face,
    save_xlm_v,
    write_open_clip_config,
)
from worldclip.core.errors import UserError
from worldclip.model import load as sources
from worldclip.model import published
from worldclip.model.formats import open_clip_folder as open_clip


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("huggingface")
    save_hugging_face(published.find("metaclip-2-worldwide-b32"), folder)
    return folder


@pytest.fixture
def folder(hugging_face, tmp_path) -> Path:
    return Path(shutil.copytree(hugging_face, tmp_path / "model"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An open_clip checkpoint with its configuration and tokenizer."""
    folder = tmp_path_factory.mktemp("open_clip")
    save_xlm_v(folder)
    model_cfg = reduced_open_clip_config(
        "ViT-H-14-worldwide", len(worldclip.model.tokenizer.load_tokenizer(folder, 77).hf)
    )
    torch.save(random_open_clip(model_cfg).state_dict(), folder / "model.pt")
    write_open_clip_config(folder, model_cfg)
    return folder


def refused(path: Path, **keys) -> str:
    with pytest.raises(UserError) as caught:
        worldclip.load(path, device="cpu", **keys)
    return str(caught.value)


def change(file: Path, name: str, tensor: torch.Tensor | None) -> None:
    weights = load_file(file)
    weights.pop(name)
    if tensor is not None:
        weights[name] = tensor
    save_file(weights, file, {"format": "pt"})


def test_cut_safetensors(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert "model.safetensors is cut or damaged" in refused(folder)


def test_a_shard_that_is_missing(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00002-of-00002.safetensors" in refused(folder)


def test_a_tensor_of_another_shape_is_named_with_both(folder):
    change(folder / "model.safetensors", "text_projection.weight", torch.zeros(48, 100))
    assert "tensor text_projection.weight has shape (48, 100), expected (48, 128)" in refused(folder)


def test_tensors_that_are_missing_or_unknown_are_named(folder):
    change(folder / "model.safetensors", "visual_projection.weight", None)
    assert "lacks 1 tensor(s): visual_projection.weight" in refused(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"surplus": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    assert "also holds 1 tensor(s): surplus" in refused(folder)


def test_open_clips_tensors_are_named_as_in_the_file(checkpoint, tmp_path):
    state = torch.load(checkpoint / "model.pt", weights_only=True)
    state["visual.proj"] = torch.zeros(160, 7)
    del state["ln_final.bias"]
    torch.save(state, tmp_path / "bad.pt")
    said = refused(tmp_path / "bad.pt", arch=str(checkpoint / open_clip.CONFIG_FILE), tokenizer=checkpoint)
    assert "tensor visual.proj has shape (160, 7), expected (160, 48)" in said
    assert "lacks 1 tensor(s): ln_final.bias" in said


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the checkpoint ran')",)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(checkpoint, tmp_path):
    torch.save({"state_dict": {}, "args": Harmful()}, tmp_path / "model.pt")
    said = refused(tmp_path / "model.pt")
    assert "holds more than tensors" in said
    assert "is refused" in said


def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    assert "TorchScript" in refused(tmp_path / "model.pt")


def test_a_cut_checkpoint_and_one_without_tensors(checkpoint, tmp_path):
    whole = (checkpoint / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2])
    assert "is cut or damaged" in refused(tmp_path / "model.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds no table of tensors" in refused(tmp_path / "list.pt")


def test_a_tokenizer_that_is_not_the_models(folder, checkpoint, tmp_path):
    from small_models import save_mt5

    save_mt5(tmp_path / "mt5")
    assert "eos_token_id is 2, the tokenizer's 1" in refused(folder, tokenizer=tmp_path / "mt5")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 49407
    (folder / "config.json").write_text(json.dumps(config))
    assert "eos_token_id is 49407, the tokenizer's 2" in refused(folder)
    assert "holds no tokenizer" in refused(checkpoint / "model.pt", tokenizer=tmp_path)


def shapes_of(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a published model, without their memory."""
    from transformers import MetaClip2Model

    from worldclip.model.tensor_names import open_clip_rules, to_theirs

    row = published.find(name)
    config = open_clip.to_hugging_face_config(open_clip.published_config(row), name)
    with torch.device("meta"):
        return to_theirs(open_clip_rules(config), MetaClip2Model(config).state_dict())


@pytest.mark.parametrize("row", published.FAMILY, ids=lambda row: row.name)
def test_a_bare_checkpoint_is_told_by_its_shapes_or_its_candidates_are_named(row):
    found = sources.fitting_names(shapes_of(row.name))
    if row.name == "metaclip-2-worldwide-huge-quickgelu":
        assert found == ["ViT-H-14-worldwide-quickgelu", "ViT-H-14-worldwide"]
    else:
        assert found == [row.open_clip or row.name]


def test_candidates_of_equal_shapes_are_named_with_the_way_to_say_which(monkeypatch, tmp_path):
    monkeypatch.setattr(sources.weights, "read_state", lambda _: shapes_of("metaclip-2-worldwide-huge-quickgelu"))
    (tmp_path / "h14.pt").write_bytes(b"")
    said = refused(tmp_path / "h14.pt")
    assert "may be ViT-H-14-worldwide-quickgelu or ViT-H-14-worldwide" in said
    assert "say which: arch='ViT-H-14-worldwide-quickgelu'" in said


def test_a_bare_checkpoint_of_unknown_shapes_asks_for_its_configuration(checkpoint, tmp_path):
    shutil.copy(checkpoint / "model.pt", tmp_path / "model.pt")
    assert "has the shapes of no published model; give its configuration" in refused(tmp_path / "model.pt")
    assert "holds model.pt and no configuration" in refused(tmp_path)
    said = refused(tmp_path / "model.pt", arch="ViT-Z-14-worldwide")
    assert "open_clip has no configuration 'ViT-Z-14-worldwide'; of this family it has ViT-H-14-worldwide" in said


def test_open_clips_vit_l_is_another_model_and_refused_with_the_reason(checkpoint, tmp_path):
    import open_clip as library

    said = refused(checkpoint / "model.pt", arch="ViT-L-14-worldwide")
    assert "another model: its tokenizer is mT5-base with 250,100 ids" in said
    write_open_clip_config(tmp_path, library.get_model_config("ViT-L-14-worldwide"))
    said = refused(checkpoint / "model.pt", arch=str(tmp_path / open_clip.CONFIG_FILE), tokenizer=checkpoint)
    assert "another model: its tokenizer is mT5-base" in said


def test_open_clip_models_of_another_kind_are_left_to_open_clip(checkpoint, tmp_path):
    import open_clip as library

    arch = write_open_clip_config(tmp_path, library.get_model_config("ViT-B-16-SigLIP"))
    said = refused(checkpoint / "model.pt", arch=str(arch), tokenizer=checkpoint)
    assert "is no model of this family" in said
    assert "load it with open_clip" in said


def test_a_folder_that_holds_a_model_twice_asks_which(folder, checkpoint):
    shutil.copy(checkpoint / open_clip.CONFIG_FILE, folder / open_clip.CONFIG_FILE)
    assert "it holds a model as huggingface and as open_clip; say which: layout='huggingface'" in refused(folder)
    assert worldclip.load(folder, device="cpu", layout="huggingface").embed_dim == 48
    assert "is not in the layout 'timm'" in refused(folder, layout="timm")


def test_what_a_source_says_itself_is_not_said_again(folder):
    assert "says itself what it is" in refused(folder, arch="ViT-H-14-worldwide")


def test_files_that_are_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "is no checkpoint" in refused(tmp_path / "notes.txt")
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in refused(tmp_path)
    assert "facebook/metaclip-2-worldwide-s16 is its name on the hub" in refused("metaclip-2-worldwide-s16")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer"),
        (("tokenizer.json",), "such a difference means another tokenizer"),  # transformers makes an empty one up
        (("preprocessor_config.json",), "does not say how images become pixels"),
        (("model.safetensors",), "holds config.json and no weights"),
    ],
)
def test_a_folder_without_one_of_its_parts_says_which(folder, missing, said):
    for name in missing:
        (folder / name).unlink()
    assert said in refused(folder)


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_damaged_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(content)
    assert "does not load as a tokenizer" in refused(folder)


def test_a_processor_of_another_size(folder):
    file = folder / "preprocessor_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"crop_size": {"height": 20, "width": 20}}))
    assert "makes images of 20 px, the model reads 64 px" in refused(folder)


def test_a_configuration_with_a_value_of_another_kind(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = "wide"
    (folder / "config.json").write_text(json.dumps(config))
    assert "does not load as a Hugging Face model" in refused(folder)


def test_a_tokenizer_of_another_size(folder, tmp_path):
    """Fewer ids than rows mean another tokenizer too, but for a table that was filled up."""
    from transformers import XLMRobertaTokenizer

    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("<mask>", 0.0)]
    XLMRobertaTokenizer(vocab=vocab, model_max_length=77).save_pretrained(tmp_path / "small")
    assert "token rows, the tokenizer 6 ids" in refused(folder, tokenizer=tmp_path / "small")
