"""A value that is refused takes nothing back: with --from no file of the stage, else no file of the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from killed import contents
from programs import words_of
from worldclip.cli import main
from worldclip.core import preflight
from worldclip.core.artifacts import MANIFEST

VOLATILE = (".lock", "log.txt", "run.json", "report.html")  # say when and how, not what
# (command, what it must say).  RUN: the run, OTHER: a run like it, POOL: its pool.
REFUSED = [
    ("pool RUN --image-field photo", "pool.image_field"),
    ("match RUN --merge-labels.nn no", "match.merge_labels.nn"),
    ("match RUN --merge-labels.xyz en --shards 1/2", "match.merge_labels.xyz"),
    ("curate RUN --exclude sw", "curate.exclude"),
    ("curate RUN --max-pairs 3 --shards 1/2", "--shards with curate.max_pairs"),
    ("train RUN --lr 0.5", "train.lr was 0.001, is 0.5"),
    ("evaluate RUN --folders.toy pool:POOL --datasets toy --languages sw", "evaluate.languages: no text in sw"),
    ("export RUN --languages xx", "export.languages"),
    ("export RUN --languages en --corpus nowhere.txt", "export.corpus"),
    ("run RUN --until curate --set curate.exclude=xx", "curate.exclude"),
    ("run RUN --until train --set curate.seed=7 --set train.beta2=0.5", "which are never overwritten"),
    ("run RUN --from pool --set pool.image_field=picture", "only Parquet files have columns of images"),
    ("run RUN --from metadata --set metadata.lists.en=no_such_list.txt", "no_such_list.txt"),
    ("run RUN --from match --set match.merge_labels.en=zz", "match.merge_labels.en"),
    ("run RUN --from match --set pool.valid_keys=no_such_keys.parquet", "no_such_keys.parquet"),
    ("run RUN --from balance --set balance.tail_fractions.zz=0.5", "zz"),
    ("run RUN --from curate --set curate.include=fr", "curate.include"),
    ("run RUN --from curate --set curate.write=parquet", "is no Parquet file"),
    ("run RUN --from train --set train.accum_steps=3", "must be a multiple of 3"),
    ("run RUN --from evaluate --set evaluate.languages=fr", "fr"),
    ("run RUN --from evaluate --set evaluate.datasets=no_such_dataset", "no_such_dataset"),
    ("run RUN --from export --set export.languages=zz", "zz"),
]


@pytest.fixture(scope="module")
def refusing_run(toy_run, tmp_path_factory) -> Path:
    """A run for all refused values; those that are refused late take the markers of later stages."""
    return shutil.copytree(toy_run, tmp_path_factory.mktemp("refusing") / "run")


@pytest.mark.parametrize(("command", "message"), REFUSED, ids=[command for command, _ in REFUSED])
def test_refused_value_removes_nothing(command, message, refusing_run, toy_run, toy_world, capfd):
    words = words_of(command, {"RUN": refusing_run, "OTHER": toy_run, "POOL": toy_world.pool})
    kept = refusing_run
    if "--from" in words:
        stage = words[words.index("--from") + 1]
        words += ["--until", stage]
        kept = refusing_run / stage
    before = contents(kept, VOLATILE)
    assert main(words) == 2
    assert message in capfd.readouterr().err
    assert contents(kept, VOLATILE) == before


def test_training_on_other_pairs_is_refused_before_its_result_is_taken_back(own_run, capfd):
    assert main(["curate", str(own_run), "--seed", "5"]) == 0
    before = contents(own_run, VOLATILE)
    assert main(["train", str(own_run)]) == 2
    error = capfd.readouterr().err
    assert "input.curate" in error
    assert "train  starts" not in error
    assert contents(own_run, VOLATILE) == before


@pytest.mark.parametrize("words", [["--formats", "open_clip"], ["--set", "export.formats=open_clip"]])
def test_flags_of_an_export_do_not_change_the_next_one(words, own_run, capfd):
    recipe = (own_run / "recipe.toml").read_bytes()
    assert main(["export", str(own_run), *words]) == 0
    assert (own_run / "export" / "open_clip").is_dir()
    assert (own_run / "recipe.toml").read_bytes() == recipe
    capfd.readouterr()
    assert main(["export", str(own_run), "--json"]) == 0
    assert '"formats": {"huggingface"' in capfd.readouterr().out
    assert (own_run / "export" / "open_clip").is_dir()


def test_checkpoints_stay_if_training_is_refused_after_stages_above_ran_again(own_run, capfd):
    before = contents(own_run / "train")
    changes = ["--from", "curate", "--until", "train", "--set", "train.accum_steps=3"]
    assert main(["run", str(own_run), *changes]) == 2
    assert "must be a multiple of 3" in capfd.readouterr().err
    after = contents(own_run / "train")
    assert before.keys() - after.keys() == {MANIFEST}  # what is above has run again
    assert all(before[name] == content for name, content in after.items())


def test_a_missing_package_is_named_before_a_finished_stage_is_taken_back(own_run, monkeypatch, capfd):
    before = contents(own_run / "export")
    monkeypatch.setattr(preflight, "is_installed", lambda module: module != "torch")
    assert main(["run", str(own_run), "--from", "export"]) == 2
    assert "export needs torch" in capfd.readouterr().err
    assert contents(own_run / "export") == before


def test_a_restart_of_training_that_is_refused_late_leaves_the_checkpoints_under_another_name(own_run, toy_run, capfd):
    before = contents(own_run / "train", VOLATILE)
    recipe = (own_run / "recipe.toml").read_bytes()
    refused = ["--set", f"train.initial_weights={toy_run}", "--set", "train.model.vision_width=64"]
    assert main(["run", str(own_run), "--from", "train", "--until", "train", *refused]) == 2
    error = capfd.readouterr().err
    assert "its architecture differs" in error
    assert f"the older one is now {own_run}/train.1" in error
    assert contents(own_run / "train.1", VOLATILE) == before
    assert (own_run / "recipe.toml").read_bytes() == recipe
