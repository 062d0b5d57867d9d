"""`worldclip status`: what each stage of a run has done, read from the run alone."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.core.job import RunLock
from worldclip.recipe import stage_names
from worldclip.tools.status import STAGES, holder, status


def test_stages_are_those_of_the_recipe():
    assert stage_names() == STAGES


def test_finished_run_has_counts_and_no_next_command(toy_run):
    record = status(toy_run)
    assert [row["state"] for row in record["stages"]] == ["finished"] * 8
    curated = json.loads((toy_run / "curate/manifest.json").read_text())["counts"]
    assert record["stages"][4]["counts"] == curated
    assert record["next"] is None
    assert record["in_use_by"] is None


def test_before_training_it_is_asked_what_it_takes(own_run):
    for stage in ("export", "evaluate", "train"):
        shutil.rmtree(own_run / stage)
    assert status(own_run)["next"] == f"worldclip train {own_run} --dry-run"
    shutil.rmtree(own_run / "curate")
    assert status(own_run)["next"] == f"worldclip run {own_run}"


def test_interrupted_stage_shows_its_finished_shards_and_the_next_command(own_run):
    for stage in ("match", "balance", "curate"):
        (own_run / stage / "manifest.json").unlink()
    shutil.rmtree(own_run / "balance")
    record = status(own_run)
    states = {row["stage"]: row["state"] for row in record["stages"]}
    assert (states["match"], states["balance"], states["curate"]) == ("unfinished", "not started", "unfinished")
    assert record["stages"][2]["counts"] == {"shards_finished": 3, "shards": 3}
    assert record["next"] == f"worldclip run {own_run}"


def test_holder_is_the_live_process_that_locked_the_run(tmp_path):
    with RunLock(tmp_path):
        assert holder(tmp_path) == f"process {os.getpid()}"
    assert holder(tmp_path) is None


def test_calls_that_shared_the_lock_hold_it_only_while_they_run(tmp_path):
    with RunLock(tmp_path, is_shared=True):
        assert holder(tmp_path) == "calls with --shards"
    assert holder(tmp_path) is None
    (tmp_path / ".lock").write_text(f"process {os.getpid()}")  # a number that another process has now
    assert holder(tmp_path) is None


@pytest.mark.parametrize("cut_line", ["", '{"step": 99'], ids=["whole log", "log that is being written"])
def test_interrupted_training_shows_its_last_logged_step(own_run, cut_line):
    (own_run / "train/manifest.json").unlink()
    log = own_run / "train/log.jsonl"
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    with open(log, "a") as file:
        file.write(cut_line)
    (train,) = (row for row in status(own_run)["stages"] if row["stage"] == "train")
    assert train["state"] == "unfinished"
    assert train["counts"]["step"] == step > 0
    assert step <= train["counts"]["steps"]


def test_a_training_whose_last_losses_are_not_finite_is_shown(own_run, capsys):
    (own_run / "train/manifest.json").unlink()
    log = own_run / "train/log.jsonl"
    log.write_text(json.dumps(json.loads(log.read_text().splitlines()[-1]) | {"loss": None}) + "\n")
    assert main(["status", str(own_run)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("train"))
    assert "unfinished" in line
    assert "of 20, loss not finite" in line
    assert main(["status", str(own_run), "--json"]) == 0
    (train,) = (row for row in json.loads(capsys.readouterr().out)["stages"] if row["stage"] == "train")
    assert train["counts"]["loss"] is None


def test_other_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a run: it holds no recipe\.toml"):
        status(tmp_path)
