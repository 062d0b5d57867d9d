"""Several ranks give the loss, gradients and weights of one, under DDP, FSDP and HSDP, however often they are killed.

Two ranks are on two machines, four on two machines of two (LOCAL_WORLD_SIZE).
"""

import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from killed import contents
from on_ranks import ACCUMULATED, LATE_S, SAVED, VARIANTS, make_batch, make_state, run_on_ranks, start_ranks
from small_world import TRAIN, write_shapes, write_world
from trainings import forget_checkpoints
from worldclip.contracts.layout import checkpoints, latest_checkpoint
from worldclip.train.checkpoint import CheckpointReader, consolidate, read_state
from worldclip.train.distributed import ALONE, connected_ranks
from worldclip.train.log import read_log
from worldclip.train.step import train_step

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_check


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder in which one rank and then two ranks have written what `on_ranks.steps` writes."""
    folder = tmp_path_factory.mktemp("steps")
    for world_size in (1, 2):
        run_on_ranks("steps", folder, world_size)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Return {world size: {variant: tensors}}."""
    return {
        world_size: {name: load_file(folder / f"{name}.{world_size}.safetensors") for name in VARIANTS}
        for world_size in (1, 2)
    }


def tolerance_of(variant):
    """AdamW moves a bias from 0 by the gradient's sign, and rounding decides that of small ones in bfloat16.

    FSDP runs other products than one rank does (train/cpu_towers.py).
    """
    if variant == "bf16":
        return 0.15
    return 3e-5 if "fsdp" in variant or "hsdp" in variant else 1e-5


def relative_difference(actual, expected):
    """Compare norms of whole tensors: a single gradient that cancels to nothing has no relative precision."""
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-6))


def assert_equal(actual, expected, tolerance):
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].shape == tensor.shape, name
        if not name.endswith("k_proj.bias"):  # changes no softmax: its gradient is only rounding
            assert relative_difference(actual[name], tensor) < tolerance, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_give_the_loss_gradients_and_weights_of_one(results, folder, variant):
    assert any(name.startswith("gradient ") for name in results[1][variant])
    assert_equal(results[2][variant], results[1][variant], tolerance_of(variant))
    assert json.loads((folder / "differing.2.json").read_text())[variant] == [], "ranks hold equal weights to the bit"


@pytest.mark.parametrize("variant", ACCUMULATED)
@pytest.mark.parametrize("world_size", [1, 2])
def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(results, variant, world_size):
    whole, accumulated = results[world_size][variant], results[world_size][ACCUMULATED[variant]]
    assert whole.keys() >= {name for name in accumulated if not name.startswith("resumed")}
    names = [name for name in whole if name.startswith(("gradient", "loss", "norm 0"))]
    assert_equal({name: accumulated[name] for name in names}, {name: whole[name] for name in names}, 1e-5)


def test_only_what_learns_has_a_gradient(results):
    frozen, lora, plain = (
        {name for name in results[1][key] if "gradient " in name} for key in ("frozen", "lora", "ddp")
    )
    assert plain - frozen == {name for name in plain if name.startswith("gradient vision_model")}
    projections = {"gradient visual_projection.weight", "gradient text_projection.weight"}
    assert lora == {name for name in lora if "lora_" in name} | projections
    assert len(lora - projections) == 2 * 2 * 6 * 2  # towers, blocks, layers, A and B


@pytest.mark.parametrize(
    ("variant", "shares_read"), [("ddp", (1, 0)), ("fsdp", (0.5, 0.5)), ("hsdp siglip", (1, 1))], ids=SAVED
)
def test_each_rank_writes_its_share_of_a_checkpoint_and_reads_no_row_twice(folder, variant, shares_read):
    """Under HSDP two ranks are two machines, each of which holds the whole model."""
    (alone,) = json.loads((folder / "bytes.1.json").read_text())[variant]
    ranks = json.loads((folder / "bytes.2.json").read_text())[variant]
    assert alone["read"] == alone["copied"] == sum(rank["copied"] for rank in ranks)
    for rank, share in zip(ranks, shares_read, strict=True):
        assert rank["copied"] == pytest.approx(alone["copied"] / 2, rel=0.02)
        assert 0 < rank["written"] - rank["copied"] < 40_000  # the header, with a name for each tensor
        assert rank["read"] == pytest.approx(share * alone["read"], rel=0.02)
    assert_checkpoints_agree(folder, variant, 2)


