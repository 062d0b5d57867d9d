"""Before a training: problems of [train] all at once, the schedule by hand, the lines of a plan."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import MetaClip2Model

from stages import context, job_of
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.settings import load_config
from worldclip.model.clip import model_config
from worldclip.model.config import PRESETS, ModelConfig
from worldclip.train.budget import count_parameters, memory_bytes, smallest_change, to_lines
from worldclip.train.config import ScaleConfig, TrainConfig
from worldclip.train.dual_encoder import DualEncoder
from worldclip.train.schedule import Schedule, check_batch, learning_rate, plan_schedule, scale
from worldclip.train.stage import streams_of

LORA = {"lora_rank": 4, "initial_weights": "owner/name"}
PROBLEMS = (
    ({"warmup_samples": 170_000}, "warmup_samples = 170000: must be less than train.samples_seen"),
    ({"distill": {"students": {"a": {}}}}, "distill.teacher: not set"),
    (
        {"distill": {"teacher": "t", "students": {"a": {"model": {"text_layers": 0}}}}},
        "distill.students.a.model.text_layers = 0",
    ),
    ({"distill": {"teacher": "t"}, "patch_dropout": 0.5}, "patch_dropout = 0.5: cannot be used with train.distill"),
    (
        {"scale": {"english_samples_seen": 10}, "warmup_samples": 0},
        "scale: english_samples_seen and",
    ),
    ({"scale": {"english_fraction": 0.5}}, "scale.english_fraction = 0.5: needs english_samples_seen"),
    ({"skip_samples": [[20, 10]]}, "skip_samples"),
    ({"lora_rank": 4}, "lora_rank = 4: adapters need a trained model"),
    (LORA | {"freeze": ["vision", "text"]}, "freeze: leaves no tower"),
    (LORA | {"parallel": "fsdp"}, 'parallel = "fsdp": cannot be used with train.lora_rank'),
)


@pytest.mark.parametrize(("keys", "problem"), PROBLEMS)
def test_keys_that_exclude_each_other_are_a_problem_with_its_remedy(keys, problem):
    with pytest.raises(UserError) as caught:
        load_config(TrainConfig, keys)
    (reported,) = caught.value.problems
    assert reported.startswith(f"train.{problem}")


def test_all_problems_are_reported_at_once_and_defaults_have_none():
    model = ModelConfig(preset="tiny", image_size=50, context_length=1)
    assert len(TrainConfig(lr=-1.0, beta2=1.0, model=model).problems()) == 4
    assert TrainConfig().problems() == []


def test_images_in_an_object_store_are_read_in_streams_whose_number_the_first_start_decides(tmp_path, monkeypatch):
    def recipe(path, **train):
        return load_recipe({"pool": {"path": path}, "balance": {"tail_fraction": 0.1}, "train": train})

    assert streams_of(context(recipe("pool"), Path())) == 0
    assert streams_of(context(recipe("s3://bucket/pool", num_streams=0), Path())) == 0
    assert streams_of(context(recipe("pool", pool={"path": "s3://bucket/images"}), Path())) == 64
    assert job_of("train", recipe("s3://bucket/pool"), Path()).config["train"]["num_streams"] == 64
    run = context(recipe("s3://bucket/pool"), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "384")
    assert streams_of(run) == 6 * 384
    config = {"config": {"train": {"num_streams": 6 * 384}}}
    artifacts.write_json(tmp_path / "train/config.json", {**config, "schedule": {}})
    monkeypatch.setenv("WORLD_SIZE", "96")
    assert streams_of(run) == 6 * 384


# the schedule


def test_scale_gives_the_numbers_of_the_paper():
    """arXiv:2507.22062: English is 44% of the pairs, its run 12.8B samples in batches of 32,768."""
    factor, samples, batch, steps = scale(0.44, 12_800_000_000, 32_768)
    assert (factor, samples, batch) == (2.3, 29_440_000_000, 75_366)
    assert steps == round(29_440_000_000 / 75_366) == 390_627
    assert abs(steps - 12_800_000_000 / 32_768) / steps < 1e-4  # the English run's, up to the rounding of the batch
    assert scale(0.44, 12_800_000_000, 32_768, multiple_of=48 * 8)[2] == 75_264  # 48 x 8 x 196, as in the paper's code


def test_without_a_rule_the_schedule_has_the_numbers_of_the_recipe(tmp_path):
    config = TrainConfig(samples_seen=170_000, global_batch_size=256, warmup_samples=10_000)
    expected = Schedule(samples_seen=170_000, global_batch_size=256, num_steps=664, warmup_steps=39)
    assert plan_schedule(config, tmp_path, 1) == expected
    tiny = dataclasses.replace(config, samples_seen=3, warmup_samples=0)
    assert plan_schedule(tiny, tmp_path, 1).num_steps == 1


def test_the_english_fraction_is_the_recipes_else_that_of_the_expected_curated_pairs(tmp_path):
    def write_report(**pairs):
        languages = {lang: {"expected_pairs": number} for lang, number in pairs.items()}
        (tmp_path / "curate/report.json").write_text(json.dumps({"languages": languages}))

    (tmp_path / "curate").mkdir()
    rule = ScaleConfig(english_samples_seen=1_000, english_batch_size=100)
    write_report(en=40.0, de=35.0, zh=25.0)
    planned = plan_schedule(TrainConfig(scale=rule, warmup_samples=200), tmp_path, 1)
    assert planned.english_fraction == 0.4
    assert (planned.factor, planned.samples_seen, planned.global_batch_size, planned.num_steps) == (2.5, 2_500, 250, 10)
    assert planned.warmup_steps == 2  # those of the English run
    write_report(de=35.0)
    with pytest.raises(UserError, match=r"english_fraction is unset and the curated pairs contain no English"):
        plan_schedule(TrainConfig(scale=rule), tmp_path, 1)
    config = TrainConfig(scale=dataclasses.replace(rule, english_fraction=0.3), accum_steps=4, warmup_samples=0)
    planned = plan_schedule(config, tmp_path, 2)
    assert (planned.factor, planned.samples_seen, planned.global_batch_size) == (3.3, 3_300, 328)


@pytest.mark.parametrize(
    ("batch", "ranks", "accum_steps", "message"),
    [
        (10, 4, 1, r"train\.global_batch_size = 10: must be a multiple of 4 .*, for example 8"),
        (75_264, 376, 1, r"75264: must be a multiple of 376 .* or use 336 or 384 processes"),
        (75_264, 193, 2, r"or use 192 or 196 processes"),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_an_error_with_a_remedy(batch, ranks, accum_steps, message):
    with pytest.raises(UserError, match=message):
        check_batch(batch, ranks, accum_steps)
    check_batch(12, 2, 3)


def test_learning_rate_warms_up_to_the_peak_and_decays_to_zero():
    rates = [learning_rate(step, 100, 10, 2.0) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) * 0.2)
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
    assert all(before >= after for before, after in itertools.pairwise(rates[9:]))
    assert learning_rate(0, 10, 0, 1.0) == 1.0


# exact parameters, rough memory, whether it fits, hours


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_counts_equal_those_of_the_real_model(preset):
    config, loss = ModelConfig(preset=preset), "siglip" if preset == "tiny" else "contrastive"
    tokenizer = SimpleNamespace(bos_id=0, pad_id=1, eos_id=2, vocab_size=5_003, context_length=8)
    with torch.device("meta"):
        model = DualEncoder(MetaClip2Model(model_config(config, tokenizer)), precision="fp32", loss=loss)
    counts = count_parameters(config.architecture(), 5_003, loss)
    sizes = {name: parameter.numel() for name, parameter in model.checkpoint_parameters().items()}
    table = sizes.pop("text_model.embeddings.token_embedding.weight")
    assert counts["token table"] == table
    assert counts["text encoder"] == sum(size for name, size in sizes.items() if name.startswith("text_model."))
    assert counts["image encoder"] == sum(size for name, size in sizes.items() if name.startswith("vision_model."))
    assert sum(counts.values()) == table + sum(sizes.values())


def memory_h14(**keys):
    """Return (state, activations) of ViT-H/14 with XLM-V's table on 384 GPUs."""
    keys = {"model": {"preset": "vit_h14"}, "precision": "bf16"} | keys
    return memory_bytes(load_config(TrainConfig, keys), 901_629, 75_264, 384)


