"""A value that a finished stage refuses takes nothing back: neither the stage's result nor the run's recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from worldclip.cli import main
from worldclip.core.artifacts import MANIFEST


def state_of(run_dir: Path) -> Mapping[str, bytes]:
    files = [*run_dir.glob(f"*/{MANIFEST}"), run_dir / "recipe.toml"]
    return {file.relative_to(run_dir).as_posix(): file.read_bytes() for file in files}


REFUSED = [
    ("pool", "--image-field photo", "pool.image_field"),
    ("match", "--merge-labels nn no", "match.merge_labels.nn"),
    ("match", "--merge-labels xyz en --shards 1/2", "match.merge_labels.xyz"),
    ("balance", "--set balance.tail_fraction=none --rule table --thresholds en 3", "balance.thresholds"),
    ("curate", "--exclude sw", "curate.exclude"),
    ("curate", "--max-pairs 3 --shards 1/2", "--shards with curate.max_pairs"),
    ("train", "--lr 0.5", "train.lr was 0.001, is 0.5"),
    ("evaluate", "--folders toy pool:{pool} --datasets toy --languages sw", "evaluate.languages: no text in sw"),
    ("export", "--languages xx", "export.languages"),
    ("export", "--languages en --corpus nowhere.txt", "export.corpus"),
    ("run", "--until curate --set curate.exclude=xx", "curate.exclude"),
    ("run", "--until train --set curate.seed=7 --set train.lr=0.5", "which are never overwritten"),
]


@pytest.mark.parametrize(
    ("stage", "words", "message"), REFUSED, ids=[f"{stage} {words}" for stage, words, _ in REFUSED]
)
def test_refused_value_leaves_the_stage_finished(stage, words, message, own_run, toy_world, capfd):
    before = state_of(own_run)
    arguments = words.format(pool=toy_world.pool).split()
    assert main([stage, str(own_run), *arguments]) == 2
    assert message in capfd.readouterr().err
    assert state_of(own_run) == before


def test_training_on_other_pairs_is_refused_before_its_result_is_taken_back(own_run, capfd):
    assert main(["curate", str(own_run), "--seed", "5"]) == 0
    before = state_of(own_run)
    assert main(["train", str(own_run)]) == 2
    error = capfd.readouterr().err
    assert "input.curate" in error
    assert "train  starts" not in error
    assert state_of(own_run) == before


@pytest.mark.parametrize("words", [["--tower", "vision"], ["--set", "export.tower=vision"]])
def test_flags_of_an_export_do_not_change_the_next_one(words, own_run, capfd):
    recipe = (own_run / "recipe.toml").read_bytes()
    assert main(["export", str(own_run), *words]) == 0
    assert (own_run / "export" / "vision").is_dir()
    assert (own_run / "recipe.toml").read_bytes() == recipe
    capfd.readouterr()
    assert main(["export", str(own_run), "--json"]) == 0
    assert '"formats": {"huggingface"' in capfd.readouterr().out
    assert (own_run / "export" / "vision").is_dir()
