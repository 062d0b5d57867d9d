"""`--prepare`: everything before the first step on one machine; a listing that hashes only what moved."""

from __future__ import annotations

import os
import shutil
import time

import pyarrow.parquet as pq
import pytest

from calls import before
from killed import modified
from small_world import make_recipe, write_world
from trainings import result_bytes, train
from worldclip import pool
from worldclip.cli import main
from worldclip.core import inputs
from worldclip.core.artifacts import read_json, write_text
from worldclip.core.errors import UserError
from worldclip.core.execute import shard_list
from worldclip.core.execute.shard_list import write_stamps
from worldclip.core.settings import to_toml
from worldclip.pool import shard_files
from worldclip.train import loop, pairs

SCALED = {"scale": {"english_samples_seen": 50, "english_batch_size": 9, "english_fraction": 0.5}}


@pytest.fixture
def run_dir(tmp_path):
    tars = write_world(tmp_path / "run")
    write_text(tmp_path / "run/recipe.toml", to_toml(make_recipe(tars, warmup_samples=9, **SCALED)))
    return tmp_path / "run"


def test_preparing_takes_no_step_and_fixes_no_batch(run_dir, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "launch_step", None)
        assert main(["train", str(run_dir), "--prepare"]) == 0
    record = read_json(run_dir / "train/config.json")
    assert record["schedule"] is None
    made = modified(run_dir / "train/tokenizer")
    assert made
    assert len(list((run_dir / "train/epochs").rglob("*.npy"))) == 1
    assert not (run_dir / "train/manifest.json").exists()
    assert "prepare = false" in (run_dir / "recipe.toml").read_text()
    with monkeypatch.context() as patch:  # the start reads what was prepared
        patch.setattr(pairs.PairSource, "_count", None)
        assert main(["train", str(run_dir)]) == 0
    assert modified(run_dir / "train/tokenizer") == made
    assert read_json(run_dir / "train/config.json")["schedule"]["global_batch_size"] == 18
    assert main(["train", str(run_dir), "--prepare"]) == 0  # of a finished run: nothing


def test_a_prepared_run_ends_with_the_weights_of_another(tmp_path):
    run_dirs = [tmp_path / name / "run" for name in ("prepared", "plain")]
    with pytest.raises(KeyError):  # no report: no stage has run
        train(run_dirs[0], prepare=True, samples_seen=64)
    for run_dir in run_dirs:
        train(run_dir, samples_seen=64)
    assert result_bytes(run_dirs[0]) == result_bytes(run_dirs[1])


def test_preparing_under_torchrun_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="one process prepares for all; run it without torchrun"):
        train(tmp_path / "run", prepare=True)


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed from now on."""
    inputs._fingerprint_local.cache_clear()
    monkeypatch.setattr(shard_files, "_recent", {})
    monkeypatch.setattr(shard_files, "_records", {})
    names = []
    before(monkeypatch.setattr, inputs, "fingerprint", lambda path, root: names.append(path.name))
    return names


def test_a_listing_hashes_only_files_whose_stamps_moved(tmp_path, hashed, monkeypatch):
    tars = write_world(tmp_path / "run")
    old = time.time() - 100
    first = pool.list_shards(make_recipe(tars).pool)
    assert sorted(hashed) == ["000.tar", "001.tar", "002.tar"]
    monkeypatch.setattr(shard_list, "SETTLED_NS", -(10**9))  # the test has just written them
    write_stamps(tmp_path / "stamps.parquet", first)
    (tars / "001.tar").touch()
    shutil.copy(tars / "000.tar", tars / "other")
    os.replace(tars / "other", tars / "002.tar")
    os.utime(tars / "002.tar", (old, old))
    inputs._fingerprint_local.cache_clear()  # as in another process
    shard_files._recent.clear()
    hashed.clear()
    pool.recall_shards(tmp_path / "stamps.parquet")
    again = pool.list_shards(make_recipe(tars).pool)
    assert sorted(hashed) == ["001.tar", "002.tar"]
    assert [shard.fingerprint for shard in again[:2]] == [shard.fingerprint for shard in first[:2]]
    assert again[2].fingerprint != first[2].fingerprint


def test_a_file_that_has_just_changed_is_hashed_again(tmp_path, hashed):
    tars = write_world(tmp_path / "run")
    write_stamps(tmp_path / "stamps.parquet", pool.list_shards(make_recipe(tars).pool))
    assert pq.read_metadata(tmp_path / "stamps.parquet").num_rows == 0
