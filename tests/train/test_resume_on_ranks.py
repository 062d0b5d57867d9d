"""Several processes that are killed, terminated or resumed at another world size end with the same weights."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from killed import contents
from on_ranks import LATE_S, run_on_ranks, start_ranks
from small_world import TRAIN, write_shapes, write_world
from worldclip.contracts.layout import checkpoints, latest_checkpoint
from worldclip.train.checkpoint import consolidate, read_state
from worldclip.train.log import read_log
from worldclip.train.signals import SIGNALS

STEPS = 400
NUM_INTERRUPTIONS = 10
# Of a tensor, relative, at another number of ranks.  AdamW enlarges rounding where a gradient is near 0: 5e-4 in a bias
# with torch 2.11.
TOLERANCE = 1e-3 if torch.__version__ < (2, 13) else 1e-4
EVALUATED = [step for step in range(1, STEPS + 1) if step % 40 == 0]
SETTINGS = {
    "samples_seen": STEPS * 16,
    "checkpoint_every_samples": 2 * 16,
    "evaluate_every_samples": 40 * 16,
    "evaluate_datasets": ["shapes"],
}
EXPECTED_COLLECTIVES = Counter(all_gather_into_tensor=2, reduce_scatter_tensor=2, all_reduce=1)  # of a DDP step


def make_world(folder: Path, **train: object) -> Path:
    """Write what `on_ranks.py train` reads: the recipe and the curated pool of its run.  Return the run's folder."""
    tars = write_world(folder / "run", broken={4})
    evaluate = write_shapes(folder / "shapes")
    recipe = {"pool": {"path": str(tars)}, "balance": {"tail_fraction": 0.1}, "evaluate": evaluate}
    recipe["train"] = TRAIN | SETTINGS | train
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder / "run"


def model_bytes(run_dir: Path) -> bytes:
    folder = latest_checkpoint(run_dir)
    assert folder.name == f"step_{STEPS:09}"
    consolidate(folder)
    return (folder / "model.safetensors").read_bytes()


