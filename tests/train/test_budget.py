"""The table before training: exact parameters, memory as measured, what will not fit and what would."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.core.settings import load_config
from worldclip.model.config import PRESETS, ModelConfig
from worldclip.train.budget import GIB, changes_that_fit, count_parameters, estimate, to_lines
from worldclip.train.config import TrainConfig
from worldclip.train.scale import Schedule


def make_config(**keys) -> TrainConfig:
    return load_config(TrainConfig, keys)


def schedule_of(batch: int, steps: int = 1_000) -> Schedule:
    return Schedule(samples_seen=steps * batch, global_batch_size=batch, num_steps=steps, warmup_steps=0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("loss", ["contrastive", "siglip"])
def test_every_parameter_of_the_real_model_is_counted(preset, loss):
    import torch
    from transformers import MetaClip2Model

    from worldclip.model.clip import model_config
    from worldclip.train.dual_encoder import TwoTowers

    config = ModelConfig(preset=preset)
    tokenizer = SimpleNamespace(bos_id=0, pad_id=1, eos_id=2, vocab_size=5_003, context_length=8)
    with torch.device("meta"):
        towers = TwoTowers(MetaClip2Model(model_config(config, tokenizer)), precision="fp32", loss=loss)
    counts = count_parameters(config.architecture(), 5_003, loss)
    sizes = {name: parameter.numel() for name, parameter in towers.trained().items()}
    table = sizes.pop("text_model.embeddings.token_embedding.weight")
    assert counts.token_table == table
    assert counts.text_tower == sum(size for name, size in sizes.items() if name.startswith("text_model."))
    assert counts.image_tower == sum(size for name, size in sizes.items() if name.startswith("vision_model."))
    assert counts.total == table + sum(sizes.values())


SMALL = {
    "model": {"preset": "vit_b32", "vision_layers": 3, "vision_width": 384, "text_layers": 3, "text_width": 256},
    "global_batch_size": 32,
    "device": "cpu",
}
MEASURE = """
import gc, json, sys
from pathlib import Path
import numpy as np
import torch
from worldclip.core.settings import load_config
from worldclip.model.tokenizer import Tokens
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.train_state import create_learner
from worldclip.train.loader import Batch
from worldclip.train.step import take_step

class Ids:
    bos_id, pad_id, eos_id, vocab_size, context_length = 0, 1, 2, 20_000, 77

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

def take_steps(config, batch, length, steps):
    ids = np.random.default_rng(0).integers(3, Ids.vocab_size, batch * length)
    ids[length - 1 :: length] = Ids.eos_id
    tokens = Tokens(ids, np.arange(batch + 1) * length, Ids.pad_id)
    images = torch.zeros((batch, 3, 224, 224), dtype=torch.uint8)
    learner = create_learner(config, Ids, World(), torch.device("cpu"), None)
    for _ in range(steps):
        take_step(learner, Batch(images, tokens, [], np.zeros(0), {}), 1e-4)
tiny = {"model": {"preset": "tiny", "image_size": 224, "patch_size": 112, "context_length": 77}, "device": "cpu"}
take_steps(load_config(TrainConfig, tiny), 2, 4, 1)  # the libraries' own buffers
for settings in json.loads(sys.argv[1]):
    config = load_config(TrainConfig, settings)
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
    take_steps(config, config.global_batch_size, 77, 2)
    print(status("VmHWM") - before)
