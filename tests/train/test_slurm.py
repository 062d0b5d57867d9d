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

from on_ranks import run_on_ranks
from small_world import make_recipe, write_world
from worldclip.contracts.layout import checkpoints
from worldclip.core.artifacts import write_text
from worldclip.core.settings import to_toml
from worldclip.train.checkpoint import read_state

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "slurm"))

import bandwidth

SCRIPT = Path(bandwidth.__file__).with_name("train.sh")
SCHEDULER = {
    "sbatch": 'echo "$@" > "$CALLS/sbatch"',
    "scontrol": 'case $1 in show) echo localhost ;; *) echo "$@" >> "$CALLS/requeue" ;; esac',
    "srun": 'echo "$1 $2" > "$CALLS/srun"; shift 2; exec "$@"',  # one node: without its two options, here
}
MEASURED = 'echo "$2 100" >> "${@: -1}"'  # what bandwidth.py does: "nodes GB/s" into the node's file
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2"}


def write_programs(folder: Path, **lines: str) -> None:
    """Write bash scripts by their names, with - in place of _."""
    folder.mkdir(exist_ok=True)
    for name, line in lines.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/bash\n{line}\n")
        path.chmod(0o755)


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Return the folder that records the calls of the scheduler.  RUN is a job's run of two GPUs."""
    calls, programs = tmp_path / "calls", tmp_path / "bin"
    calls.mkdir()
    write_programs(programs, **SCHEDULER)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    set_variables(monkeypatch, PATH=path, CALLS=str(calls), RUN=str(tmp_path / "run"), GPUS="2")
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
    lines = 'printenv > "$CALLS/environment"; ulimit -n > "$CALLS/ulimit"; echo "$@" > "$CALLS/torchrun"'
    lines = f'case "$*" in *bandwidth.py*) {MEASURED} ;; *) {lines} ;; esac'
    write_programs(tmp_path / "bin", torchrun=lines, nvidia_smi="")
    job = JOB | {"SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "96", "SLURMD_NODENAME": "localhost"}
    job |= {"RUN": str(tmp_path), "GPUS": "8", "EXAMPLES": str(SCRIPT.parent)}
    set_variables(monkeypatch, **job, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="900")
    subprocess.run([SCRIPT], check=True, cwd=tmp_path)
    lines = (scheduler / "environment").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
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


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_nodes_meet_in_pairs_and_each_has_two_partners(scheduler, tmp_path, monkeypatch, count):
    """Both nodes of a pair must name the same first node, port and id: else they never meet."""
    write_programs(tmp_path / "bin", torchrun='echo "$2 $8 ${10} $SLURMD_NODENAME" >> "$CALLS/measured"')
    nodes = [f"n{i}" for i in range(count)]
    for node in nodes:
        set_variables(monkeypatch, **JOB, SLURMD_NODENAME=node, GPUS="8", PORT="29500")
        subprocess.run([SCRIPT.parent / "check_node.sh", tmp_path, *nodes], check=True)
    members: dict[str, list[str]] = {}
    for line in (scheduler / "measured").read_text().splitlines():
        meeting, _, node = line.rpartition(" ")
        members.setdefault(meeting, []).append(node)
    partners: dict[str, set[str]] = {node: set() for node in nodes}
    for meeting, met in members.items():
        num_nodes, endpoint, _ = meeting.split()
        assert len(met) == int(num_nodes)
        assert endpoint.partition(":")[0] in met
        for node in met:
            partners[node] |= set(met) - {node}
    assert sum(meeting.startswith("1 ") for meeting in members) == count
    assert {len(met) for met in partners.values()} == {min(2, count - 1)}


def test_a_node_that_fails_is_left_out_and_the_job_is_submitted_again(scheduler, tmp_path, monkeypatch):
    write_programs(
        tmp_path / "bin",
        torchrun=f'case "$SLURMD_NODENAME" in n2) ;; *) {MEASURED} ;; esac',
        nvidia_smi="",
        scontrol='printf "%s\\n" n0 n1 n2 n3',
        srun='shift 2; for node in n0 n1 n2 n3; do SLURMD_NODENAME=$node "$@"; done',
        sbatch='echo "$@" "$EXCLUDED" "${SLURM_JOB_ID:-none}" > "$CALLS/sbatch"; echo 8',
    )
    set_variables(monkeypatch, EXAMPLES=str(SCRIPT.parent), EXCLUDED="n9")
    job = start_job(tmp_path, monkeypatch)
    assert job.returncode == 0
    assert "n2 fails: no measurement among its GPUs" in job.stderr
    assert "submitted again as job 8 without n2" in job.stderr
    submitted = (scheduler / "sbatch").read_text()
    assert "--nodes=1 " in submitted
    assert "--exclude=n9,n2 " in submitted
    assert submitted.endswith("train.sh n9,n2 none\n")
    (scheduler / "sbatch").unlink()
    monkeypatch.setenv("EXCLUDED", "n8,n9")
    job = start_job(tmp_path, monkeypatch)
    assert job.returncode == 1
    assert "not submitted again, since many nodes have failed: n8,n9,n2" in job.stderr
    assert not (scheduler / "sbatch").exists()


SPEEDS = {
    "n0": "1 400\n2 300\n2 310\n",
    "n1": "1 410\n2 90\n2 300\n",
    "n2": "1 405\n2 90\n2 95\n",
    "n3": "1 150\n2 310\n",
}


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, {"n2": "95.0 GB/s to other nodes, the median node 305.0", "n3": "150.0 GB/s among its GPUs"}),
        ({"n2": "1 400\n2 290\n", "n3": "1 400\n2 320\n"}, {}),
        ({"n2": None, "n3": "1 400\n"}, {"n2": "no measurement among its GPUs", "n3": "no measurement to other nodes"}),
    ],
)
def test_a_node_fails_that_is_slower_than_others_with_all_its_partners(tmp_path, changes, failed):
    for node, lines in (SPEEDS | changes).items():
        if lines is not None:
            (tmp_path / node).write_text(lines)
    found = bandwidth.find_failed(tmp_path, list(SPEEDS))
    assert found.keys() == failed.keys()
    assert all(found[node].startswith(reason) for node, reason in failed.items())


def test_no_node_is_left_out_where_many_fail(tmp_path, capsys):
    assert bandwidth.main(["--judge", str(tmp_path), "n0", "n1", "n2", "n3"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4 of 4 nodes fail" in captured.err


def test_two_processes_measure_their_bandwidth(tmp_path):
    run_on_ranks("measure_bandwidth", tmp_path, 2)
    for rank in (0, 1):
        assert 0 < bandwidth.read_speeds(tmp_path / f"n{rank}")[2] < 1000
    assert bandwidth.find_failed(tmp_path, ["n0", "n1"]).keys() == {"n0", "n1"}  # nobody measured a node by itself


def start_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.CompletedProcess[str]:
    set_variables(monkeypatch, **JOB)
    return subprocess.run([SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)


def num_requeued(scheduler: Path) -> int:
    path = scheduler / "requeue"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_job_gives_up_after_three_restarts_without_a_newer_checkpoint(scheduler, tmp_path, monkeypatch):
    write_programs(tmp_path / "bin", torchrun='echo "  exitcode  : 1 (pid: 9)" >&2; exit 1')
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
    write_programs(tmp_path / "bin", torchrun='echo "  exitcode  : 2 (pid: 9)" >&2; exit 1')
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
    set_variables(monkeypatch, **JOB, PORT="29541")
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
