"""However often training is interrupted, it ends with the bytes of an uninterrupted run."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch

import trainings
from on_ranks import Rank, run_on_ranks, start_ranks
from small_world import TRAIN, write_world
from trainings import losses, train, train_until
from worldclip.contracts.layout import checkpoints, latest_checkpoint
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.model import clip, precision
from worldclip.model.config import ModelConfig
from worldclip.train import loop, step
from worldclip.train.checkpoint import read_state
from worldclip.train.log import read_log
from worldclip.train.signals import TERMINATED
from worldclip.train.step import LaunchedStep
from worldclip.train.train_state import copy_to_cpu

STEPS = 24


def result_bytes(run_dir: Path) -> dict[str, bytes]:
    """Return the files that training is for, and the optimizer's."""
    folder = latest_checkpoint(run_dir)
    files = ("model.safetensors", "config.json", "tokenizer.json", "modules.json", "trainer/optimizer.safetensors")
    return {name: (folder / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a finished run."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(run_dir, broken={4})
    return run_dir


def test_the_model_learns(whole):
    first, *_, last = losses(whole).values()
    assert last < first - 0.2


@pytest.mark.parametrize("interruptions", [(3,), (7, 1, 9), (23,)])
def test_a_run_interrupted_anywhere_ends_with_the_same_bytes(whole, tmp_path, interruptions):
    for num_steps in interruptions:
        train_until(num_steps, tmp_path / "run", broken={4})
    report = train(tmp_path / "run")
    assert result_bytes(tmp_path / "run") == result_bytes(whole)
    assert losses(tmp_path / "run") == losses(whole)
    assert report["seen"] == artifacts.read_json(whole / "train" / "report.json")["seen"]
    assert report["bad"] == artifacts.read_json(whole / "train" / "report.json")["bad"] != {}


def test_a_run_goes_on_in_the_precision_that_auto_took_first(tmp_path, monkeypatch):
    def train_on(gain: float, *, until: int | None, name: str) -> None:
        monkeypatch.setattr(precision, "product_gain", lambda width: gain)
        if until is None:
            train(tmp_path / name / "run", precision="auto")
        else:
            train_until(until, tmp_path / name / "run", precision="auto")

    train_on(4.0, until=None, name="whole")
    train_on(4.0, until=7, name="moved")
    train_on(0.5, until=None, name="moved")  # a processor that gains nothing
    whole, moved = tmp_path / "whole/run", tmp_path / "moved/run"
    assert artifacts.read_json(moved / "train/report.json")["schedule"]["precision"] == "bf16"
    assert result_bytes(moved) == result_bytes(whole)
    train_on(0.5, until=None, name="plain")
    assert result_bytes(tmp_path / "plain/run") != result_bytes(whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_and_terminated_processes_resume_to_the_same_bytes(tmp_path, precision):
    places = tmp_path / "interrupted", tmp_path / "whole"
    run_dir, whole = (place / "run" for place in places)
    for place in places:
        recipe = {"pool": {"path": str(write_world(place / "run"))}, "balance": {"tail_fraction": 0.1}}
        settings = TRAIN | {"samples_seen": 60 * 16, "precision": precision}
        (place / "recipe.json").write_text(json.dumps({**recipe, "train": settings}))
    (killed,) = start_ranks("train", places[0], 1)
    _await_checkpoint(run_dir, killed)
    time.sleep(random.Random(tmp_path.name).random() * 0.2)
    killed.send_signal(signal.SIGKILL)
    _, errors = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, errors
    after_kill = latest_checkpoint(run_dir)
    (terminated,) = start_ranks("train", places[0], 1)
    _await_checkpoint(run_dir, terminated, newer_than=after_kill)
    terminated.send_signal(signal.SIGTERM)
    _, errors = terminated.communicate()
    assert terminated.returncode == TERMINATED, errors
    assert "SIGTERM: step" in errors
    assert not (run_dir / "train" / "manifest.json").exists()
    for place in places:
        run_on_ranks("train", place, 1)
    assert result_bytes(run_dir) == result_bytes(whole)
    assert losses(run_dir) == losses(whole)


def _await_checkpoint(run_dir: Path, process: Rank, newer_than: Path | None = None) -> None:
    while latest_checkpoint(run_dir) in (None, newer_than):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def test_a_corrupt_checkpoint_is_skipped_with_a_warning(whole, tmp_path, capsys):
    train_until(17, tmp_path / "run", broken={4})
    newest = latest_checkpoint(tmp_path / "run")
    assert newest.name == "step_000000015"
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    train(tmp_path / "run")
    output = " ".join(capsys.readouterr().err.split())
    assert "WARNING: step_000000015 is corrupt (model.safetensors differs from its digest)" in output
    assert "resumes from step_000000010" in output
    assert result_bytes(tmp_path / "run") == result_bytes(whole)


def test_a_resume_draws_no_weights(whole, tmp_path, monkeypatch):
    train_until(7, tmp_path / "run", broken={4})
    monkeypatch.setattr(clip, "_initialise", None)
    train(tmp_path / "run")
    assert result_bytes(tmp_path / "run") == result_bytes(whole)


def test_an_empty_model_holds_all_that_a_checkpoint_does_not():
    tokenizer = trainings.tokenizer()
    config = clip.model_config(ModelConfig(preset="tiny", image_size=16, context_length=40), tokenizer)
    drawn, empty = clip.create_model(config, 0), clip.create_empty_model(config)
    empty.load_state_dict(drawn.state_dict())
    pixels, ids = torch.rand(2, 3, 16, 16), torch.tensor([[5, 6, tokenizer.eos_id], [7, tokenizer.eos_id, 1]])
    outputs = [model.eval()(pixel_values=pixels, input_ids=ids).logits_per_image for model in (drawn, empty)]
    assert torch.equal(*outputs)


def test_only_corrupt_checkpoints_are_an_error(tmp_path):
    train(tmp_path / "run", samples_seen=64)
    for folder in checkpoints(tmp_path / "run" / "train"):
        (folder / "config.json").unlink()
    with pytest.raises(UserError, match="all checkpoints are corrupt"):
        train(tmp_path / "run", samples_seen=64)


def test_a_finished_run_takes_no_further_step(whole, monkeypatch):
    before = result_bytes(whole)
    monkeypatch.setattr(loop, "launch_step", None)
    train(whole)
    assert result_bytes(whole) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"lr": 1e-4}, "train.lr was 0.002, is 0.0001"), ({"model": TRAIN["model"] | {"embed_dim": 8}}, "embed_dim")],
)
def test_a_changed_config_is_an_error_that_names_the_key(whole, changes, message):
    before = result_bytes(whole)
    with pytest.raises(UserError) as caught:
        train(whole, **changes)
    assert message in str(caught.value)
    assert "--from train" in str(caught.value)
    assert result_bytes(whole) == before


