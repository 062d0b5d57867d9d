"""Problems of a [train] section are reported all at once, with key, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import context, job_of
from worldclip.config import load_recipe
from worldclip.model.config import ModelConfig, TokenizerConfig
from worldclip.train.config import DistillConfig, HardwareConfig, StudentConfig, TrainConfig
from worldclip.train.stage import streams_of


def test_defaults_are_valid():
    assert TrainConfig().problems() == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"samples_seen": 0, "warmup_samples": 0}, "train.samples_seen = 0: must be at least 1 (image-text pairs)"),
        ({"global_batch_size": 1}, "train.global_batch_size = 1: must be at least 2"),
        ({"warmup_samples": 170_000}, "train.warmup_samples = 170000: must be less than train.samples_seen (170000)"),
        ({"warmup_samples": -1}, "train.warmup_samples = -1: must be at least 0"),
        ({"lr": 0.0}, "train.lr = 0.0: must be above 0"),
        ({"lr": float("nan")}, "train.lr = NaN: must be above 0"),
        (
            {"token_table": "rows", "beta1": 0.98},
            "train.beta1 = 0.98: must be below the square root of beta2, 0.975, with token_table",
        ),
        ({"token_table": "rows", "lr": 11.0}, "train.lr = 11.0: times weight_decay is 1.1, must be below 1"),
        ({"activation_checkpointing": -1}, "train.activation_checkpointing = -1: must be at least 0 (blocks)"),
        ({"beta2": 1.0}, "train.beta2 = 1.0: must be at least 0 and below 1"),
        ({"crop_scale_min": 1.5}, "train.crop_scale_min = 1.5: must be above 0 and at most 1"),
        ({"keep_last": 0}, "train.keep_last = 0: must be at least 1 (checkpoints)"),
        ({"weight_decay": -1.0}, "train.weight_decay = -1.0: must be at least 0"),
        ({"eps": 0.0}, "train.eps = 0.0: must be above 0"),
        ({"checkpoint_every_minutes": 0.0}, "train.checkpoint_every_minutes = 0.0: must be above 0"),
        ({"num_streams": -1}, "train.num_streams = -1: must be at least 0"),
        ({"decode_threads": 0}, "train.decode_threads = 0: must be at least 1"),
        ({"patch_dropout": 1.0}, "train.patch_dropout = 1.0: must be at least 0 and below 1"),
        ({"augment": "warps"}, 'train.augment = "warps": must be one of "crop", "drawings"'),
        (
            {"hardware": HardwareConfig(utilisation=0.0)},
            "train.hardware.utilisation = 0.0: must be above 0 and at most 1",
        ),
        ({"tokenizer": TokenizerConfig(vocab_size=3)}, "train.tokenizer.vocab_size = 3: must be at least 16 (pieces)"),
        ({"model": ModelConfig(patch_size=9)}, "train.model.image_size: 224 is not a multiple of the patch size 9"),
        ({"model": ModelConfig(preset="huge")}, 'train.model.preset = "huge": must be one of "tiny"'),
        (
            {"distill": DistillConfig(teacher="t", students={"a": StudentConfig(model=ModelConfig(text_layers=0))})},
            "train.distill.students.a.model.text_layers = 0: must be at least 1",
        ),
    ],
)
def test_invalid_value_is_reported_with_key_value_and_range(changes, problem):
    (reported,) = TrainConfig(**changes).problems()
    assert reported.startswith(problem)


def test_all_problems_are_reported_at_once():
    model = ModelConfig(preset="tiny", image_size=50, context_length=1)
    assert len(TrainConfig(lr=-1.0, eps=-1.0, model=model).problems()) == 4


def test_images_in_an_object_store_are_read_in_streams_by_default():
    def recipe(path, **train):
        return load_recipe({"pool": {"path": path}, "balance": {"tail_fraction": 0.1}, "train": train})

    assert streams_of(context(recipe("s3://bucket/pool"), Path())) == 64
    assert streams_of(context(recipe("pool"), Path())) == 0
    assert streams_of(context(recipe("s3://bucket/pool", num_streams=0), Path())) == 0
    assert streams_of(context(recipe("pool", pool={"path": "s3://bucket/images"}), Path())) == 64
    assert job_of("train", recipe("s3://bucket/pool"), Path()).config["train"]["num_streams"] == 64
