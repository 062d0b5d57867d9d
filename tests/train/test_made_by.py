"""What made a training: a changed start is named and refused, another evaluation begins a new best."""

import json
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch

from calls import before
from small_world import TRAIN, make_recipe, write_shapes, write_world
from stages import context, run_stage
from trainings import result_bytes, steps_of, stored, train, train_until
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.contracts import schemas
from worldclip.contracts.layout import checkpoints, latest_checkpoint
from worldclip.core import artifacts, preflight
from worldclip.core.errors import UserError
from worldclip.core.settings import to_toml
from worldclip.evaluate import engine
from worldclip.model.tokenizer import train_tokenizer
from worldclip.tools.branch import branch
from worldclip.train import loop, stage
from worldclip.train.tokenizer import training_texts

SHORT = {"samples_seen": 12 * 16, "checkpoint_every_samples": 5 * 16, "warmup_samples": 16}


def base_run(folder, **changes):
    """Train a model that others start from; return its last checkpoint."""
    train(folder / "base" / "run", **SHORT | changes)
    return latest_checkpoint(folder / "base" / "run")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_run(tmp_path_factory.mktemp("start"))


def copy_of(checkpoint, folder):
    """Return a copy of a model without what training resumes from."""
    return shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("trainer"))


def from_start(model):
    return SHORT | {"initial_weights": str(model), "tokenizer": {"path": str(model)}}


def change_weights(model):
    weights = safetensors.torch.load_file(model / "model.safetensors")
    safetensors.torch.save_file({name: weight + 1 for name, weight in weights.items()}, model / "model.safetensors")


# best.json: the best of the scores over the same datasets


@pytest.fixture
def scored(monkeypatch):
    """A table {dataset: {step: score}} that takes the place of every evaluation's scores."""
    plain, scores = engine.evaluate, {}

    def evaluate(model, model_id, *arguments, **options):
        records, features, texts = plain(model, model_id, *arguments, **options)
        step = int(model_id["model"][-9:])
        given = [{**record, "metrics": {"acc1": scores[record["dataset"]][step]}} for record in records]
        return given, features, texts

    monkeypatch.setattr(engine, "evaluate", evaluate)
    return scores


def two_datasets(folder):
    section = write_shapes(folder / "easy")
    folders = {name: f"folders:{folder / name}" for name in ("easy", "hard")}
    write_shapes(folder / "hard")
    return {**section, "folders": folders, "datasets": ["easy"]}


def add_picture(folder):
    shutil.copy(folder / "easy/red_bar/1.png", folder / "easy/red_bar/2.png")


@pytest.mark.parametrize("change", ["another dataset", "another picture"])
def test_another_evaluation_begins_a_new_best(tmp_path, scored, change):
    scored["easy"] = {3: 0.9, 6: 0.8, 9: 0.3, 12: 0.2}
    scored["hard"] = {6: 0.1, 9: 0.3, 12: 0.2}
    evaluate = two_datasets(tmp_path)
    keys = SHORT | {"evaluate_every_samples": 3 * 16, "keep_last": 9}
    train_until(7, tmp_path / "run", evaluate=evaluate, **keys)
    best = tmp_path / "run/train/best.json"
    assert artifacts.read_json(best)["step"] == 3
    if change == "another dataset":
        keys["evaluate_datasets"] = ["hard"]
    else:
        scored["easy"] = scored["hard"]
        add_picture(tmp_path)
    train(tmp_path / "run", evaluate=evaluate, **keys)
    record = artifacts.read_json(best)
    assert (record["step"], record["value"]) == (9, 0.3)
    assert list(record["datasets"]) == ["hard" if change == "another dataset" else "easy"]


def test_after_a_step_was_removed_the_best_of_the_others_is_named(tmp_path, scored):
    scored["easy"] = {3: 0.2, 6: 0.4, 9: 0.35, 12: 0.3, 15: 0.1}
    evaluate = two_datasets(tmp_path)
    keys = SHORT | {"evaluate_every_samples": 3 * 16, "keep_last": 9}
    train(tmp_path / "run", evaluate=evaluate, **keys)
    shutil.rmtree(tmp_path / "run/train/step_000000006")
    train(tmp_path / "run", evaluate=evaluate, **keys | {"samples_seen": 15 * 16})
    record = artifacts.read_json(tmp_path / "run/train/best.json")
    assert (record["step"], record["value"]) == (9, 0.35)


def test_a_score_of_other_weights_of_the_same_step_is_not_taken(tmp_path, scored):
    """Steps were removed, and trained again at another rate."""
    scored["easy"] = {3: 0.2, 6: 0.9}
    evaluate = two_datasets(tmp_path)
    keys = SHORT | {"samples_seen": 6 * 16, "evaluate_every_samples": 3 * 16, "keep_last": 9}
    train(tmp_path / "run", evaluate=evaluate, **keys)
    shutil.rmtree(tmp_path / "run/train/step_000000006")
    scored["easy"] = {3: 0.2, 6: 0.1}
    train(tmp_path / "run", evaluate=evaluate, **keys | {"lr": 1e-3})
    record = artifacts.read_json(tmp_path / "run/train/best.json")
    assert (record["step"], record["value"]) == (3, 0.2)
