"""`--prepare`: everything before the first step on one machine; a listing that hashes only what moved."""

from __future__ import annotations

import pytest

from killed import modified
from small_world import make_recipe, write_world
from trainings import result_bytes, train
from worldclip.cli import main
from worldclip.core.artifacts import read_json, write_text
from worldclip.core.errors import UserError
from worldclip.core.settings import to_toml
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
