"""`worldclip run --from-run`: a branch reuses finished stages and leaves the run that it came from alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from killed import contents
from stages import QUIET
from worldclip.config import load_recipe
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.job import RunLock
from worldclip.recipe import run
from worldclip.tools import branch as branch_module
from worldclip.tools.branch import branch


def files_of(folder: Path) -> dict[str, bytes]:
    return contents(folder, without=[".lock"])


def test_branch_of_the_same_recipe_runs_nothing(toy_run, tmp_path):
    before = files_of(toy_run)
    run(str(toy_run), tmp_path / "b", from_run=toy_run, executor=QUIET)
    assert files_of(toy_run) == before
    assert {path: value for path, value in files_of(tmp_path / "b").items() if "/" in path} == {
        path: value for path, value in before.items() if "/" in path
    }
    shared = (tmp_path / "b/match/manifest.json", toy_run / "match/manifest.json")
    assert os.path.samefile(*shared)


def test_changed_key_reruns_its_stage_and_those_below_in_the_branch_alone(toy_run, toy_world, tmp_path, capsys):
    before = files_of(toy_run)
    changed = load_recipe(toy_run, ["balance.tail_fraction=0.15"])
    run(changed, tmp_path / "b", from_run=toy_run, until="curate", executor=QUIET)
    assert files_of(toy_run) == before
    said = capsys.readouterr().err
    for stage in ("pool", "metadata", "match"):
        assert f"{stage}  is finished and unchanged" in said
    assert "balance  starts (balance.tail_fraction was" in said
    assert not (tmp_path / "b/train").exists()
    alone = run(changed, tmp_path / "alone", until="curate", executor=QUIET)
    curated = {path: value for path, value in files_of(alone / "curate").items() if path.endswith(".parquet")}
    assert curated.items() <= files_of(tmp_path / "b/curate").items()


def test_a_branch_trains_in_the_precision_of_the_run_that_it_comes_from(toy_run, tmp_path, monkeypatch):
    monkeypatch.setattr("worldclip.train.stage.bf16_hardware", lambda device: "")
    source = Path(shutil.copytree(toy_run, tmp_path / "source"))
    config = artifacts.read_json(source / "train/config.json")
    artifacts.write_json(
        source / "train/config.json", config | {"schedule": config["schedule"] | {"precision": "bf16"}}
    )
    overrides = ["train.precision=auto", "train.samples_seen=64", "train.warmup_samples=0"]
    first = run(load_recipe(toy_run, overrides), tmp_path / "first", from_run=source, until="curate", executor=QUIET)
    second = run(load_recipe(toy_run, overrides), tmp_path / "second", from_run=first, until="train", executor=QUIET)
    schedule = artifacts.read_json(second / "train/config.json")["schedule"]
    assert (schedule["precision"], schedule["precision_by"]) == ("bf16", "--from-run")
    assert load_recipe(second).train.precision == "auto", "a recipe of another precision is another arm of a comparison"


def test_branch_with_another_pool_links_all_but_its_index(toy_run, toy_world, tmp_path, capsys):
    pool = shutil.copytree(toy_world.folder / "pool", tmp_path / "pool")
    next(pool.iterdir()).unlink()
    changed = load_recipe(toy_run, [f"pool.path={pool}"])
    run(changed, tmp_path / "b", from_run=toy_run, until="metadata", executor=QUIET)
    said = capsys.readouterr().err
    assert "pool  starts (new)" in said
    assert "metadata  is finished and unchanged" in said


def test_files_that_grow_are_copied(toy_run, tmp_path):
    branch(toy_run, tmp_path / "b", ["train", "evaluate"])
    for name in ("train/log.jsonl", "evaluate/results.jsonl"):
        assert (tmp_path / "b" / name).read_bytes() == (toy_run / name).read_bytes()
        assert not os.path.samefile(tmp_path / "b" / name, toy_run / name)


def test_without_hard_links_files_are_copied(toy_run, tmp_path, monkeypatch):
    def refuse(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(branch_module.os, "link", refuse)
    assert branch(toy_run, tmp_path / "b", ["pool"]) == ["pool"]
    assert files_of(tmp_path / "b/pool") == files_of(toy_run / "pool")


def test_unfinished_stages_and_leftovers_of_a_killed_branch_are_not_taken(toy_run, tmp_path):
    source = Path(shutil.copytree(toy_run, tmp_path / "source"))
    (source / "match/manifest.json").unlink()
    (tmp_path / "b/.pool.tmp").mkdir(parents=True)
    (tmp_path / "b/.pool.tmp/half").write_text("")
    assert branch(source, tmp_path / "b", ["pool", "match"]) == ["pool"]
    assert not (tmp_path / "b/pool/half").exists()


def test_wrong_sources_are_refused(toy_run, tmp_path):
    with pytest.raises(UserError, match=r"holds no recipe\.toml"):
        branch(tmp_path, tmp_path / "b", ["pool"])
    with pytest.raises(UserError, match="is the run itself"):
        branch(toy_run, toy_run, ["pool"])
    with RunLock(toy_run), pytest.raises(UserError, match="is in use by process"):
        branch(toy_run, tmp_path / "b", ["pool"])
