"""Distillation: the loss against its formula, and students that are interrupted and resume to the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import worldclip
from small_world import TRAIN, write_world
from trainings import train, train_until
from worldclip.config import load_recipe
from worldclip.contracts.layout import checkpoints
from worldclip.core.errors import UserError
from worldclip.train import loop
from worldclip.train.distill import resize
from worldclip.train.loss import distillation_loss


@pytest.mark.parametrize("chunk_rows", [1, 3, 10**6])
def test_loss_is_cross_entropy_against_the_teachers_softmax_in_both_directions(chunk_rows):
    rows = [torch.nn.functional.normalize(torch.randn(11, dim, dtype=torch.float64), dim=-1) for dim in (5, 5, 7, 7)]
    teacher_image, teacher_text = rows[2:]

    def chunked(image, text, scale):
        return distillation_loss(image, text, scale, (teacher_image, teacher_text), 20.0, chunk_rows=chunk_rows)

    def formula(image, text, scale):
        logits, target = scale * image @ text.T, 20.0 * teacher_image @ teacher_text.T
        images = torch.nn.functional.cross_entropy(logits, target.softmax(1))
        texts = torch.nn.functional.cross_entropy(logits.T, target.T.softmax(1))
        return (images + texts) / 2

    results = []
    for compute_loss in (chunked, formula):
        image, text = (features.clone().requires_grad_() for features in rows[:2])
        scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
        loss = compute_loss(image, text, scale)
        loss.backward()
        results.append([loss.detach(), image.grad, text.grad, scale.grad])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


STEPS = {"samples_seen": 8 * 16, "checkpoint_every_samples": 2 * 16, "warmup_samples": 16}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Return the folder of a trained model with 48 px and another width than its students."""
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    model = TRAIN["model"] | {"image_size": 48, "text_width": 128}
    train(run_dir, write_world(run_dir), **STEPS, model=model)
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
    train(whole, write_world(whole), **settings(teacher))
    assert set(seen) == {((32, 32), (16, 16))}
    tars = write_world(interrupted)
    train_until(5, interrupted, tars, **settings(teacher))
    train(interrupted, tars, **settings(teacher))
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


def test_students_without_a_teacher_are_an_error():
    with pytest.raises(UserError, match=r"train\.distill\.teacher: not set, but train\.distill\.students are"):
        load_recipe({"pool": {"path": "x"}, "train": {"distill": {"students": {"a": {}}}}})
