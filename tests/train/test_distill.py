"""Distillation: its loss against the formula, and students that are cut and go on to the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import worldclip
from small_world import TRAIN, make_recipe, write_world
from worldclip.config import load_recipe
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.layout import checkpoints
from worldclip.train import loop
from worldclip.train import stage as train
from worldclip.train.loss import distillation_loss


@pytest.mark.parametrize("chunk_rows", [1, 3, 10**6])
def test_the_loss_is_the_cross_entropy_against_the_teachers_softmax_both_ways(chunk_rows):
    rows = [torch.nn.functional.normalize(torch.randn(11, dim, dtype=torch.float64), dim=-1) for dim in (5, 5, 7, 7)]
    found, expected = [], []
    for results in (found, expected):
        image, text = (each.clone().requires_grad_() for each in rows[:2])
        scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
        taught = (rows[2], rows[3])
        if results is found:
            loss = distillation_loss(image, text, scale, taught, 20.0, chunk_rows=chunk_rows)
        else:
            logits, target = scale * image @ text.T, 20.0 * rows[2] @ rows[3].T
            sides = [
                torch.nn.functional.cross_entropy(each, wanted.softmax(1))
                for each, wanted in ((logits, target), (logits.T, target.T))
            ]
            loss = (sides[0] + sides[1]) / 2
        loss.backward()
        results += [loss.detach(), image.grad, text.grad, scale.grad]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


STEPS = {"samples_seen": 8 * 16, "checkpoint_every_samples": 2 * 16, "warmup_samples": 16}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Folder of a trained model, of 48 px and another width than its students."""
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    model = TRAIN["model"] | {"image_size": 48, "text_width": 128}
    train.run(make_recipe(write_world(run_dir), **STEPS, model=model), run_dir, LocalExecutor(quiet=True))
    return checkpoints(run_dir / "train")[-1]


def distill(run_dir, teacher):
    tars = write_world(run_dir)
    small = {"model": TRAIN["model"] | {"image_size": 16, "embed_dim": 8}, "tokenizer": {"path": str(teacher)}}
    settings = {"teacher": str(teacher), "teacher_scale": 30.0, "students": {"small": small}}
    return make_recipe(tars, **STEPS, distill=settings)


def student_bytes(run_dir):
    folder = checkpoints(run_dir / "train" / "students" / "small")[-1]
    return (folder / "model.safetensors").read_bytes(), (folder / "trainer" / "optimizer.safetensors").read_bytes()


def test_students_of_other_sizes_learn_beside_the_model_and_go_on_when_cut(teacher, tmp_path, monkeypatch):
    looks, plain = [], loop.take_step

    def take_step(learner, batch, lr, taught=None):
        looks.append(tuple(batch.images.shape[2:]))
        assert taught[0].shape == (16, 16)
        if len(looks) == 6:
            raise KeyboardInterrupt
        return plain(learner, batch, lr, taught)

    whole, cut = tmp_path / "whole" / "run", tmp_path / "cut" / "run"
    train.run(distill(whole, teacher), whole, LocalExecutor(quiet=True))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", take_step)
        with pytest.raises(KeyboardInterrupt):
            train.run(distill(cut, teacher), cut, LocalExecutor(quiet=True))
    assert set(looks) == {(32, 32)}
    train.run(distill(cut, teacher), cut, LocalExecutor(quiet=True))
    assert student_bytes(cut) == student_bytes(whole)
    folders = [checkpoints(each / "train")[-1] for each in (cut, whole)]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1
    student = worldclip.load(checkpoints(cut / "train" / "students" / "small")[-1])
    assert student.encode_text(["a red square"]).shape == (1, 8)
    assert student.encode_image([np.zeros((20, 20, 3), np.uint8)]).shape == (1, 8)
    config = json.loads((folders[0] / "config.json").read_text())
    assert config["vision_config"]["image_size"] == 32


def test_images_are_resized_bicubically_and_stay_bytes():
    from worldclip.train.distill import resize

    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert resize(images, 32) is images
    smaller = resize(images, 16)
    assert smaller.dtype == torch.uint8
    expected = torch.nn.functional.interpolate(images.float(), (16, 16), mode="bicubic", antialias=True).clamp(0, 255)
    assert (smaller.float() - expected).abs().mean() < 1  # the byte's own path rounds its filter's weights


def test_students_without_a_teacher_are_a_mistake():
    with pytest.raises(UserError, match=r"train\.distill\.teacher is unset beside train\.distill\.students"):
        load_recipe({"pool": {"path": "x"}, "train": {"distill": {"students": {"a": {}}}}})