"""
VARIANTS = ({}, {"activation_checkpointing": True}, {"accum_steps": 4}, {"token_table": "rows"})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_memory_of_two_steps_is_as_estimated():
    """In a process of its own, whose allocator gives freed tensors back at once."""
    settings = [SMALL | changes for changes in VARIANTS]
    answer = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(settings)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    measured = [int(line) for line in answer.stdout.split()]
    estimated = [estimate(make_config(**each), 20_000, schedule_of(32), 1).memory_bytes for each in settings]
    assert estimated == pytest.approx(measured, rel=0.2)


def test_several_processes_share_what_their_way_of_running_shares():
    h14 = {"model": {"preset": "vit_h14"}, "precision": "bf16", "activation_checkpointing": True}
    ddp, fsdp, rows = (
        estimate(make_config(**h14, **keys), 901_629, schedule_of(75_264), 384)
        for keys in ({}, {"parallel": "fsdp"}, {"parallel": "fsdp", "token_table": "rows"})
    )
    assert ddp.memory["weights"] == 4 * ddp.parameters.total
    assert fsdp.memory["weights"] == 4 * (fsdp.parameters.total // 384)
    assert fsdp.memory["moments"] == pytest.approx(ddp.memory["moments"] / 384, rel=1e-3)
    assert "gathered weights" not in ddp.memory
    table = 901_629 * 1024
    assert fsdp.memory["gathered weights"] - rows.memory["gathered weights"] == 8 * table  # whole, bf16, and gradients
    assert rows.memory_bytes < fsdp.memory_bytes < ddp.memory_bytes
    for other in (fsdp, rows):
        assert other.memory["activations"] == ddp.memory["activations"]
        assert other.flops_per_pair == ddp.flops_per_pair


def test_frozen_towers_take_neither_moments_nor_kept_activations():
    free, frozen = (estimate(make_config(**SMALL, **keys), 20_000, schedule_of(32), 1) for keys in
                    ({}, {"freeze": ["vision"]}))  # fmt: skip
    counts = free.parameters
    assert free.memory["moments"] - frozen.memory["moments"] == 8 * counts.image_tower
    assert frozen.memory["activations"] < 0.75 * free.memory["activations"]
    assert frozen.memory["weights"] == free.memory["weights"]


def test_students_add_their_weights_and_share_the_room_of_a_step():
    student = {"model": {"preset": "vit_s16"}}
    config = make_config(**SMALL, distill={"teacher": "t", "students": {"small": student}})
    alone = make_config(**{**SMALL, **student}, distill={"teacher": "t"})
    found, first, second = (estimate(each, 20_000, schedule_of(32), 1) for each in
                            (config, make_config(**SMALL, distill={"teacher": "t"}), alone))  # fmt: skip
    assert found.students["small"] == second.parameters
    assert found.memory["moments"] == first.memory["moments"] + second.memory["moments"]
    assert found.memory["activations"] == max(first.memory["activations"], second.memory["activations"])


def test_what_will_not_fit_is_said_with_the_keys_that_would_help():
    config = make_config(model={"preset": "vit_l14"}, precision="bf16", global_batch_size=4_096)
    planned, world = schedule_of(4_096), 8
    whole = estimate(config, 901_629, planned, world).memory_bytes
    assert whole > 80 * GIB
    lines = to_lines(config, 901_629, planned, world, memory_bytes=80 * GIB, flops_per_s=None)
    told = next(line for line in lines if "WILL NOT FIT" in line)
    fitting = changes_that_fit(config, 901_629, planned, world, 80 * GIB)
    assert any(change.startswith("train.activation_checkpointing = true") for change in fitting)
    assert all(change in told for change in fitting)
    changed = dataclasses.replace(config, activation_checkpointing=True)
    assert estimate(changed, 901_629, planned, world).memory_bytes <= 80 * GIB
    tight = changes_that_fit(config, 901_629, planned, world, 8 * GIB)
    assert len(tight) == 1
    assert tight[0].startswith("all of train.activation_checkpointing = true")
    assert changes_that_fit(config, 901_629, planned, world, GIB // 4) == []
    assert any(
        ": fits" in line for line in to_lines(config, 901_629, planned, world, memory_bytes=whole, flops_per_s=None)
    )


def test_hours_are_operations_over_the_stated_speed():
    config = make_config(model={"preset": "vit_b32"}, hardware={"flops_per_s": 1e15, "utilisation": 0.5})
    found = estimate(config, 49_408, schedule_of(4_096, steps=3_125), 4)
    assert found.samples_seen == 12_800_000
    assert found.device_hours(1e15, 0.5) == pytest.approx(found.flops_per_pair * 12.8e6 / 0.5e15 / 3600)
    lines = to_lines(config, 49_408, schedule_of(4_096, steps=3_125), 4, memory_bytes=None, flops_per_s=1e15)
    assert any(line.startswith("hours") and "at 50% of 1,000 TFLOP/s" in line for line in lines)
    assert any("state it in train.hardware.memory_gib" in line for line in lines)


def test_a_dry_run_prints_the_table_and_makes_nothing(tmp_path, capsys):
    recipe = tmp_path / "r.toml"
    sections = ["[pool]", 'path = "pool"', "[balance]", "tail_fraction = 0.1", "[train.model]", 'preset = "vit_b32"']
    recipe.write_text("\n".join([*sections, "[train.hardware]", "devices = 4", "memory_gib = 2"]))
    flags = ["--out", str(tmp_path / "run")]
    assert main(["run", str(recipe), *flags, "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert "WILL NOT FIT" in told
    assert "64 pairs each (4 processes)" in told
    assert not (tmp_path / "run").exists()
    assert main(["train", str(recipe), *flags, "--dry-run"]) == 0
    assert "GFLOP a pair" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["run", str(recipe), *flags, "--set", "train.hardware.devices=3", "--dry-run"]) == 2
    assert "3 processes in 1 parts each need a multiple" in capsys.readouterr().err


def test_wrong_hardware_is_said():
    with pytest.raises(UserError, match=r"train\.hardware\.utilisation = 2"):
        make_config(hardware={"utilisation": 2.0})
    with pytest.raises(UserError, match=r"train\.hardware\.devices = 0"):
        make_config(hardware={"devices": 0})
