"""Distillation: students that are interrupted resume to the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import worldclip
from small_world import TRAIN
from trainings import train, train_until
from worldclip.contracts.layout import checkpoints
from worldclip.train import loop
from worldclip.train.distill import resize

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
    folder = checkpoints(run_dir / "train" / "students" / "small")[-1]
    return (folder / "model.safetensors").read_bytes(), (folder / "trainer" / "optimizer.safetensors").read_bytes()


def test_students_of_other_sizes_resume_to_the_same_bytes(teacher, tmp_path, monkeypatch):
    seen, original_step = [], loop.launch_step

    def launch_step(state, batch, lr, teacher_features, *args):
        seen.append((tuple(batch.images.shape[2:]), tuple(teacher_features[0].shape)))
        return original_step(state, batch, lr, teacher_features, *args)

    monkeypatch.setattr(loop, "launch_step", launch_step)
    whole, interrupted = tmp_path / "whole" / "run", tmp_path / "interrupted" / "run"
    train(whole, **settings(teacher))
    assert set(seen) == {((32, 32), (16, 16))}
    train_until(5, interrupted, **settings(teacher))
    train(interrupted, **settings(teacher))
    assert student_bytes(interrupted) == student_bytes(whole)
    folders = [checkpoints(run_dir / "train")[-1] for run_dir in (interrupted, whole)]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1
    student = worldclip.load(checkpoints(interrupted / "train" / "students" / "small")[-1])
    assert student.encode_text(["a red square"]).shape == (1, 8)
    assert student.encode_image([np.zeros((20, 20, 3), np.uint8)]).shape == (1, 8)
    config = json.loads((folders[0] / "config.json").read_text())
    assert config["vision_config"]["image_size"] == 32


def test_resize_is_bicubic_and_keeps_uint8():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert resize(images, 32) is images
    smaller = resize(images, 16)
    assert smaller.dtype == torch.uint8
    expected = torch.nn.functional.interpolate(images.float(), (16, 16), mode="bicubic", antialias=True).clamp(0, 255)
    assert (smaller.float() - expected).abs().mean() < 1  # torch's uint8 path rounds the weights of its filter
