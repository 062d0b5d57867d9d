"""LoRA: what is trained, the bytes after an interruption, and what is exported."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModel

import worldclip
from trainings import result_bytes, steps_of, stored, train, train_until
from worldclip.contracts.layout import latest_checkpoint
from worldclip.core import artifacts
from worldclip.export import ExportConfig, export_model

RANK = 4
TEXTS = ["a red bar", "ein Bild: blue cross"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with base/run, a model trained from the start, and lora/run, trained with adapters on it."""
    place = tmp_path_factory.mktemp("lora")
    train(place / "base" / "run", samples_seen=6 * 16)
    train(place / "lora" / "run", **settings(place))
    export_model(place / "lora" / "run", place / "lora" / "out", ExportConfig(formats=("huggingface", "open_clip")))
    return place


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


def test_peft_loads_the_adapters_of_a_checkpoint_on_the_base(place):
    checkpoint, base = (latest_checkpoint(place / name / "run") for name in ("lora", "base"))
    merged, adapted = AutoModel.from_pretrained(checkpoint), AutoModel.from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(adapted, checkpoint / "adapters").merge_and_unload()
    expected = merged.state_dict()
    assert adapted.state_dict().keys() == expected.keys()
    for name, tensor in adapted.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_exported_folders_hold_the_sum(place):
    expected = worldclip.load(place / "lora" / "run", device="cpu").encode_text(TEXTS)
    for name in ("huggingface", "open_clip"):
        clip = worldclip.load(place / "lora" / "out" / name, device="cpu")
        np.testing.assert_allclose(clip.encode_text(TEXTS), expected, atol=1e-5, err_msg=name)


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
