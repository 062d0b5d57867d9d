"""However often training is interrupted, it ends with the bytes of an uninterrupted run."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

import trainings
from calls import before, calls_of, fail_at
from on_ranks import Rank, run_on_ranks, start_ranks
from small_world import TRAIN, write_world
from trainings import losses, result_bytes, steps_of, train, train_until
from worldclip.contracts.layout import checkpoints, latest_checkpoint, step_of
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.model import clip
from worldclip.model.config import ModelConfig
from worldclip.train import loop, stage
from worldclip.train.checkpoint import read_state
from worldclip.train.log import read_log
from worldclip.train.loss import LOSSES
from worldclip.train.signals import TERMINATED
from worldclip.train.step import LaunchedStep
from worldclip.train.train_state import copy_to_cpu


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
    whole, moved, plain = (tmp_path / name / "run" for name in ("whole", "moved", "plain"))
    monkeypatch.setattr(stage, "bf16_hardware", lambda device: "amx_bf16")
    train(whole, precision="auto")
    train_until(7, moved, precision="auto")
    monkeypatch.setattr(stage, "bf16_hardware", lambda device: "")
    train(moved, precision="auto")
    train(plain, precision="auto")
    schedules = [artifacts.read_json(run_dir / "train/report.json")["schedule"] for run_dir in (moved, plain)]
    assert [schedule["precision"] for schedule in schedules] == ["bf16", "fp32"]
    assert [schedule["precision_by"] for schedule in schedules] == ["amx_bf16", ""]
    assert result_bytes(moved) == result_bytes(whole) != result_bytes(plain)


def test_killed_and_terminated_processes_resume_to_the_same_bytes(tmp_path):
    places = tmp_path / "interrupted", tmp_path / "whole"
    run_dir, whole = (place / "run" for place in places)
    for place in places:
        recipe = {"pool": {"path": str(write_world(place / "run"))}, "balance": {"tail_fraction": 0.1}}
        (place / "recipe.json").write_text(json.dumps({**recipe, "train": TRAIN | {"samples_seen": 60 * 16}}))
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
        assert process.returncode is None, process.communicate()[1]
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


def test_a_changed_config_is_an_error_that_names_the_key(whole):
    before = result_bytes(whole)
    with pytest.raises(UserError, match=r"(?s)train\.model\.embed_dim was 16, is 8.*--from train"):
        train(whole, model=TRAIN["model"] | {"embed_dim": 8})
    assert result_bytes(whole) == before


def remove_after(run_dir: Path, step: int) -> None:
    for checkpoint in checkpoints(run_dir / "train"):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)


def test_after_checkpoints_are_removed_training_goes_on_at_another_rate_without_a_stretch(tmp_path, capfd):
    """The change is recorded once, and interruptions after it end with the same bytes."""
    changed = {"keep_last": 99, "lr": 1e-3, "skip_samples": [[10 * 16, 11 * 16]]}
    run_dirs = [tmp_path / name / "run" for name in ("whole", "changed", "interrupted")]
    for run_dir in run_dirs:
        train(run_dir, keep_last=99)
    for run_dir in run_dirs[1:]:
        remove_after(run_dir, 10)
    train(run_dirs[1], **changed)
    said = capfd.readouterr().err
    assert "from step 10 on train.lr was 0.002, is 0.001" in said
    assert re.search(r"learning rate 0\.000708, was 0\.00142", said)
    train_until(7, run_dirs[2], **changed)
    train(run_dirs[2], **changed)
    assert result_bytes(run_dirs[2]) == result_bytes(run_dirs[1]) != result_bytes(run_dirs[0])
    record = artifacts.read_json(run_dirs[2] / "train/config.json")
    assert record["config"]["train"]["lr"] == 1e-3
    keys = {"train.lr": [2e-3, 1e-3], "train.skip_samples": [None, [[160, 176]]]}
    assert record["changes"] == [{"from_step": 10, "keys": keys}]
    assert losses(run_dirs[1])[10] == losses(run_dirs[0])[10]
    assert losses(run_dirs[1])[20] != losses(run_dirs[0])[20]


def test_a_finished_run_trains_longer_as_if_stopped_before(whole, tmp_path):
    longer = tmp_path / "run"
    train(longer, broken={4})
    report = train(longer, samples_seen=30 * 16)
    assert (report["steps"], report["samples_seen"]) == (30, 480)
    assert losses(longer)[20] == losses(whole)[20]
    assert artifacts.read_json(longer / "train/config.json")["schedule"]["num_steps"] == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lr": 1e-3},
            "train.lr was 0.002, is 0.001: 384 samples are seen already; raise train.samples_seen",
        ),
        ({"samples_seen": 20 * 16}, "384 samples are seen already"),
        ({"samples_seen": 480, "skip_samples": [[8, 16]]}, "samples before 384 are seen already; change only later"),
        ({"samples_seen": 480, "beta2": 0.98}, "train.beta2 was 0.95, is 0.98"),
    ],
)
def test_a_change_without_a_step_to_come_is_refused_and_changes_nothing(whole, changes, message):
    before = artifacts.read_json(whole / "train/config.json")
    with pytest.raises(UserError, match=re.escape(message)):
        train(whole, **changes)
    assert artifacts.read_json(whole / "train/config.json") == before


def test_keys_that_do_not_affect_weights_may_change(whole):
    free = {"checkpoint_every_samples": 1_000, "checkpoint_every_minutes": 1.0, "hardware": {"devices": 9}}
    train(whole, keep_last=5, **free)


def test_only_the_newest_checkpoints_are_kept(whole):
    assert steps_of(whole / "train") == [20, 24]


def test_checkpoints_are_also_written_by_time(tmp_path):
    rare = {"checkpoint_every_samples": 10**9, "checkpoint_every_minutes": 1e-9, "keep_last": 99}
    train(tmp_path / "run", samples_seen=64, **rare)
    assert steps_of(tmp_path / "run/train") == [1, 2, 3, 4]


def test_a_disk_that_does_not_take_the_last_checkpoint_ends_training(tmp_path, monkeypatch):
    full = OSError(28, "No space left on device")
    fail_at(monkeypatch.setattr, safetensors.torch, "save_file", 9, full)  # two files each
    launched = calls_of(monkeypatch.setattr, loop, "launch_step")
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "run")
    assert len(launched) == 24
    assert not (tmp_path / "run/train/manifest.json").exists()


def test_a_checkpoint_contains_no_pickle(whole):
    suffixes = {path.suffix for path in latest_checkpoint(whole).rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


@pytest.fixture(params=[0, 1], ids=["read at once", "read a step late"])
def spoil_losses(request, monkeypatch):
    """A function that makes the losses of some steps, counted from 1, NaN."""
    monkeypatch.setattr(loop, "steps_ahead", lambda device: request.param)
    compute, numbers = LOSSES["contrastive"], itertools.count(1)

    def spoil(steps):
        def contrastive_loss(*args, **keys):
            return compute(*args, **keys) * (math.nan if next(numbers) in steps else 1)

        monkeypatch.setitem(LOSSES, "contrastive", contrastive_loss)

    return spoil


def test_steps_with_a_non_finite_loss_change_no_weight_and_are_counted(tmp_path, monkeypatch, spoil_losses):
    original_step, is_unchanged = loop.launch_step, []

    def launch_step(state, *args, **kwargs):
        before = copy_to_cpu(state)
        launched = original_step(state, *args, **kwargs)
        after = copy_to_cpu(state)
        moments = {name for name in after if name.startswith("exp_avg")}  # the first step makes them, of zeros
        equal = {name: torch.equal(before[name].tensor, after[name].tensor) for name in before}
        is_unchanged.append(all(equal.values()))
        assert is_unchanged[-1] or not any(equal[name] for name in equal if name.endswith("projection.weight"))
        if len(is_unchanged) == 1:
            assert not any(after[name].tensor.any() for name in moments)
        updates.add(max(int(values["step"]) for values in state.optimizer.state.values()))
        return launched

    updates: set[int] = set()
    spoil_losses({1, 3, 4})
    monkeypatch.setattr(loop, "launch_step", launch_step)
    report = train(tmp_path / "run", samples_seen=6 * 16, max_grad_norm=0.1)
    assert report["skipped_steps"] == 3
    assert is_unchanged == [True, False, True, True, False, False]
    assert updates == {0, 1, 2, 3}


def test_numbers_read_a_step_late_change_nothing(whole, tmp_path, monkeypatch):
    events = []
    before(monkeypatch.setattr, loop, "launch_step", lambda *_, **__: events.append("launch"))
    before(monkeypatch.setattr, LaunchedStep, "read", lambda self: events.append("read"))
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


def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(tmp_path, spoil_losses):
    spoil_losses(range(7, 99))
    with pytest.raises(UserError, match=r"train\.lr = 0\.002: .* not finite for 10 steps in a row, up to step 16"):
        train(tmp_path / "run", checkpoint_every_samples=5 * 16)
    assert not (tmp_path / "run" / "train" / "manifest.json").exists()
    assert read_state(checkpoints(tmp_path / "run" / "train")[0])["step"] <= 10


def test_an_incomplete_last_line_of_a_log_is_ignored(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st', encoding="utf-8")
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 2}]
