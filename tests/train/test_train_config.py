"""Before a training: problems of [train] all at once, the schedule by hand, the lines of a plan."""

import dataclasses
import itertools
import json
import re
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MetaClip2Model

from stages import context, job_of
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.settings import load_config
from worldclip.model.clip import build_config, create_model, model_config
from worldclip.model.config import PRESETS, ModelConfig
from worldclip.model.published import PublishedTokenizer
from worldclip.train.budget import count_parameters, flops_per_pair, memory_bytes
from worldclip.train.config import ScaleConfig, TrainConfig
from worldclip.train.dual_encoder import DualEncoder
from worldclip.train.made_of import streams_of
from worldclip.train.schedule import Schedule, check_batch, learning_rate, plan_schedule, scale

LORA = {"lora_rank": 4, "initial_weights": "owner/name"}
PROBLEMS = (
    ({"warmup_samples": 170_000}, "warmup_samples = 170000: must be less than train.samples_seen"),
    ({"model": {"text_layers": 0}}, "model.text_layers = 0"),
    ({"model": {"patch_size": 48}}, "model.image_size: 224 is not a multiple of the patch size 48; set 192"),
    ({"model": {"image_size": 230}}, "model.image_size = 230: 230 is not a multiple of the patch size"),
    (
        {"model": {"preset": "vit_h14", "vision_width": 1208}},
        "model.vision_width = 1208: must be a multiple of 80, the width of the heads of vit_h14",
    ),
    ({"model": {"preset": "tiny", "text_width": 100}}, "model.text_width = 100: must be a multiple of 32"),
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


@pytest.mark.parametrize(("fraction", "factor"), [(0.44, "2.3"), (0.9, "1.1"), (0.24, "4.2"), (0.3, "3.3")])
def test_a_scaled_batch_is_the_factor_as_written_times_the_english_one(fraction, factor):
    """In floating point 2.3 x 100 is below 230."""
    for english_batch in range(10, 1_000, 10):
        assert scale(fraction, 1_000_000, english_batch)[2] == int(Decimal(factor) * english_batch)


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


# exact parameters, rough memory


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


@pytest.mark.parametrize("preset", ["tiny", "vit_s16"])
def test_flops_equal_those_that_torch_counts(preset):
    sizes = ModelConfig(preset=preset).architecture()
    clip = create_model(build_config(sizes, "gelu", PublishedTokenizer("", 300, bos_id=0, pad_id=1, eos_id=2)), seed=0)
    clip.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        clip.get_image_features(torch.zeros(1, 3, sizes.image_size, sizes.image_size))
        clip.get_text_features(torch.tensor([[0] * 9 + [2]]))
    patches = (sizes.image_size // sizes.patch_size) ** 2
    assert flops_per_pair(sizes, 10, patches) == 3 * counter.get_total_flops()


def test_patch_dropout_saves_what_its_patches_cost():
    keys = {"model": {"preset": "tiny"}, "patch_dropout": 0.25}
    config = load_config(TrainConfig, keys)
    sizes = config.model.architecture()
    assert config.patches_seen == 19  # of 25
    saved = flops_per_pair(sizes, 10, 25) - flops_per_pair(sizes, 10, config.patches_seen)
    # 6 tokens through 4 blocks of 12 * 128^2, and attention of 26^2 in place of 20^2; three passes, two per product
    assert saved == 3 * 2 * 4 * (6 * 12 * 128**2 + 2 * 128 * (26**2 - 20**2))
    assert load_config(TrainConfig, keys | {"patch_dropout": 0.999}).patches_seen == 1
    whole = dataclasses.replace(config, patch_dropout=0.0)
    assert memory_bytes(config, 300, 64, 1)[1] < memory_bytes(whole, 300, 64, 1)[1]


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


def test_what_does_not_learn_has_no_gradient_and_no_moments():
    sizes = ModelConfig(preset="vit_h14").architecture()
    counts = count_parameters(sizes, 901_629)
    whole, _ = memory_h14()
    assert whole - memory_h14(freeze=["vision"])[0] == 12 * counts["image encoder"]
    assert whole - memory_h14(freeze=["text"])[0] == 12 * (counts["text encoder"] + counts["token table"])
    adapters = sum(layers * 16 * (8 * width + 2 * 5 * width) for layers, width in ((32, 1280), (24, 1024)))
    lora, _ = memory_h14(**LORA | {"lora_rank": 16})
    projections = counts["heads"] - 1  # the logit scale does not learn
    assert lora == 4 * sum(counts.values()) + 16 * adapters + 12 * projections


def test_a_dry_run_prints_the_lines_and_writes_nothing(tmp_path, capsys, monkeypatch):
    recipe = tmp_path / "r.toml"
    sections = ["[pool]", 'path = "pool"', "[balance]", "tail_fraction = 0.1", "[train.model]", 'preset = "vit_b32"']
    recipe.write_text("\n".join(sections))
    flags = ["--out", str(tmp_path / "run"), "--dry-run"]
    assert main(["train", str(recipe), *flags]) == 0
    output = capsys.readouterr().err
    assert "GiB per process (1 in all), 256 pairs each" in output
    assert "GFLOP per pair" in output
    assert re.search(r"time        about \d+ (days|hours), at [\d.]+ pairs/s: blocks of the towers", output)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["train", str(recipe), *flags]) == 2
    assert "must be a multiple of 3 (3 processes times 1 accumulation steps)" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["train", str(recipe), *flags]) == 0
    assert "GiB per process (4 in all), 64 pairs each" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