def assert_checkpoints_agree(folder, variant, world_size):
    """Compare the checkpoint of several ranks with that of one, and resume both on one rank, under another plan."""
    one, two = (folder / f"{variant}.{size}" / f"step_{3:09}" for size in (1, world_size))
    own, expected = (
        {name: reader.read(name).double() for name in reader.tensors} for reader in map(CheckpointReader, (two, one))
    )
    kept = [name for name in expected if "k_proj.bias" not in name]
    assert own.keys() == expected.keys()
    assert_equal({name: own[name] for name in kept}, {name: expected[name] for name in kept}, tolerance_of(variant))
    states = (make_state(VARIANTS[variant], ALONE, checkpoint) for checkpoint in (one, two))
    losses = [train_step(state, make_batch(VARIANTS[variant]), 1e-3).loss for state in states]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    consolidate(two)
    assert (two / "model.safetensors").stat().st_size == (one / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_four_ranks_on_two_machines_give_the_results_of_one_and_of_each_other(results, folder):
    """Each variant, and the checkpoints of HSDP read by one rank; those of one rank were resumed by four."""
    run_on_ranks("steps", folder, 4)
    for variant in VARIANTS:
        four = load_file(folder / f"{variant}.4.safetensors")
        assert_equal(four, results[1][variant], tolerance_of(variant))
    assert not any(json.loads((folder / "differing.4.json").read_text()).values())
    for variant in ("hsdp siglip", "fsdp"):
        ranks = json.loads((folder / "bytes.4.json").read_text())[variant]
        (alone,) = json.loads((folder / "bytes.1.json").read_text())[variant]
        assert sum(rank["copied"] for rank in ranks) == alone["copied"]
        assert max(rank["copied"] for rank in ranks) < 1.1 * alone["copied"] / 4
        assert_checkpoints_agree(folder, variant, 4)


def test_ranks_wait_for_a_late_start_and_record_but_not_for_a_step(tmp_path):
    """Rank 0 is late by three time-outs of a step, each time."""
    run_on_ranks("waits", tmp_path, 2)
    assert "imed out" in (tmp_path / "step.1.txt").read_text()


def test_a_rank_may_open_sockets_to_hundreds_of_others():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with connected_ranks("cpu"):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(8_192, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_error_closes_the_process_group_on_all_ranks(tmp_path):
    run_on_ranks("fail", tmp_path, 2)


def test_a_write_that_hangs_on_one_rank_ends_all_ranks(tmp_path):
    processes = start_ranks("hang", tmp_path, 2)
    errors = [process.communicate(timeout=30)[1] for process in processes]
    assert 0 not in [process.returncode for process in processes]
    assert "step_000000001: rank 1 has not written its part" in errors[1]
    assert "rank 1 has not written 00001_of_00002" in errors[0]
    assert not list(tmp_path.glob("step_*"))


# whole runs on ranks: killed, terminated, resumed at another world size

STEPS = 400
NUM_INTERRUPTIONS = 10
# Of a tensor, relative, at another number of ranks.  AdamW enlarges rounding where a gradient is near 0: 5e-4 in a bias
# with torch 2.11.
TOLERANCE = 1e-3 if torch.__version__ < (2, 13) else 1e-4
EXPECTED_COLLECTIVES = Counter(all_gather_into_tensor=2, reduce_scatter_tensor=2, all_reduce=1)  # of a DDP step


def make_world(folder, *, num_steps, **train):
    """Write what `on_ranks.train` reads: the recipe and the curated pool of its run.  Return the run's folder."""
    tars = write_world(folder / "run", broken={4})
    recipe = {"pool": {"path": str(tars)}, "balance": {"tail_fraction": 0.1}}
    recipe["evaluate"] = write_shapes(folder / "shapes")
    recipe["train"] = TRAIN | {"samples_seen": num_steps * 16} | train
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder / "run"


def collectives_per_step(folder, rank):
    counts = json.loads((folder / f"collectives.{rank}.json").read_text())
    return [Counter(after) - Counter(before) for before, after in itertools.pairwise(counts)]


def test_a_run_resumed_at_another_world_size_sees_the_same_pairs(tmp_path):
    """2 -> 1 -> 2 processes, DDP and FSDP in turns, against one uninterrupted process; weights agree to rounding."""
    settings = {"num_steps": 12, "checkpoint_every_samples": 4 * 16, "warmup_samples": 16, "keep_last": 9}
    whole, run_dir = (make_world(tmp_path / name, **settings) for name in ("whole", "cut"))
    run_on_ranks("train", tmp_path / "whole", 1)
    recipe = json.loads((tmp_path / "cut" / "recipe.json").read_text())
    for world_size, parallel, num_kept in ((2, "fsdp", 1), (1, "ddp", 2), (2, "ddp", 3)):
        recipe["train"]["parallel"] = parallel
        (tmp_path / "cut" / "recipe.json").write_text(json.dumps(recipe))
        run_on_ranks("train", tmp_path / "cut", world_size)
        forget_checkpoints(run_dir, num_kept)
    for rank in range(2):  # of the last run, whose steps 9 to 12 make no checkpoint
        assert collectives_per_step(tmp_path / "cut", rank) == [EXPECTED_COLLECTIVES] * 3
    state, expected_state = (read_state(latest_checkpoint(folder)) for folder in (run_dir, whole))
    for key in ("seen", "bad", "bad_keys", "samples_seen"):
        assert state[key] == expected_state[key]
    weights, expected = (load_file(latest_checkpoint(folder) / "model.safetensors") for folder in (run_dir, whole))
    assert_equal(weights, expected, TOLERANCE)


def test_four_ranks_under_ddp_end_with_the_same_bytes_after_a_restart(tmp_path):
    """Sums of four numbers depend on their order: DDP's buckets must be the same in each step of each start."""
    run_dir = make_world(tmp_path, num_steps=6, checkpoint_every_samples=3 * 16, warmup_samples=16, keep_last=9)
    run_on_ranks("train", tmp_path, 4)
    counted = [json.loads((tmp_path / f"counted.{rank}.json").read_text()) for rank in range(4)]
    assert counted == [[0], [1], [2], []], "each rank counts a share of the epoch's pairs"
    last = latest_checkpoint(run_dir)
    whole = contents(last / "trainer/shards")
    forget_checkpoints(run_dir, 1)
    run_on_ranks("train", tmp_path, 4)
    assert [json.loads((tmp_path / f"counted.{rank}.json").read_text()) for rank in range(4)] == [[]] * 4
    assert len(whole) == 5
    assert contents(last / "trainer/shards") == whole


def test_the_log_names_the_slowest_host_without_a_collective_more(tmp_path):
    run_dir = make_world(tmp_path, num_steps=12, checkpoint_every_samples=12 * 16)
    run_on_ranks("train_late", tmp_path, 2)
    records = read_log(run_dir / "train" / "log.jsonl")
    assert [record["slowest_host"] for record in records] == ["host1"] * 2
    assert all(LATE_S < record["slowest_s"] < 10 * LATE_S for record in records)
    assert collectives_per_step(tmp_path, 0) == [EXPECTED_COLLECTIVES] * 11


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_killed_ten_times_ends_with_the_same_weights(tmp_path, parallel):
    settings = {"checkpoint_every_samples": 2 * 16, "evaluate_every_samples": 40 * 16, "parallel": parallel}
    whole, run_dir = (make_world(tmp_path / name, num_steps=STEPS, **settings) for name in ("whole", "chaos"))
    run_on_ranks("train", tmp_path / "whole", 2)
    generator = random.Random(parallel)
    signals = {"terminate": signal.SIGTERM, "usr1": signal.SIGUSR1, "int": signal.SIGINT}
    for interruption in (["one", "all", *signals] * 3)[:NUM_INTERRUPTIONS]:
        steps_done = latest_checkpoint(run_dir)
        processes = start_ranks("train", tmp_path / "chaos", 2)
        while latest_checkpoint(run_dir) == steps_done and processes[0].returncode is None:
            time.sleep(0.005)
        time.sleep(0.1 * generator.random())
        number = signals.get(interruption, signal.SIGKILL)
        for process in processes if interruption == "all" else [generator.choice(processes)]:
            process.send_signal(number)
        errors = [process.communicate(timeout=300)[1] for process in processes]
        codes = [process.returncode for process in processes]
        assert 0 not in codes, f"finished before {NUM_INTERRUPTIONS} interruptions; raise STEPS"
        if number != signal.SIGKILL:
            assert codes == [128 + number] * 2, errors
    assert not (run_dir / "train" / "manifest.json").exists()
    run_on_ranks("train", tmp_path / "chaos", 2)
    for file in (latest_checkpoint(folder) / "model.safetensors" for folder in (run_dir, whole)):
        assert file.parent.name == f"step_{STEPS:09}"
        consolidate(file.parent)
    assert file.read_bytes() == (latest_checkpoint(run_dir) / file.name).read_bytes()
    losses, expected_losses = (
        [(row["step"], row["loss"]) for row in read_log(folder / "train" / "log.jsonl")] for folder in (run_dir, whole)
    )
    assert losses == expected_losses
    assert not [name for name in os.listdir(run_dir / "train") if name.startswith(".step")]
    evaluated = [f"evaluate/step_{step:09}/scores.json" for step in range(40, STEPS + 1, 40)]
    for file in ("best.json", *evaluated):
        found, expected = (json.loads((folder / "train" / file).read_text()) for folder in (run_dir, whole))
        assert {**found, "model_digest": ""} == {**expected, "model_digest": ""}, file
    kept = {folder.name for folder in checkpoints(run_dir / "train")}
    assert f"step_{json.loads((run_dir / 'train/best.json').read_text())['step']:09}" in kept


# examples/slurm/train.sh, with small scripts as the scheduler

SCHEDULER = {
    "sbatch": 'echo "$@" > "$CALLS/sbatch"',
    "scontrol": 'case $1 in show) echo localhost ;; *) echo "$@" >> "$CALLS/requeue" ;; esac',
    "srun": 'shift 2; exec "$@"',  # one node: without its two options, here
}
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2"}
SCRIPT = Path(__file__).parents[2] / "examples/slurm/train.sh"


def write_program(path, line):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{line}\n")
    path.chmod(0o755)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Return the folder that records the calls of the scheduler.  RUN is a job's run of two GPUs."""
    (tmp_path / "calls").mkdir()
    for name, line in SCHEDULER.items():
        write_program(tmp_path / "bin" / name, line)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    run_dir = str(tmp_path / "run")
    for name, value in {"PATH": path, "CALLS": str(tmp_path / "calls"), "RUN": run_dir, "GPUS": "2", **JOB}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "calls"


@pytest.mark.parametrize(("code_of_ranks", "code", "requeued"), [(1, 1, True), (2, 2, False)])
def test_a_job_is_queued_again_unless_a_mistake_ended_it(calls, tmp_path, monkeypatch, code_of_ranks, code, requeued):
    line = f'echo "$@" > "$CALLS/torchrun"; echo "  exitcode  : {code_of_ranks} (pid: 9)" >&2; exit 1'
    write_program(tmp_path / "bin/torchrun", line)
    assert subprocess.run([SCRIPT], cwd=tmp_path, check=False).returncode == code
    assert (calls / "requeue").exists() == requeued
    assert "--nnodes 1 --nproc-per-node 2 " in (calls / "torchrun").read_text()
    monkeypatch.delenv("SLURM_JOB_ID")
    subprocess.run([SCRIPT, tmp_path / "run", "4"], check=True)  # on the login node
    submitted = (calls / "sbatch").read_text()
    assert "--nodes=4 " in submitted
    assert "--signal=USR1@120 --requeue" in submitted
    assert f"RUN={tmp_path / 'run'},GPUS=8 {SCRIPT}" in submitted


# benchmarks/gpu_check.py on a CPU, with a reduced model: it makes no number up


def test_a_reduced_model_runs_and_what_a_gpu_alone_shows_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = gpu_check.check(["b32"], 1, None, ALONE, torch.device("cpu"))
    (row,) = (line[2:].split(" | ") for line in text.splitlines() if line.endswith(" GiB |"))
    assert row[0] == "b32 ddp"
    assert row[2:6] == [gpu_check.NOT_ON_CPU] * 4
    assert text.count("agree") == 1
    assert "DIFFER" not in text
    assert not list(tmp_path.glob("gpu_check_*")), "checkpoints are removed"
