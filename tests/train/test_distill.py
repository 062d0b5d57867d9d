"""Distillation: students that are interrupted resume to the same bytes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import worldclip
from calls import before, calls_of
from small_world import TRAIN
from trainings import Interruption, bytes_of, result_bytes, steps_of, train, train_until
from worldclip.contracts.layout import checkpoints
from worldclip.core.errors import UserError
from worldclip.core.settings import load_config
from worldclip.train import distill, loop
from worldclip.train.checkpoint_writer import CheckpointWriter
from worldclip.train.config import TrainConfig
from worldclip.train.distill import resize
from worldclip.train.distributed import ALONE

STEPS = {"samples_seen": 8 * 16, "checkpoint_every_samples": 2 * 16, "warmup_samples": 16}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Return the folder of a trained model with 48 px and another width than its students."""
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    model = TRAIN["model"] | {"image_size": 48, "text_width": 128}
    train(run_dir, **STEPS, model=model)
    return checkpoints(run_dir / "train")[-1]


def settings(teacher):
    small = {"model": TRAIN["model"] | {"image_size": 16, "embed_dim": 8}, "tokenizer": {"path": str(teacher)}}
    return STEPS | {"distill": {"teacher": str(teacher), "teacher_scale": 30.0, "students": {"small": small}}}


def student_bytes(run_dir):
    return bytes_of(checkpoints(run_dir / "train/students/small")[-1])


def test_students_of_other_sizes_resume_to_the_same_bytes(teacher, tmp_path, monkeypatch):
    steps = calls_of(monkeypatch.setattr, loop, "launch_step")
    whole, interrupted = tmp_path / "whole" / "run", tmp_path / "interrupted" / "run"
    train(whole, **settings(teacher))
    shapes = {(batch.images.shape[2:], features[0].shape) for _, batch, _, features, *_ in steps}
    assert shapes == {((32, 32), (16, 16))}
    train_until(5, interrupted, **settings(teacher))
    train(interrupted, **settings(teacher))
    assert student_bytes(interrupted) == student_bytes(whole)
    assert result_bytes(interrupted) == result_bytes(whole)
    student = worldclip.load(checkpoints(interrupted / "train" / "students" / "small")[-1])
    assert student.encode_text(["a red square"]).shape == (1, 8)
    assert student.encode_image([np.zeros((20, 20, 3), np.uint8)]).shape == (1, 8)
    assert json.loads(result_bytes(whole)["config.json"])["vision_config"]["image_size"] == 32


def test_a_run_that_dies_after_its_students_were_saved_resumes_at_its_own_step(teacher, tmp_path, monkeypatch):
    def die(writer, step, *_):
        if writer.train_dir.name == "train" and step == 4:
            raise Interruption

    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    changed = settings(teacher) | {"keep_last": 1}
    train(whole, **changed)
    with monkeypatch.context() as patch:
        before(patch.setattr, CheckpointWriter, "start", die)
        with pytest.raises(Interruption):
            train(killed, **changed)
    small = killed / "train/students/small"
    assert steps_of(killed / "train") == [2]
    assert steps_of(small) == [2, 4]
    (small / ".step_000000006.tmp").mkdir()
    train(killed, **changed)
    assert student_bytes(killed) == student_bytes(whole)
    assert sorted(path.name for path in small.iterdir()) == ["step_000000008"]


def test_freeze_keeps_the_towers_of_the_run_and_not_those_of_its_students(teacher, tmp_path):
    config = load_config(TrainConfig, TRAIN | settings(teacher) | {"freeze": ["vision", "text"]})
    (student,) = distill.create_students(config, tmp_path, ALONE, torch.device("cpu"), step=0)
    assert all(weights.requires_grad for weights in student.state.model.parameters())


@pytest.mark.parametrize("num_bad", [3, 99])
def test_the_skipped_steps_of_a_student_are_counted_and_end_training(teacher, tmp_path, monkeypatch, num_bad):
    original_step, steps = distill.train_step, []

    def train_step(*args):
        steps.append(original_step(*args))
        return dataclasses.replace(steps[-1], is_applied=len(steps) > num_bad)

    monkeypatch.setattr(distill, "train_step", train_step)
    changed = settings(teacher) | {"samples_seen": 12 * 16}
    if num_bad == 3:
        assert train(tmp_path / "run", **changed)["skipped_steps_of_students"] == {"small": 3}
        return
    train_until(6, tmp_path / "run", **changed)  # the count outlives a restart, from step 6
    with pytest.raises(UserError, match=r"the loss of student small .* for 10 steps in a row, up to step 10"):
        train(tmp_path / "run", **changed)


def test_resize_is_bicubic_and_keeps_uint8():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert resize(images, 32) is images
    smaller = resize(images, 16)
    assert smaller.dtype == torch.uint8
    expected = torch.nn.functional.interpolate(images.float(), (16, 16), mode="bicubic", antialias=True).clamp(0, 255)
    assert (smaller.float() - expected).abs().mean() < 1  # torch's uint8 path rounds the weights of its filter
