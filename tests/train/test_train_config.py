"""Problems of a [train] section are reported all at once, with key, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import context, job_of
from worldclip.config import load_recipe
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.settings import load_config
from worldclip.model.config import ModelConfig
from worldclip.train.config import TrainConfig
from worldclip.train.stage import streams_of

LORA = {"model": {"preset": "tiny", "text_width": 160}, "lora_rank": 4, "initial_weights": "owner/name"}
RULE = {"english_samples_seen": 1_000, "english_batch_size": 100}
PROBLEMS = (
    ({"samples_seen": 0, "warmup_samples": 0}, "samples_seen = 0: must be at least 1 (image-text pairs)"),
    ({"warmup_samples": 170_000}, "warmup_samples = 170000: must be less than train.samples_seen (170000)"),
    ({"lr": float("nan")}, "lr = NaN: must be above 0"),
    ({"activation_checkpointing": -1}, "activation_checkpointing = -1: must be at least 0 (blocks)"),
    ({"beta2": 1.0}, "beta2 = 1.0: must be at least 0 and below 1"),
    ({"augment": "warps"}, 'augment = "warps": must be one of "crop", "drawings"'),
    ({"tokenizer": {"vocab_size": 3}}, "tokenizer.vocab_size = 3: must be at least 16 (pieces)"),
    ({"model": {"image_size": 225}}, "model.image_size = 225: 225 is not a multiple of the patch size 32"),
    ({"model": {"preset": "huge"}}, 'model.preset = "huge": must be one of "tiny"'),
    ({"distill": {"students": {"a": {}}}}, "distill.teacher: not set, but train.distill.students are"),
    (
        {"distill": {"teacher": "t", "students": {"a": {"model": {"text_layers": 0}}}}},
        "distill.students.a.model.text_layers = 0: must be at least 1",
    ),
    ({"validate_every_samples": 64}, "validate_every_samples = 64: needs pairs that are held out; set train.valid"),
    ({"scale": {"english_samples_seen": 10}}, "scale: english_samples_seen and english_batch_size need each other"),
    ({"scale": {"english_fraction": 0.5}}, "scale.english_fraction = 0.5: needs english_samples_seen"),
    (LORA | {"lora_rank": 0}, "lora_rank = 0: must be at least 1 (the rank of the adapters; unset it for none)"),
    (
        {"model": LORA["model"], "lora_rank": 4},
        "lora_rank = 4: adapters need a trained model to adapt; set train.initial_weights",
    ),
    (LORA | {"freeze": ["vision", "text"]}, "freeze: leaves no tower to train.lora_rank; name one tower at most"),
    (LORA | {"parallel": "fsdp"}, 'parallel = "fsdp": cannot be used with train.lora_rank'),
)


def test_defaults_are_valid():
    assert TrainConfig().problems() == []


@pytest.mark.parametrize(("keys", "problem"), PROBLEMS)
def test_invalid_value_is_reported_with_key_value_and_remedy(keys, problem):
    if "scale" in keys:
        keys = keys | {"warmup_samples": 0}
    with pytest.raises(UserError) as caught:
        load_config(TrainConfig, keys)
    (reported,) = caught.value.problems
    assert reported.startswith(f"train.{problem}")


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


def test_the_first_start_decides_the_default_number_of_streams(tmp_path, monkeypatch):
    recipe = load_recipe({"pool": {"path": "s3://bucket/pool"}, "balance": {"tail_fraction": 0.1}})
    run = context(recipe, tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "384")
    assert streams_of(run) == 6 * 384
    config = {"config": {"train": {"num_streams": 6 * 384}}}
    artifacts.write_json(tmp_path / "train/config.json", {**config, "schedule": {}})
    monkeypatch.setenv("WORLD_SIZE", "96")
    assert streams_of(run) == 6 * 384
