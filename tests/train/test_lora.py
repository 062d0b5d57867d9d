"""LoRA: what is trained, the bytes after an interruption, and the adapters in peft's own layout."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

import worldclip
from small_world import TRAIN
from trainings import result_bytes, steps_of, stored, train, train_until
from worldclip.contracts.layout import latest_checkpoint
from worldclip.core import artifacts
from worldclip.core.errors import UserError, install_hint
from worldclip.export import ExportConfig, export_model

RANK = 4
TEXTS = ["a red bar", "ein Bild: blue cross"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with base/run, a model trained from the start, and lora/run, trained with adapters on it."""
    place = tmp_path_factory.mktemp("lora")
    train(place / "base" / "run", samples_seen=6 * 16)
    train(place / "lora" / "run", **settings(place))
    export_model(place / "base" / "run", place / "base" / "out", ExportConfig())
    formats = ("huggingface", "peft", "open_clip")
    export_model(place / "lora" / "run", place / "lora" / "out", ExportConfig(formats=formats))
    return place


@pytest.fixture
def adapters(place, tmp_path):
    """Return a copy of the exported adapters that names their base."""
    adapters = shutil.copytree(place / "lora" / "out" / "peft", tmp_path / "adapters")
    name_base(adapters, str(latest_checkpoint(place / "base" / "run")))
    return adapters


def settings(place: Path) -> dict:
    base = str(latest_checkpoint(place / "base" / "run"))
    start = {"initial_weights": base, "tokenizer": {"path": base}, "lora_rank": RANK}
    return start | {"samples_seen": 12 * 16, "lr": 1e-2}


def test_adapters_and_projections_learn_and_everything_else_stays(place):
    base, _ = stored(place / "base" / "run")
    model, trainer = stored(place / "lora" / "run")
    changed = {name for name in base if not torch.equal(base[name], model[name])}
    layers = {name.removeprefix("base.") for name in trainer if name.startswith("base.")}
    assert len(layers) == 2 * 6  # two towers of one block
    assert changed == layers | {"visual_projection.weight", "text_projection.weight"}
    moments = {name.removeprefix("exp_avg.") for name in trainer if name.startswith("exp_avg.")}
    adapters = {name.removeprefix("adapter.") for name in trainer if name.startswith("adapter.")}
    assert moments == adapters | {"visual_projection.weight", "text_projection.weight"}
    for layer in layers:
        name = layer.removesuffix(".weight")
        a, b = (trainer[f"adapter.{name}.lora_{side}.weight"] for side in "AB")
        assert a.shape[0] == b.shape[1] == RANK
        assert torch.equal(trainer[f"base.{layer}"], base[layer])
        torch.testing.assert_close(model[layer], base[layer] + b @ a, rtol=0, atol=1e-6)


def test_the_loss_falls(place):
    curve = artifacts.read_json(place / "lora/run/train/report.json")["curve"]
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_an_interrupted_run_ends_with_the_same_bytes_without_its_initial_weights(place, tmp_path):
    """A hub id may give other weights by then; the checkpoint holds what the adapters are added to."""
    base = shutil.copytree(latest_checkpoint(place / "base" / "run"), tmp_path / "base")
    changes = settings(place) | {"initial_weights": str(base)}
    train_until(8, tmp_path / "run", **changes)
    assert steps_of(tmp_path / "run/train") == [5]
    shutil.rmtree(base)
    train(tmp_path / "run", **changes)
    assert result_bytes(tmp_path / "run") == result_bytes(place / "lora" / "run")
    configs = [
        artifacts.read_json(latest_checkpoint(run_dir) / "adapters/adapter_config.json")
        for run_dir in (tmp_path / "run", place / "lora/run")
    ]
    assert configs[0] == configs[1] | {"base_model_name_or_path": str(base)}


def test_peft_loads_the_adapters_on_the_exported_base(place):
    out = place / "lora" / "out"
    merged = AutoModel.from_pretrained(out / "huggingface").eval()
    base = AutoModel.from_pretrained(place / "base" / "out" / "huggingface").eval()
    ids = AutoTokenizer.from_pretrained(out / "huggingface")(TEXTS, return_tensors="pt", padding=True, truncation=True)
    ids = {name: ids[name] for name in ("input_ids", "attention_mask")}
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = merged(pixel_values=pixels, **ids)
        before = base(pixel_values=pixels, **ids)
        adapted = peft.PeftModel.from_pretrained(base, out / "peft").eval()(pixel_values=pixels, **ids)
    for kind in ("text_embeds", "image_embeds"):
        torch.testing.assert_close(adapted[kind], expected[kind], rtol=0, atol=1e-5)
        assert (before[kind] - expected[kind]).abs().max() > 1e-2
    torch.testing.assert_close(adapted.logits_per_text, expected.logits_per_text, rtol=0, atol=1e-4)


def test_peft_loads_the_adapters_of_a_checkpoint_on_the_base(place):
    checkpoint, base = (latest_checkpoint(place / name / "run") for name in ("lora", "base"))
    merged, adapted = AutoModel.from_pretrained(checkpoint), AutoModel.from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(adapted, checkpoint / "adapters").merge_and_unload()
    expected = merged.state_dict()
    assert adapted.state_dict().keys() == expected.keys()
    for name, tensor in adapted.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def name_base(adapters: Path, base: object, **changes: object) -> None:
    config = json.loads((adapters / "adapter_config.json").read_text())
    (adapters / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base} | changes))


