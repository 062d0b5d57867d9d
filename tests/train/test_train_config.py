"""What is wrong with a [train] section is said all at once, with key, value and meaning."""

from __future__ import annotations

import pytest

from worldclip.model.config import ModelConfig, TokenizerConfig
from worldclip.train.config import TrainConfig


def test_the_defaults_can_train():
    assert TrainConfig().problems() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples_seen": 0, "warmup_samples": 0}, "train.samples_seen is 0; it counts image-text pairs"),
        ({"global_batch_size": 1}, "train.global_batch_size is 1; a contrastive batch needs at least 2 pairs"),
        ({"warmup_samples": 170_000}, "train.warmup_samples is 170000; it must be at least 0 and less than"),
        ({"lr": 0.0}, "train.lr is 0.0; a learning rate is above 0"),
        ({"beta2": 1.0}, "train.beta2 is 1.0; it is at least 0 and less than 1"),
        ({"crop_scale_min": 1.5}, "train.crop_scale_min is 1.5; it is a share of the area"),
        ({"keep_last": 0}, "train.keep_last is 0; it counts checkpoints kept"),
        ({"weight_decay": -1.0}, "train.weight_decay is -1.0"),
        ({"eps": 0.0}, "train.eps is 0.0"),
        ({"checkpoint_every_minutes": 0.0}, "train.checkpoint_every_minutes is 0.0"),
        ({"rotate_deg": 200.0}, "train.rotate_deg is 200.0; it is an angle"),
        ({"zoom_out_min": 0.0}, "train.zoom_out_min is 0.0; it is a factor above 0"),
        ({"backdrop_min": 2.0}, "train.backdrop_min is 2.0; it is a factor above 0"),
        ({"warp_share": 0.0}, "train.warp_share is 0.0; it is a share of the images"),
        ({"tokenizer": TokenizerConfig(vocab_size=3)}, "train.tokenizer.vocab_size is 3"),
        (
            {"model": ModelConfig(patch_size=9)},
            "train.model.image_size is 224; it must be a multiple of the patch size 9",
        ),
    ],
)
def test_a_value_out_of_range_is_named(changes, said):
    (problem,) = TrainConfig(**changes).problems()
    assert problem.startswith(said)


def test_all_problems_come_together():
    model = ModelConfig(preset="tiny", image_size=50, context_length=1)
    assert len(TrainConfig(lr=-1.0, eps=-1.0, model=model).problems()) == 4


def test_images_in_an_object_store_are_read_in_streams_unless_told_otherwise():
    from worldclip.config import load_recipe
    from worldclip.train.stage import relevant_config, streams_of

    def recipe(path, **train):
        return load_recipe({"pool": {"path": path}, "balance": {"tail_fraction": 0.1}, "train": train})

    assert streams_of(recipe("s3://bucket/pool")) == 64
    assert streams_of(recipe("pool")) == 0
    assert streams_of(recipe("s3://bucket/pool", num_streams=0)) == 0
    assert streams_of(recipe("pool", pool={"path": "s3://bucket/images"})) == 64
    assert relevant_config(recipe("s3://bucket/pool"))["train"]["num_streams"] == 64
