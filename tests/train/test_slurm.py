"""examples/slurm/train.sh with three small scripts as scheduler: two processes, a signal, a requeued job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from small_world import make_recipe, write_world
from worldclip.contracts.layout import checkpoints
from worldclip.core.artifacts import write_text
from worldclip.core.settings import to_toml
from worldclip.train.checkpoint import read_state

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "train.sh"
SCHEDULER = {
    "sbatch": 'echo "$@" > "$CALLS/sbatch"',
    "scontrol": 'case $1 in show) echo localhost ;; *) echo "$@" >> "$CALLS/requeue" ;; esac',
    "srun": 'shift; exec "$@"',  # one node: without --kill-on-bad-exit=1, here
}


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Return the folder that records the calls of the scheduler."""
    calls, programs = tmp_path / "calls", tmp_path / "bin"
    calls.mkdir()
    programs.mkdir()
    for name, line in SCHEDULER.items():
        (programs / name).write_text(f"#!/bin/bash\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(calls))
    return calls


def test_the_script_submits_itself_on_the_login_node(scheduler, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    subprocess.run([SCRIPT, tmp_path / "run", "4"], check=True)
    arguments = (scheduler / "sbatch").read_text()
    assert "--nodes=4 " in arguments
    assert "--gpus-per-node=8 " in arguments
    assert "--signal=USR1@120 --requeue" in arguments
    assert f"RUN={tmp_path / 'run'},GPUS=8 {SCRIPT}" in arguments


def test_a_job_has_time_to_save_and_a_record_of_what_hung(scheduler, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    (programs / "torchrun").write_text('#!/bin/bash\nprintenv > "$CALLS/environment"; echo "$@" > "$CALLS/torchrun"\n')
    (programs / "nvidia-smi").write_text("#!/bin/bash\n")
    for name in ("torchrun", "nvidia-smi"):
        (programs / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "96"}
    for name, value in {**job, "RUN": str(tmp_path), "GPUS": "8", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "900"}.items():
        monkeypatch.setenv(name, value)
    subprocess.run([SCRIPT], check=True, cwd=tmp_path)
    environment = dict(
        line.split("=", 1) for line in (scheduler / "environment").read_text().splitlines() if "=" in line
    )
    assert environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "900"  # the environment's, where it is set
    assert environment["OMP_NUM_THREADS"] == "12"
    assert environment["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert int(environment["TORCH_FR_BUFFER_SIZE"]) > 0
    assert environment["TORCH_FR_DUMP_TEMP_FILE"] == f"{tmp_path}/nccl-7/rank_"
    assert (tmp_path / "nccl-7").is_dir()
    assert "--nnodes 3 --nproc-per-node 8 --numa-binding node --rdzv-backend" in (scheduler / "torchrun").read_text()


@pytest.mark.slow
def test_a_job_saves_at_the_signal_requeues_itself_and_resumes(scheduler, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    tars = write_world(run_dir)
    recipe = make_recipe(tars, samples_seen=400 * 16, checkpoint_every_samples=40 * 16, keep_last=99)
    write_text(run_dir / "recipe.toml", to_toml(recipe))
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2"}
    for name, value in {**job, "RUN": str(run_dir), "GPUS": "2", "PORT": "29541"}.items():
        monkeypatch.setenv(name, value)
    first = subprocess.Popen([SCRIPT], start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not checkpoints(run_dir / "train") and first.poll() is None:
        time.sleep(0.05)
    signal_steps(first.pid)
    _, errors = first.communicate(timeout=300)
    assert first.returncode != 0
    assert "SIGUSR1: step" in errors
    assert (scheduler / "requeue").read_text().split() == ["requeue", "7"]
    saved = read_state(checkpoints(run_dir / "train")[-1])["step"]
    assert 40 <= saved < 400
    subprocess.run([SCRIPT], check=True, capture_output=True)
    assert read_state(checkpoints(run_dir / "train")[-1])["step"] == 400
    assert (run_dir / "train" / "manifest.json").exists()
    assert (scheduler / "requeue").read_text().split() == ["requeue", "7"]


def signal_steps(batch: int) -> None:
    """Send SIGUSR1 to every process but the batch script, as Slurm does two minutes before the time limit."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(path.name))
    waiting = list(children.get(batch, []))
    while waiting:
        process = waiting.pop()
        waiting += children.get(process, [])
        os.kill(process, signal.SIGUSR1)
