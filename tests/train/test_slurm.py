"""examples/slurm/train.sh with three small scripts as scheduler: two processes, a signal, a requeued job."""

from __future__ import annotations

import os
import resource
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
    "srun": 'echo "$1 $2" > "$CALLS/srun"; shift 2; exec "$@"',  # one node: without its two options, here
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


def write_program(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/bash\n{lines}\n")
    path.chmod(0o755)


def test_a_job_has_time_to_save_and_a_record_of_what_hung(scheduler, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    lines = 'printenv > "$CALLS/environment"; ulimit -n > "$CALLS/ulimit"; echo "$@" > "$CALLS/torchrun"'
    write_program(programs / "torchrun", lines)
    write_program(programs / "nvidia-smi", "")
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
    assert environment["NCCL_DEBUG"] == "WARN"
    assert (scheduler / "srun").read_text() == "--kill-on-bad-exit=1 --cpus-per-task=96\n"
    assert int((scheduler / "ulimit").read_text()) == min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert "--nnodes 3 --nproc-per-node 8 --numa-binding node --rdzv-backend" in (scheduler / "torchrun").read_text()


def start_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.CompletedProcess[str]:
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2"}
    for name, value in {**job, "RUN": str(tmp_path / "run"), "GPUS": "2"}.items():
        monkeypatch.setenv(name, value)
    return subprocess.run([SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)


def num_requeued(scheduler: Path) -> int:
    path = scheduler / "requeue"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_job_gives_up_after_three_restarts_without_a_newer_checkpoint(scheduler, tmp_path, monkeypatch):
    write_program(tmp_path / "bin" / "torchrun", 'echo "  exitcode  : 1 (pid: 9)" >&2; exit 1')
    for _ in range(3):
        assert start_job(tmp_path, monkeypatch).returncode == 1
    assert num_requeued(scheduler) == 3
    (tmp_path / "run/train/step_000000005").mkdir(parents=True)
    for _ in range(4):
        job = start_job(tmp_path, monkeypatch)
    assert num_requeued(scheduler) == 6
    assert "not queued again after 3 restarts without a newer checkpoint than" in job.stderr
    assert "step_000000005" in job.stderr


def test_a_mistake_of_the_user_is_not_queued_again(scheduler, tmp_path, monkeypatch):
    write_program(tmp_path / "bin" / "torchrun", 'echo "  exitcode  : 2 (pid: 9)" >&2; exit 1')
    job = start_job(tmp_path, monkeypatch)
    assert job.returncode == 2
    assert "the same command would fail again" in job.stderr
    assert num_requeued(scheduler) == 0


@pytest.mark.slow
def test_a_job_saves_at_the_signal_requeues_itself_and_resumes(scheduler, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    tars = write_world(run_dir)
    recipe = make_recipe(tars, samples_seen=400 * 16, checkpoint_every_samples=40 * 16, keep_last=99)
    write_text(run_dir / "recipe.toml", to_toml(recipe))
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2"}
    for name, value in {**job, "RUN": str(run_dir), "GPUS": "2", "PORT": "29541"}.items():
        monkeypatch.setenv(name, value)
    first = subprocess.Popen([SCRIPT], cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not checkpoints(run_dir / "train") and first.poll() is None:
        time.sleep(0.05)
    signal_steps(first.pid)
    _, errors = first.communicate(timeout=300)
    assert first.returncode != 0
    assert "SIGUSR1: step" in errors
    assert (scheduler / "requeue").read_text().split() == ["requeue", "7"]
    saved = read_state(checkpoints(run_dir / "train")[-1])["step"]
    assert 40 <= saved < 400
    subprocess.run([SCRIPT], cwd=tmp_path, check=True, capture_output=True)
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
