"""Two processes, killed and terminated at random, end with the weights of two processes that nobody touched."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from on_ranks import run_on_ranks, start_ranks
from small_world import TRAIN, write_world
from worldclip.core.layout import checkpoints, latest_checkpoint
from worldclip.train.checkpoint import consolidate
from worldclip.train.log import read_log
from worldclip.train.loop import SIGNALS

STEPS = 400
NUM_ENDS = 10
SETTINGS = {"samples_seen": STEPS * 16, "checkpoint_every_samples": 2 * 16, "evaluate_every_samples": 0}


def make_world(folder: Path, **train: object) -> Path:
    """A folder for `on_ranks.py train`: the recipe, and the curated pool of its run."""
    tars = write_world(folder / "run", broken={4})
    recipe = {"pool": {"path": str(tars)}, "balance": {"tail_fraction": 0.1}, "train": TRAIN | SETTINGS | train}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder / "run"


def weights(run_dir: Path) -> bytes:
    folder = latest_checkpoint(run_dir)
    assert folder.name == f"step_{STEPS:09}"
    consolidate(folder)
    return (folder / "model.safetensors").read_bytes()


def test_a_run_goes_on_at_another_number_of_processes_with_the_same_pairs(tmp_path):
    """2 -> 1 -> 2 processes, DDP and FSDP in turns, against one unbroken process; weights agree to rounding."""
    from safetensors.numpy import load

    steps = {"samples_seen": 12 * 16, "checkpoint_every_samples": 4 * 16, "warmup_samples": 16}
    whole = make_world(tmp_path / "whole", **steps)
    run_on_ranks("train", tmp_path / "whole", 1)
    run_dir = make_world(tmp_path / "cut", **steps, keep_last=9)
    recipe = json.loads((tmp_path / "cut" / "recipe.json").read_text())
    for world_size, parallel, step in ((2, "fsdp", 4), (1, "ddp", 8), (2, "ddp", 12)):
        recipe["train"]["parallel"] = parallel
        (tmp_path / "cut" / "recipe.json").write_text(json.dumps(recipe))
        run_on_ranks("train", tmp_path / "cut", world_size)
        for later in checkpoints(run_dir / "train")[step // 4 :]:  # as if the run had been killed behind `step`
            later.rename(run_dir / f"{later.name}.{world_size}")
        (run_dir / "train" / "manifest.json").unlink()
    found, expected = (
        json.loads((latest_checkpoint(each) / "trainer" / "state.json").read_text()) for each in (run_dir, whole)
    )
    assert {key: found[key] for key in ("seen", "bad", "bad_keys", "samples_seen")} == {
        key: expected[key] for key in ("seen", "bad", "bad_keys", "samples_seen")
    }
    ours, theirs = (load((latest_checkpoint(each) / "model.safetensors").read_bytes()) for each in (run_dir, whole))
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        if not name.endswith("k_proj.bias"):
            assert np.linalg.norm(ours[name] - tensor) < 1e-4 * np.linalg.norm(tensor) + 1e-6, name


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_killed_ten_times_at_random_it_ends_with_the_same_weights(tmp_path, parallel):
    whole = make_world(tmp_path / "whole", parallel=parallel)
    run_on_ranks("train", tmp_path / "whole", 2)
    run_dir = make_world(tmp_path / "chaos", parallel=parallel)
    chance = random.Random(parallel)
    for end in (["one", "all", "terminate", "usr1"] * 3)[:NUM_ENDS]:
        steps_done = latest_checkpoint(run_dir)
        processes = start_ranks("train", tmp_path / "chaos", 2)
        while latest_checkpoint(run_dir) == steps_done and processes[0].poll() is None:
            time.sleep(0.005)
        time.sleep(0.1 * chance.random())
        number = {"terminate": signal.SIGTERM, "usr1": signal.SIGUSR1}.get(end, signal.SIGKILL)
        for process in processes if end == "all" else [chance.choice(processes)]:
            process.send_signal(number)
        said = [process.communicate(timeout=300)[1] for process in processes]
        codes = [process.returncode for process in processes]
        assert 0 not in codes, f"the run ended before it was ended {NUM_ENDS} times; let it have more steps"
        if number != signal.SIGKILL:
            assert codes == [SIGNALS[number]] * 2, said
    assert not (run_dir / "train" / "manifest.json").exists()
    run_on_ranks("train", tmp_path / "chaos", 2)
    assert weights(run_dir) == weights(whole)
    records = [
        [(row["step"], row["loss"]) for row in read_log(each / "train" / "log.jsonl")] for each in (run_dir, whole)
    ]
    assert records[0] == records[1]
    assert not [name for name in os.listdir(run_dir / "train") if name.startswith(".step")]
