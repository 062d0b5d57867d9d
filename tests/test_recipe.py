"""The recipe as a whole: finished once is finished, killed anywhere it goes on to the same bytes, bad input costs only
itself.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import killed
import worldclip
from killed import contents, digests_of_curation
from stages import QUIET
from worldclip.cli import main
from worldclip.config import load_recipe

CURATION = ("pool", "metadata", "match", "balance", "curate")


def curate(recipe: Path, out: Path) -> dict[str, str]:
    """Run a recipe until curate; return the digests of what it leaves."""
    return digests_of_curation(worldclip.run(str(recipe), out=out, until="curate"))


def test_the_recipe_runs_to_an_export_and_a_report(toy_run):
    for stage in (*CURATION, "train", "evaluate", "export"):
        assert (toy_run / stage / "manifest.json").exists(), stage
    page = (toy_run / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert not re.search(r'(src|href)="https?://[^"]+\.(js|css|png|svg)"', page)
    assert load_recipe(toy_run).languages.codes == ("en", "ar", "th", "zh")


def test_a_finished_run_does_nothing_and_says_so(toy_run, capfd):
    before = killed.modified(toy_run, "*.parquet")
    assert main(["run", str(toy_run)]) == 0
    assert capfd.readouterr().err.count("is finished and unchanged") == 8
    assert before == killed.modified(toy_run, "*.parquet")


def start_two_workers(recipe: Path, out: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "worldclip", "run", str(recipe), "--out", str(out), "--until", "curate"]
    command += ["--workers", "2"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [2.0, 3.5, 5.0])
def test_workers_killed_with_their_parent_leave_nothing_half_done(toy_world, curated, tmp_path, delay_s):
    process = start_two_workers(toy_world.recipe, tmp_path / "run")
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert curate(toy_world.recipe, tmp_path / "run") == curated


def test_a_new_shard_runs_alone(toy_world, tmp_path):
    pool = shutil.copytree(toy_world.pool, tmp_path / "pool")
    recipe = tmp_path / "toy.toml"
    recipe.write_text(toy_world.recipe.read_text().replace(str(toy_world.pool), str(pool)))
    run_dir = worldclip.run(str(recipe), out=tmp_path / "run", until="curate")
    old = killed.modified(run_dir / "pool", "0*.parquet") | killed.modified(run_dir / "match", "0*.parquet")
    (pool / "00003.tar").write_bytes((pool / "00001.tar").read_bytes())
    worldclip.run(str(recipe), out=run_dir, until="curate")
    assert len(old) == 15
    assert old.items() <= killed.modified(run_dir).items()
    assert (run_dir / "curate" / "00003.tar.parquet").exists()
    (pool / "00003.tar").unlink()
    worldclip.run(str(recipe), out=run_dir, until="curate")
    assert not list(run_dir.rglob("00003.tar*"))


@pytest.mark.parametrize(
    ("number", "send", "code"),
    [
        (signal.SIGINT, os.killpg, 130),  # a terminal: to all processes
        pytest.param(signal.SIGTERM, os.killpg, 143, marks=pytest.mark.slow),  # Slurm
        (signal.SIGTERM, os.kill, 143),  # docker: only to the first process
    ],
)
def test_an_interrupted_run_says_so_and_the_next_call_resumes(number, send, code, toy_world, curated, tmp_path):
    worldclip.run(str(toy_world.recipe), out=tmp_path / "run", until="pool", executor=QUIET)
    process = start_two_workers(
        toy_world.recipe,
        tmp_path / "run",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    for _ in range(2000):
        if (tmp_path / "run" / "metadata").exists():
            break
        time.sleep(0.01)
    time.sleep(0.3)  # the workers of metadata are importing
    send(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert "leaked" not in said
    assert "interrupted; rerun the same command to resume" in said
    assert curate(toy_world.recipe, tmp_path / "run") == curated


def test_another_formula_of_balance_is_followed_by_curate_after_from(curated_run, curated, tmp_path, monkeypatch):
    """The shards of curate that are done name the old probabilities."""
    run_dir = shutil.copytree(curated_run, tmp_path / "run")
    monkeypatch.setattr(
        "worldclip.balance.stage.entry_probs", lambda counts, threshold: np.full(len(counts), 0.5, np.float32)
    )
    assert main(["run", str(run_dir), "--from", "balance", "--until", "curate"]) == 0
    total = json.loads((run_dir / "curate/report.json").read_text())["total"]
    assert total["sampled_out"] > 0
    assert digests_of_curation(run_dir) != curated
    shutil.rmtree(run_dir / "balance")
    shutil.copytree(curated_run / "balance", run_dir / "balance")  # a backup of other bytes with the same config
    assert main(["run", str(run_dir), "--until", "curate"]) == 0
    assert digests_of_curation(run_dir) == curated


def test_a_refused_value_is_not_met_again_by_the_next_call(toy_world, curated_run, tmp_path, capfd):
    older = shutil.copytree(curated_run, tmp_path / "older")
    for source, out in ((older, older), (toy_world.recipe, tmp_path / "new")):
        command = ["run", str(source), "--out", str(out), "--until", "curate", "--set", "match.fold_case=true"]
        assert main([*command, "--set", "curate.exclude=sw", "--set", "train.seed=7"]) == 2
        said = capfd.readouterr().err
        assert "curate.exclude: 'sw' is not a language of this run" in said
        assert f"stopped; {out}/recipe.toml does not keep curate.exclude, train.seed" in said
        recipe = load_recipe(out)
        assert (recipe.match.fold_case, recipe.curate.exclude, recipe.train.seed) == (True, (), 0)
        assert main(["run", str(out), "--until", "curate"]) == 0
        assert "match  is finished and unchanged" in capfd.readouterr().err


@pytest.mark.parametrize(("command", "first", "last"), [("run", "pool", "export"), ("train", "train", "train")])
def test_a_dry_run_prints_why_each_stage_would_run_as_json(command, first, last, toy_world, tmp_path, capfd):
    run_dir = tmp_path / "run"
    assert main([command, str(toy_world.recipe), "--out", str(run_dir), "--dry-run", "--json"]) == 0
    planned = json.loads(capfd.readouterr().out)
    assert planned["run"] == str(run_dir)
    stages = list(planned["stages"])
    assert (stages[0], stages[-1]) == (first, last)
    assert (planned["stages"][first] | {"plan": []}) == {"would_run": True, "reason": "new", "plan": [], "problems": []}
    assert any(line.startswith("model ") for line in planned["stages"]["train"]["plan"])
    assert not run_dir.exists()


@pytest.mark.parametrize(
    "command",
    [
        "run RUN --set train.beta2=0.5",
        "train RUN --beta2 0.5",
        "run RUN --set balance.tail_fraction=0.15",
        "run RUN --set train.device=cuda --from train",
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(command, own_run, capfd, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [str(own_run) if word == "RUN" else word for word in command.split()]
    before = contents(own_run / "train")
    said = []
    for flags in (["--dry-run"], []):
        assert main([*words, *flags]) == 2
        said.append(capfd.readouterr().err)
        assert contents(own_run / "train") == before
    refused = "train.device = 'cuda': not available" if "cuda" in command else "has checkpoints from before this change"
    assert all(refused in text for text in said)


@pytest.mark.parametrize(
    ("lr", "until", "is_said"), [("75", "train", True), ("0.01", "train", False), ("75", "curate", False)]
)
def test_a_learning_rate_that_is_probably_a_typing_error_is_said_before_the_work(
    lr, until, is_said, toy_world, tmp_path, capfd
):
    out = ["--out", str(tmp_path / "run"), "--dry-run", "--until", until]
    assert main(["run", str(toy_world.recipe), *out, "--set", f"train.lr={lr}"]) == 0
    assert (f"warning: train.lr = {lr} is unusually large" in capfd.readouterr().err) is is_said


def test_a_stage_prints_its_report_as_json(curated_run, tmp_path, capfd):
    run_dir = shutil.copytree(curated_run, tmp_path / "run")
    assert main(["curate", str(run_dir), "--json"]) == 0
    assert set(json.loads(capfd.readouterr().out)["stages"]) == {"curate"}