def test_memory_is_that_of_weights_gradients_moments_and_stored_activations():
    state, activations = memory_h14()
    sizes = ModelConfig(preset="vit_h14").architecture()
    assert state == 16 * sum(count_parameters(sizes, 901_629).values())
    # 32 blocks of 257 tokens x 1280 channels, 24 of 77 x 1024; 196 pairs
    assert activations == 196 * 40 * (32 * 257 * 1280 + 24 * 77 * 1024)
    assert memory_h14(accum_steps=2) == (state, activations / 2)
    assert memory_h14(activation_checkpointing=True)[1] < activations / 5
    table = 8 * 901_629 * 1024  # whole on each rank
    assert memory_h14(parallel="fsdp")[0] == pytest.approx(state / 384 + table)
    assert memory_h14(parallel="hsdp")[0] == pytest.approx(state / 8 + table)
    student = {"model": {"preset": "vit_h14"}}
    assert memory_h14(distill={"teacher": "t", "students": {"a": student}}) == (2 * state, activations)


@pytest.mark.parametrize(
    ("preset", "batch", "world_size", "keys", "advice"),
    [
        ("vit_b32", 32_768, 1, {}, "set train.accum_steps = 128: about 17.7 GiB, 1.33 times"),
        ("vit_b32", 4_096, 4, {}, "set train.activation_checkpointing = true: about 15.3 GiB, 1.33 times"),
        (
            "vit_b32",
            8_192,
            1,
            {"activation_checkpointing": True},
            "set train.accum_steps = 8: about 15.3 GiB, 1.25 times",
        ),
        # 16 pairs in each of 2,048 parts would fit without recomputed blocks
        ("vit_l14", 32_768, 1, {}, "set train.accum_steps = 256 and train.activation_checkpointing = true: about"),
        ("vit_h14", 32_768, 1, {}, 'use more devices with train.parallel = "fsdp"'),
        ("vit_h14", 3_072, 32, {"activation_checkpointing": True}, 'set train.parallel = "fsdp": about'),
    ],
)
def test_a_plan_that_does_not_fit_names_the_change_of_fewest_operations(preset, batch, world_size, keys, advice):
    config = load_config(TrainConfig, {"model": {"preset": preset}, "precision": "bf16"} | keys)
    assert smallest_change(config, 901_629, batch, world_size, 0.9 * 24).startswith(advice)