def test_changed_pairs_are_an_error(tmp_path):
    train(tmp_path / "run", samples_seen=64)
    artifacts.write_manifest(tmp_path / "run" / "curate", config={"curate": {"seed": 1}}, inputs={}, counts={})
    with pytest.raises(UserError, match=r"input\.curate"):
        train(tmp_path / "run", samples_seen=64)


def test_keys_that_do_not_affect_weights_may_change(whole):
    free = {"checkpoint_every_samples": 1_000, "checkpoint_every_minutes": 1.0, "hardware": {"devices": 9}}
    train(whole, keep_last=5, **free)


def test_only_the_newest_checkpoints_are_kept(whole):
    assert [path.name for path in checkpoints(whole / "train")] == ["step_000000020", "step_000000024"]


def test_checkpoints_are_also_written_by_time(tmp_path):
    rare = {"checkpoint_every_samples": 10**9, "checkpoint_every_minutes": 1e-9, "keep_last": 99}
    train(tmp_path / "run", samples_seen=64, **rare)
    assert len(checkpoints(tmp_path / "run" / "train")) == 4


def test_the_first_step_is_saved_where_the_first_checkpoint_is_far(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SOON_STEPS", 4)
    train(tmp_path / "run", samples_seen=6 * 16, keep_last=99)
    assert [path.name for path in checkpoints(tmp_path / "run" / "train")] == [f"step_{step:09}" for step in (1, 5, 6)]


@pytest.mark.parametrize("key", ["checkpoint_every_samples", "evaluate_every_samples"])
def test_the_first_step_is_not_saved_where_a_checkpoint_comes_soon(tmp_path, key, monkeypatch):
    monkeypatch.setattr(loop.Trainer, "_evaluate", lambda trainer: None)
    rare = {"checkpoint_every_samples": 10**9, "samples_seen": 200 * 16}
    train_until(3, tmp_path / "run", **rare | {key: 2 * 16})
    assert [path.name for path in checkpoints(tmp_path / "run" / "train")] == ["step_000000002"]


def test_a_disk_that_takes_no_checkpoint_ends_training_after_the_first_step(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(loop, "SOON_STEPS", 4)
    monkeypatch.setattr("safetensors.torch.save_file", fail)
    launch_step, launched = loop.launch_step, []
    monkeypatch.setattr(loop, "launch_step", lambda *args, **keys: launched.append(1) or launch_step(*args, **keys))
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "run")
    assert len(launched) == 1


def test_a_checkpoint_contains_no_pickle(whole):
    suffixes = {path.suffix for path in latest_checkpoint(whole).rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


@pytest.mark.parametrize("num_ahead", [0, 1])
def test_steps_with_a_non_finite_loss_change_no_weight_and_are_counted(tmp_path, monkeypatch, num_ahead):
    original_loss, original_step = step.contrastive_loss, loop.launch_step
    calls, is_unchanged = [], []

    def sometimes_nan(*args, **keys):
        calls.append(1)
        return original_loss(*args, **keys) * (float("nan") if len(calls) in (1, 3, 4) else 1)

    def launch_step(state, *args, **kwargs):
        before = copy_to_cpu(state)
        launched = original_step(state, *args, **kwargs)
        after = copy_to_cpu(state)
        moments = {name for name in after if name.startswith("exp_avg")}  # the first step makes them, of zeros
        equal = {name: torch.equal(before[name].tensor, after[name].tensor) for name in before}
        is_unchanged.append(all(equal.values()))
        assert is_unchanged[-1] or not any(equal[name] for name in equal if name.endswith("projection.weight"))
        if len(calls) == 1:
            assert not any(after[name].tensor.any() for name in moments)
        updates.add(max(int(values["step"]) for values in state.optimizer.state.values()))
        return launched

    updates: set[int] = set()
    monkeypatch.setattr(step, "contrastive_loss", sometimes_nan)
    monkeypatch.setattr(loop, "launch_step", launch_step)
    monkeypatch.setattr(loop, "steps_ahead", lambda device: num_ahead)
    report = train(tmp_path / "run", samples_seen=6 * 16, ema_decay=0.5, max_grad_norm=0.1)
    assert report["skipped_steps"] == 3
    assert is_unchanged == [True, False, True, True, False, False]
    assert updates == {0, 1, 2, 3}


def test_numbers_read_a_step_late_change_nothing(whole, tmp_path, monkeypatch):
    events, launch = [], loop.launch_step
    read = LaunchedStep.read
    monkeypatch.setattr(loop, "launch_step", lambda *args, **keys: events.append("launch") or launch(*args, **keys))
    monkeypatch.setattr(LaunchedStep, "read", lambda self: events.append("read") or read(self))
    monkeypatch.setattr(loop, "steps_ahead", lambda device: 1)
    train(tmp_path / "run", broken={4})
    assert events[:5] == ["launch", "launch", "read", "launch", "read"]
    assert events[-2:] == ["read", "read"]
    assert result_bytes(tmp_path / "run") == result_bytes(whole)
    numbers = ("step", "epoch", "loss", "lr", "logit_scale", "grad_norm")
    late, expected = (
        [[record[name] for name in numbers] for record in read_log(folder / "train" / "log.jsonl")]
        for folder in (tmp_path / "run", whole)
    )
    assert late == expected


@pytest.mark.parametrize("num_ahead", [0, 1])
def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, num_ahead):
    monkeypatch.setattr(loop, "steps_ahead", lambda device: num_ahead)
    original_loss, calls = step.contrastive_loss, []

    def nan_from_the_sixth(*args, **keys):
        calls.append(1)
        return original_loss(*args, **keys) * (float("nan") if len(calls) > 6 else 1)

    monkeypatch.setattr(step, "contrastive_loss", nan_from_the_sixth)
    with pytest.raises(UserError, match=r"train\.lr = 0\.002: .* not finite for 10 steps in a row, up to step 16"):
        train(tmp_path / "run", checkpoint_every_samples=5 * 16)
    assert not (tmp_path / "run" / "train" / "manifest.json").exists()
    assert read_state(checkpoints(tmp_path / "run" / "train")[0])["step"] <= 10


def test_an_incomplete_last_line_of_a_log_is_ignored(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st', encoding="utf-8")
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 2}]
