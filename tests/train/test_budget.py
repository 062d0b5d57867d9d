"""The table before training: exact parameters, measured memory, changes that make a run fit; are its cores free?"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import MetaClip2Model

from programs import python
from worldclip.cli import main
from worldclip.core.settings import load_config
from worldclip.model.clip import model_config
from worldclip.model.config import PRESETS, ModelConfig
from worldclip.train import device
from worldclip.train.budget import (
    GIB,
    KNOWN_DEVICES,
    OUTSIDE_BYTES,
    Budget,
    changes_that_fit,
    count_parameters,
    estimate,
    known_devices_line,
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
    assert counts.token_table == table
    assert counts.text_encoder == sum(size for name, size in sizes.items() if name.startswith("text_model."))
    assert counts.image_encoder == sum(size for name, size in sizes.items() if name.startswith("vision_model."))
    assert counts.total == table + sum(sizes.values())


def estimate_h14(**keys) -> Budget:
    """Return the needs of ViT-H/14 with XLM-V's table on 384 GPUs."""
    config = make_config(model={"preset": "vit_h14"}, **keys)
    return estimate(config, 901_629, make_schedule(75_264), 384)


def estimate_small(**keys) -> Budget:
    return estimate(make_config(**SMALL | keys), 20_000, make_schedule(32), 1)


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
from worldclip.train.loader import Batch
from worldclip.train.step import train_step
from worldclip.train import train_state
from worldclip.train.train_state import create_train_state

train_state.load_initial_weights = lambda *_: None

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
    state = create_train_state(config, Ids, World(), torch.device("cpu"), None)
    for _ in range(steps):
        train_step(state, Batch(images, tokens, [], np.zeros(0), {}), 1e-4)
tiny = {"model": {"preset": "tiny", "image_size": 224, "patch_size": 112, "context_length": 77}, "device": "cpu"}
take_steps(load_config(TrainConfig, tiny), 2, 4, 1)  # buffers of the libraries
for settings in json.loads(sys.argv[1]):
    config = load_config(TrainConfig, settings)
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    take_steps(config, config.global_batch_size, 77, 2)
    print(status("VmHWM") - before)