def test_device_hours_are_flops_over_the_stated_rate():
    hardware = {"flops_per_s": 1e15, "utilisation": 0.5}
    schedule = Schedule(samples_seen=12_800_000, global_batch_size=4_096, num_steps=3_125, warmup_steps=0)
    lines = to_lines(
        load_config(TrainConfig, {"model": {"preset": "vit_b32"}, "hardware": hardware}), 49_408, schedule, 4
    )
    flops = float(next(line for line in lines if line.startswith("compute")).split(": ")[1].split()[0])
    (hours,) = (line for line in lines if line.startswith("hours"))
    assert hours.split()[1] == f"{flops / 0.5e15 / 3600:.1f}"
    assert hours.endswith("at 50% of 1,000 TFLOP/s")


def test_a_dry_run_prints_the_lines_and_writes_nothing(tmp_path, capsys):
    recipe = tmp_path / "r.toml"
    sections = ["[pool]", 'path = "pool"', "[balance]", "tail_fraction = 0.1", "[train.model]", 'preset = "vit_b32"']
    recipe.write_text("\n".join([*sections, "[train.hardware]", "devices = 4", "memory_gib = 3"]))
    flags = ["--out", str(tmp_path / "run"), "--dry-run"]
    assert main(["run", str(recipe), *flags]) == 0
    output = capsys.readouterr().err
    assert "device      3.0 GiB: DOES NOT FIT; set train.activation_checkpointing = true: about 2.5 GiB" in output
    assert "GiB per process (4 in all), 64 pairs each" in output
    assert main(["train", str(recipe), *flags, "--set", "train.hardware.memory_gib=9"]) == 0
    output = capsys.readouterr().err
    assert "device      9.0 GiB: fits" in output
    assert "GFLOP per pair" in output
    assert main(["run", str(recipe), *flags, "--set", "train.hardware.devices=3"]) == 2
    assert "must be a multiple of 3 (3 processes times 1 accumulation steps)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
