"""The lines before training: exact parameters, rough memory, whether it fits, hours."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import MetaClip2Model

from worldclip.cli import main
from worldclip.core.settings import load_config
from worldclip.model.clip import model_config
from worldclip.model.config import PRESETS, ModelConfig
from worldclip.train.budget import (
    Budget,
    count_parameters,
    estimate,
    to_lines,
)
from worldclip.train.config import TrainConfig
from worldclip.train.dual_encoder import DualEncoder
from worldclip.train.schedule import Schedule


def make_config(**keys) -> TrainConfig:
    return load_config(TrainConfig, keys)


def make_schedule(batch: int, steps: int = 1_000) -> Schedule:
    return Schedule(samples_seen=steps * batch, global_batch_size=batch, num_steps=steps, warmup_steps=0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("loss", ["contrastive", "siglip"])
def test_parameter_counts_equal_those_of_the_real_model(preset, loss):
    config = ModelConfig(preset=preset)
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


def estimate_h14(**keys) -> Budget:
    """Return the needs of ViT-H/14 with XLM-V's table on 384 GPUs."""
    config = make_config(model={"preset": "vit_h14"}, precision="bf16", **keys)
    return estimate(config, 901_629, make_schedule(75_264), 384)


def estimate_small(**keys) -> Budget:
    return estimate(make_config(model={"preset": "vit_b32"}, **keys), 20_000, make_schedule(32), 1)


def test_memory_is_that_of_weights_gradients_moments_and_stored_activations():
    whole, recomputed = estimate_h14(), estimate_h14(activation_checkpointing=True)
    assert whole.state_bytes == recomputed.state_bytes == 16 * sum(whole.parameters["model"].values())
    assert recomputed.activation_bytes < whole.activation_bytes / 5
    # 32 blocks of 257 tokens x 1280 channels, 24 of 77 x 1024; 196 pairs
    assert whole.activation_bytes == 196 * 40 * (32 * 257 * 1280 + 24 * 77 * 1024)
    assert estimate_h14(accum_steps=2).activation_bytes == whole.activation_bytes / 2


def test_sharding_leaves_the_token_table_whole():
    ddp, hsdp, fsdp = (estimate_h14(parallel=parallel).state_bytes for parallel in ("ddp", "hsdp", "fsdp"))
    table = 8 * 901_629 * 1024
    assert fsdp == pytest.approx(ddp / 384 + table)
    assert hsdp == pytest.approx(ddp / 8 + table)


def test_frozen_encoders_take_neither_moments_nor_stored_activations():
    trained, frozen = estimate_small(), estimate_small(freeze=["vision"])
    assert trained.state_bytes - frozen.state_bytes == 12 * trained.parameters["model"]["image encoder"]
    assert frozen.activation_bytes < 0.75 * trained.activation_bytes
    lora = estimate_small(lora_rank=8, initial_weights="nothing/is_read")
    assert lora.activation_bytes == trained.activation_bytes
    assert lora.state_bytes < 0.3 * trained.state_bytes


def test_students_add_weights_and_share_activation_memory():
    student = {"model": {"preset": "vit_s16"}}
    both = estimate_small(distill={"teacher": "t", "students": {"small": student}})
    first = estimate_small(distill={"teacher": "t"})
    second = estimate(make_config(**student, distill={"teacher": "t"}), 20_000, make_schedule(32), 1)
    assert both.parameters["student small"] == second.parameters["model"]
    assert both.state_bytes == first.state_bytes + second.state_bytes
    assert both.activation_bytes == max(first.activation_bytes, second.activation_bytes)


def test_device_hours_are_flops_over_the_stated_rate():
    config = make_config(model={"preset": "vit_b32"}, hardware={"flops_per_s": 1e15, "utilisation": 0.5})
    schedule = make_schedule(4_096, steps=3_125)
    budget = estimate(config, 49_408, schedule, 4)
    assert budget.samples_seen == 12_800_000
    assert budget.device_hours(1e15, 0.5) == pytest.approx(budget.flops_per_pair * 12.8e6 / 0.5e15 / 3600)
    lines = to_lines(config, 49_408, schedule, 4, memory_bytes=None, flops_per_s=1e15)
    assert any(line.startswith("hours") and "at 50% of 1,000 TFLOP/s" in line for line in lines)
    assert any("set train.hardware.memory_gib" in line for line in lines)


def test_a_dry_run_prints_the_lines_and_writes_nothing(tmp_path, capsys):
    recipe = tmp_path / "r.toml"
    sections = ["[pool]", 'path = "pool"', "[balance]", "tail_fraction = 0.1", "[train.model]", 'preset = "vit_b32"']
    recipe.write_text("\n".join([*sections, "[train.hardware]", "devices = 4", "memory_gib = 2"]))
    flags = ["--out", str(tmp_path / "run")]
    assert main(["run", str(recipe), *flags, "--dry-run"]) == 0
    output = capsys.readouterr().err
    assert "device      2.0 GiB: DOES NOT FIT; train.activation_checkpointing" in output
    assert "64 pairs each (4 processes)" in output
    assert not (tmp_path / "run").exists()
    assert main(["train", str(recipe), *flags, "--set", "train.hardware.memory_gib=9", "--dry-run"]) == 0
    output = capsys.readouterr().err
    assert "device      9.0 GiB: fits" in output
    assert "GFLOP per pair" in output
    assert not (tmp_path / "run").exists()
    assert main(["run", str(recipe), *flags, "--set", "train.hardware.devices=3", "--dry-run"]) == 2
    assert "must be a multiple of 3 (3 processes times 1 accumulation steps)" in capsys.readouterr().err