def test_exported_adapters_name_a_base_on_the_hub_and_no_folder_of_this_machine(place, tmp_path):
    folder = place / "lora" / "out" / "peft"
    assert artifacts.read_json(folder / "adapter_config.json")["base_model_name_or_path"] is None
    with pytest.raises(UserError, match="names no base model; set its base_model_name_or_path"):
        worldclip.load(folder)
    checkpoint = shutil.copytree(latest_checkpoint(place / "lora" / "run"), tmp_path / "step")
    name_base(checkpoint / "adapters", "hf-hub:owner/name")
    export_model(checkpoint, tmp_path / "out", ExportConfig(formats=("peft",)))
    exported = artifacts.read_json(tmp_path / "out/peft/adapter_config.json")
    assert exported["base_model_name_or_path"] == "owner/name"
    for path in (*folder.iterdir(), *(tmp_path / "out/peft").iterdir()):
        assert str(place.parent).encode() not in path.read_bytes(), path


def test_exported_adapters_are_described_anew(place, tmp_path):
    """A checkpoint of others may name modules that peft imports and patterns that it matches."""
    checkpoint = shutil.copytree(latest_checkpoint(place / "lora" / "run"), tmp_path / "step")
    name_base(checkpoint / "adapters", None, megatron_core="evil", target_modules="(.*)+!")
    export_model(checkpoint, tmp_path / "out", ExportConfig(formats=("peft",)))
    config = artifacts.read_json(tmp_path / "out/peft/adapter_config.json")
    assert config == artifacts.read_json(place / "lora/out/peft/adapter_config.json")
    assert config["megatron_core"] == "megatron.core"
    assert len(config["target_modules"]) == 2 * 6  # two towers of one block
    name_base(checkpoint / "adapters", None, megatron_config={"hidden_size": 1})
    with pytest.raises(UserError, match=r"megatron_config = \{'hidden_size': 1\} is not plain LoRA"):
        export_model(checkpoint, tmp_path / "out", ExportConfig(formats=("peft",)))


def test_exported_adapters_load_by_their_folder_and_other_formats_hold_the_sum(place, adapters):
    out = place / "lora" / "out"
    expected = worldclip.load(place / "lora" / "run", device="cpu").encode_text(TEXTS)
    for folder in (adapters, out / "huggingface", out / "open_clip"):
        name, clip = folder.name, worldclip.load(folder, device="cpu")
        np.testing.assert_allclose(clip.encode_text(TEXTS), expected, atol=1e-5, err_msg=name)
    config = json.loads((out / "peft" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", RANK)
    assert (out / "peft" / "README.md").read_text().startswith("---\nlibrary_name: peft\n")
    report = artifacts.read_json(out / "report.json")["formats"]
    assert report["peft"]["bytes"] < report["huggingface"]["bytes"]


def test_a_smaller_vocabulary_takes_the_same_adapters(place, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    config = ExportConfig(formats=("peft",), languages=("en",), corpus=(str(tmp_path / "texts.txt"),))
    export_model(latest_checkpoint(place / "lora" / "run"), tmp_path / "out", config)
    name = "adapter_model.safetensors"
    assert (tmp_path / "out/peft" / name).read_bytes() == (place / "lora/out/peft" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"compile": True}, {"precision": "bf16", "activation_checkpointing": True}])
def test_options_of_the_towers_give_nearly_the_same_loss(place, tmp_path, changes):
    train(tmp_path / "run", **settings(place), **changes)
    curves = [
        artifacts.read_json(run_dir / "train/report.json")["curve"]
        for run_dir in (tmp_path / "run", place / "lora/run")
    ]
    actual, expected = ([record["loss"] for record in curve] for curve in curves)
    assert actual == pytest.approx(expected, rel=0.02 if changes.get("precision") else 1e-3)


# what is refused


def test_a_model_without_adapters_is_not_exported_as_adapters(place, tmp_path):
    with pytest.raises(UserError, match=r"has no adapters; train with train\.lora_rank, or leave peft out"):
        export_model(place / "base" / "run", tmp_path / "out", ExportConfig(formats=("peft",)))


def test_adapters_of_another_model_are_an_error(place, adapters, tmp_path):
    wider = TRAIN | {"model": TRAIN["model"] | {"text_width": 96}, "samples_seen": 32, "warmup_samples": 0}
    train(tmp_path / "wider" / "run", **wider)
    name_base(adapters, str(tmp_path / "wider" / "run"))
    with pytest.raises(
        UserError, match=r"of another model than .*wider/run \(.*is \(384, 96\) there, its adapter has 64 channels"
    ):
        worldclip.load(adapters)
    name_base(adapters, str(adapters))
    with pytest.raises(UserError, match="holds adapters itself; export it to huggingface first"):
        worldclip.load(adapters)
    name_base(adapters, str(latest_checkpoint(place / "base" / "run")))
    tensors = load_file(adapters / "adapter_model.safetensors")
    save_file({f"{name}.more": tensor for name, tensor in tensors.items()}, adapters / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"of another model than .*no .*\.more there"):
        worldclip.load(adapters)
    (adapters / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is cut or corrupt"):
        worldclip.load(adapters)


def test_missing_peft_is_named_with_its_extra(adapters, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=re.escape(f"needs peft: {install_hint('lora')}")):
        worldclip.load(adapters)