"""
VARIANTS = (
    *({}, {"activation_checkpointing": True}, {"activation_checkpointing": 2}),
    *({"accum_steps": 4}, {"lora_rank": 8, "initial_weights": "nothing/is_read"}),
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
def test_estimated_memory_is_within_a_fifth_of_two_measured_steps():
    """Measure in a subprocess whose allocator returns freed tensors to the system at once."""
    variants = json.dumps([SMALL | changes for changes in VARIANTS])
    printed = python("-c", MEASURE, variants, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="65536")
    measured = [int(line) for line in printed.split()]
    estimated = [estimate_small(**changes).memory_bytes for changes in VARIANTS]
    assert estimated == pytest.approx(measured, rel=0.2)


def test_fsdp_shards_weights_and_moments():
    keys = {"precision": "bf16", "activation_checkpointing": True}
    ddp, fsdp = (estimate_h14(**keys, parallel=parallel) for parallel in ("ddp", "fsdp"))
    assert ddp.memory["weights"] == 4 * ddp.parameters.total
    assert fsdp.memory["weights"] == 4 * (fsdp.parameters.total // 384)
    assert fsdp.memory["moments"] == pytest.approx(ddp.memory["moments"] / 384, rel=1e-3)
    assert "gathered weights" not in ddp.memory
    assert fsdp.memory_bytes < ddp.memory_bytes
    assert fsdp.memory["activations"] == ddp.memory["activations"]
    assert fsdp.flops_per_pair == ddp.flops_per_pair


def test_fsdp_holds_whole_gradients_of_an_accumulated_batch():
    whole, parts = (estimate_h14(parallel="fsdp", accum_steps=steps) for steps in (1, 2))
    held = parts.memory["gradients"] - whole.memory["gradients"]
    assert held == 4 * whole.parameters.total
    assert held / 2**30 == pytest.approx(6.9, abs=0.05)


def test_frozen_encoders_take_neither_moments_nor_stored_activations():
    trained, frozen = estimate_small(), estimate_small(freeze=["vision"])
    assert trained.memory["moments"] - frozen.memory["moments"] == 8 * trained.parameters.image_encoder
    assert frozen.memory["activations"] < 0.75 * trained.memory["activations"]
    assert frozen.memory["weights"] == trained.memory["weights"]


def test_students_add_weights_and_share_activation_memory():
    student = {"model": {"preset": "vit_s16"}}
    both = estimate_small(distill={"teacher": "t", "students": {"small": student}})
    first = estimate_small(distill={"teacher": "t"})
    second = estimate_small(**student, distill={"teacher": "t"})
    assert both.students["small"] == second.parameters
    assert both.memory["moments"] == first.memory["moments"] + second.memory["moments"]
    assert both.memory["activations"] == max(first.memory["activations"], second.memory["activations"])


def test_a_run_that_does_not_fit_names_the_keys_that_make_it_fit():
    config = make_config(model={"preset": "vit_l14"}, precision="bf16", global_batch_size=4_096)
    planned, world = make_schedule(4_096), 8
    whole = estimate(config, 901_629, planned, world).memory_bytes
    assert whole > 80 * GIB
    lines = to_lines(config, 901_629, planned, world, memory_bytes=80 * GIB, flops_per_s=None)
    warning = next(line for line in lines if "WILL NOT FIT" in line)
    fitting = changes_that_fit(config, 901_629, planned, world, 80 * GIB)
    assert any(change.startswith("train.activation_checkpointing = true") for change in fitting)
    assert all(change in warning for change in fitting)
    changed = dataclasses.replace(config, activation_checkpointing=True)
    assert estimate(changed, 901_629, planned, world).memory_bytes <= 80 * GIB
    tight = changes_that_fit(config, 901_629, planned, world, 16 * GIB)
    assert len(tight) == 1
    assert tight[0].startswith("all of train.activation_checkpointing = true")
    assert changes_that_fit(config, 901_629, planned, world, GIB // 4) == []
    lines = to_lines(config, 901_629, planned, world, memory_bytes=whole, flops_per_s=None)
    assert any(": fits" in line for line in lines)


def test_device_hours_are_flops_over_the_stated_rate():
    config = make_config(model={"preset": "vit_b32"}, hardware={"flops_per_s": 1e15, "utilisation": 0.5})
    schedule = make_schedule(4_096, steps=3_125)
    budget = estimate(config, 49_408, schedule, 4)
    assert budget.samples_seen == 12_800_000
    assert budget.device_hours(1e15, 0.5) == pytest.approx(budget.flops_per_pair * 12.8e6 / 0.5e15 / 3600)
    lines = to_lines(config, 49_408, schedule, 4, memory_bytes=None, flops_per_s=1e15)
    assert any(line.startswith("hours") and "at 50% of 1,000 TFLOP/s" in line for line in lines)
    assert any("set train.hardware.memory_gib" in line for line in lines)


def test_hours_on_known_devices_follow_their_rates():
    config = make_config(model={"preset": "vit_b32"}, precision="bf16", hardware={"utilisation": 0.5})
    budget = estimate(config, 49_408, make_schedule(4_096, steps=31_250), 1)
    line = known_devices_line(config, budget)
    assert f"H100 {budget.device_hours(9.89e14, 0.5):.1f} h" in line
    assert [word for word in line.split() if word in KNOWN_DEVICES] == list(KNOWN_DEVICES)


def test_measure_times_steps_of_the_recipes_model(toy_world, tmp_path, capsys):
    assert main(["train", str(toy_world.recipe), "--out", str(tmp_path / "run"), "--dry-run", "--measure"]) == 0
    said = capsys.readouterr().err
    assert re.search(r"measured +[\d,.]+ samples/s on this \w+ in 10 steps of 32 made-up pairs", said)
    assert not (tmp_path / "run").exists()


def test_on_a_gpu_gaps_and_libraries_take_memory_too():
    config = make_config(model={"preset": "vit_b32"})
    planned = make_schedule(4_096)
    allocated = estimate(config, 49_408, planned, 16).memory_bytes

    def lines(memory_bytes: float, flops_per_s: float | None = 1e15) -> str:
        table = to_lines(config, 49_408, planned, 16, memory_bytes=round(memory_bytes), flops_per_s=flops_per_s)
        return "\n".join(table)

    assert "WILL NOT FIT" in lines(1.05 * allocated)
    assert "WILL NOT FIT" not in lines(1.05 * allocated, None)
    assert "WILL NOT FIT" not in lines(1.11 * allocated + OUTSIDE_BYTES)
    assert "nodes of 8 share 4,096 pairs at 8, 16, 32\n" in lines(80 * GIB)
    planned = make_schedule(4_050)
    assert "nodes of 8 share 4,050 pairs at no count near this one\n" in lines(80 * GIB)


def test_a_dry_run_prints_the_table_and_writes_nothing(tmp_path, capsys):
    recipe = tmp_path / "r.toml"
    sections = ["[pool]", 'path = "pool"', "[balance]", "tail_fraction = 0.1", "[train.model]", 'preset = "vit_b32"']
    recipe.write_text("\n".join([*sections, "[train.hardware]", "devices = 4", "memory_gib = 2"]))
    flags = ["--out", str(tmp_path / "run")]
    assert main(["run", str(recipe), *flags, "--dry-run"]) == 0
    output = capsys.readouterr().err
    assert "WILL NOT FIT" in output
    assert "64 pairs each (4 processes)" in output
    assert not (tmp_path / "run").exists()
    assert main(["train", str(recipe), *flags, "--dry-run"]) == 0
    assert "GFLOP per pair" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["run", str(recipe), *flags, "--set", "train.hardware.devices=3", "--dry-run"]) == 2
    assert "must be a multiple of 3 (3 processes times 1 accumulation steps)" in capsys.readouterr().err


# the device


@pytest.mark.parametrize(
    ("threads", "others", "is_said"),
    [(1, 2.0, False), (4, 0.1, False), (4, None, False), (2, 1.6, False), (4, 1.6, True)],
)
def test_several_threads_next_to_other_processes_are_advised_against(
    monkeypatch: pytest.MonkeyPatch, threads: int, others: float | None, is_said: bool
) -> None:
    monkeypatch.setattr(device, "cores_of_others", lambda: others)
    monkeypatch.setattr(device.os, "cpu_count", lambda: 4)
    message = device.busy_machine(threads)
    assert (message is not None) == is_said
    if message is not None:
        assert "1.6 of this machine's 4 cores" in message
        assert "OMP_NUM_THREADS=2" in message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the time of all cores is read as Linux says it")
def test_a_process_that_computes_is_noticed() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        found = device.cores_of_others(1.0)
    finally:
        busy.kill()
        busy.communicate()
    assert found is not None
    assert found > 0.3