def test_a_run_resumed_at_another_world_size_sees_the_same_pairs(tmp_path):
    """2 -> 1 -> 2 processes, DDP and FSDP in turns, against one uninterrupted process; weights agree to rounding."""
    steps = {"samples_seen": 12 * 16, "checkpoint_every_samples": 4 * 16, "warmup_samples": 16}
    whole = make_world(tmp_path / "whole", **steps)
    run_on_ranks("train", tmp_path / "whole", 1)
    run_dir = make_world(tmp_path / "cut", **steps, keep_last=9)
    recipe = json.loads((tmp_path / "cut" / "recipe.json").read_text())
    for world_size, parallel, step in ((2, "fsdp", 4), (1, "ddp", 8), (2, "ddp", 12)):
        recipe["train"]["parallel"] = parallel
        (tmp_path / "cut" / "recipe.json").write_text(json.dumps(recipe))
        run_on_ranks("train", tmp_path / "cut", world_size)
        for later in checkpoints(run_dir / "train")[step // 4 :]:  # as if the run had been killed after `step`
            later.rename(run_dir / f"{later.name}.{world_size}")
        (run_dir / "train" / "manifest.json").unlink()
    for rank in range(2):  # of the last run, whose steps 9 to 12 make no checkpoint
        assert collectives_per_step(tmp_path / "cut", rank) == [EXPECTED_COLLECTIVES] * 3
    state, expected_state = (read_state(latest_checkpoint(folder)) for folder in (run_dir, whole))
    for key in ("seen", "bad", "bad_keys", "samples_seen"):
        assert state[key] == expected_state[key]
    weights, expected = (
        load((latest_checkpoint(folder) / "model.safetensors").read_bytes()) for folder in (run_dir, whole)
    )
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        if not name.endswith("k_proj.bias"):  # changes no softmax: its gradient is only rounding
            assert np.linalg.norm(weights[name] - tensor) < TOLERANCE * np.linalg.norm(tensor) + 1e-6, name


def test_four_ranks_under_ddp_end_with_the_same_bytes_after_a_restart(tmp_path):
    """Sums of four numbers depend on their order: DDP's buckets must be the same in each step of each start."""
    steps = {"samples_seen": 6 * 16, "checkpoint_every_samples": 3 * 16, "evaluate_every_samples": 0}
    run_dir = make_world(tmp_path, **steps, warmup_samples=16, keep_last=9)
    run_on_ranks("train", tmp_path, 4)
    assert counted_shards(tmp_path) == [[0], [1], [2], []], "each rank counts a share of the epoch's pairs"
    last = latest_checkpoint(run_dir)
    whole = contents(last / "trainer/shards")
    last.rename(run_dir / last.name)
    (run_dir / "train" / "manifest.json").unlink()
    run_on_ranks("train", tmp_path, 4)
    assert counted_shards(tmp_path) == [[]] * 4
    assert len(whole) == 5
    assert contents(last / "trainer/shards") == whole


def counted_shards(folder: Path) -> list[list[int]]:
    return [json.loads((folder / f"counted.{rank}.json").read_text()) for rank in range(4)]


def collectives_per_step(folder: Path, rank: int) -> list[Counter[str]]:
    counts = json.loads((folder / f"collectives.{rank}.json").read_text())
    return [Counter(after) - Counter(before) for before, after in itertools.pairwise(counts)]


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_the_log_names_the_slowest_host_without_a_collective_more(tmp_path, parallel):
    num_pairs = 12 * 16
    settings = {"samples_seen": num_pairs, "checkpoint_every_samples": num_pairs, "evaluate_every_samples": 0}
    run_dir = make_world(tmp_path, **settings, parallel=parallel)
    run_on_ranks("train_late", tmp_path, 2)
    records = read_log(run_dir / "train" / "log.jsonl")
    assert [record["slowest_host"] for record in records] == ["late", "late"]
    assert all(LATE_S < record["slowest_s"] < 10 * LATE_S for record in records)
    if parallel == "ddp":
        assert collectives_per_step(tmp_path, 0) == [EXPECTED_COLLECTIVES] * 11


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_killed_ten_times_ends_with_the_same_weights(tmp_path, parallel):
    whole = make_world(tmp_path / "whole", parallel=parallel)
    run_on_ranks("train", tmp_path / "whole", 2)
    run_dir = make_world(tmp_path / "chaos", parallel=parallel)
    generator = random.Random(parallel)
    for interruption in (["one", "all", "terminate", "usr1"] * 3)[:NUM_INTERRUPTIONS]:
        steps_done = latest_checkpoint(run_dir)
        processes = start_ranks("train", tmp_path / "chaos", 2)
        while latest_checkpoint(run_dir) == steps_done and processes[0].returncode is None:
            time.sleep(0.005)
        time.sleep(0.1 * generator.random())
        number = {"terminate": signal.SIGTERM, "usr1": signal.SIGUSR1}.get(interruption, signal.SIGKILL)
        for process in processes if interruption == "all" else [generator.choice(processes)]:
            process.send_signal(number)
        errors = [process.communicate(timeout=300)[1] for process in processes]
        codes = [process.returncode for process in processes]
        assert 0 not in codes, f"finished before {NUM_INTERRUPTIONS} interruptions; raise STEPS"
        if number != signal.SIGKILL:
            assert codes == [SIGNALS[number]] * 2, errors
    assert not (run_dir / "train" / "manifest.json").exists()
    run_on_ranks("train", tmp_path / "chaos", 2)
    assert model_bytes(run_dir) == model_bytes(whole)
    losses, expected_losses = (
        [(row["step"], row["loss"]) for row in read_log(folder / "train" / "log.jsonl")] for folder in (run_dir, whole)
    )
    assert losses == expected_losses
    assert not [name for name in os.listdir(run_dir / "train") if name.startswith(".step")]
    for file in ("best.json", *(f"evaluate/step_{step:09}/scores.json" for step in EVALUATED)):
        found, expected = (json.loads((folder / "train" / file).read_text()) for folder in (run_dir, whole))
        assert {**found, "model_digest": ""} == {**expected, "model_digest": ""}, file
    kept = {folder.name for folder in checkpoints(run_dir / "train")}
    assert f"step_{json.loads((run_dir / 'train/best.json').read_text())['step']:09}" in kept
