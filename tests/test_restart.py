"""--from STAGE with a value that is refused leaves the older result of that stage as it was."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import worldclip
from killed import contents
from stages import QUIET
from worldclip.core import preflight
from worldclip.core.artifacts import MANIFEST
from worldclip.core.errors import UserError

REFUSED = [
    ("pool", "pool.image_field", "picture", "only Parquet files have columns of images"),
    ("metadata", "metadata.lists.en", "no_such_list.txt", "no_such_list.txt"),
    ("match", "match.merge_labels.en", "zz", "match.merge_labels.en"),
    ("match", "pool.valid_keys", "no_such_keys.parquet", "no_such_keys.parquet"),
    ("balance", "balance.tail_fractions.zz", 0.5, "zz"),
    ("curate", "curate.include", ["fr"], "curate.include"),
    ("curate", "curate.write", "parquet", "is no Parquet file"),
    ("train", "train.accum_steps", 3, "must be a multiple of 3"),
    ("train", "train.initial_weights", "RUN", "its architecture differs"),
    ("train", "train.validation_shards", 99, "the pool has only 3 shards"),
    ("train", "train.tokenizer.path", "/no_such_folder/tokenizer", "/no_such_folder/tokenizer"),
    ("evaluate", "evaluate.languages", ["fr"], "fr"),
    ("evaluate", "evaluate.datasets", ["no_such_dataset"], "no_such_dataset"),
    ("export", "export.languages", ["zz"], "zz"),
]


def restart(run_dir: Path, stage: str | None, until: str | None = None, changes: Sequence[str] = ()) -> None:
    worldclip.run(str(run_dir), out=run_dir, from_stage=stage, until=until, overrides=changes, executor=QUIET)


@pytest.fixture(scope="module")
def run_dir(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(toy_run, tmp_path_factory.mktemp("restarted") / "run")


@pytest.mark.parametrize(("stage", "key", "value", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_a_refused_value_removes_nothing(run_dir, toy_run, stage, key, value, message):
    before = contents(run_dir / stage)
    changes = [f"{key}={value!r}".replace("'RUN'", f"'{toy_run}'")]
    if value == "RUN":
        changes.append("train.model.vision_width=64")
    with pytest.raises(UserError, match=message):
        restart(run_dir, stage, stage, changes)
    assert contents(run_dir / stage) == before
    assert not list(run_dir.glob(".*set_aside"))


def test_checkpoints_stay_if_training_is_refused_after_stages_above_ran_again(run_dir):
    before = contents(run_dir / "train")
    with pytest.raises(UserError, match="must be a multiple of 3"):
        restart(run_dir, "curate", "train", ["train.accum_steps=3"])
    after = contents(run_dir / "train")
    assert before.keys() - after.keys() == {MANIFEST}  # what is above has run again
    assert all(before[name] == content for name, content in after.items())


def test_a_missing_package_is_named_before_a_finished_stage_is_taken_back(toy_run, tmp_path, monkeypatch):
    run_dir = shutil.copytree(toy_run, tmp_path / "run")
    before = contents(run_dir / "export")
    monkeypatch.setattr(preflight, "is_installed", lambda module: module != "torch")
    with pytest.raises(UserError, match="export needs torch"):
        restart(run_dir, "export")
    assert contents(run_dir / "export") == before


def test_a_restart_of_training_that_is_killed_before_its_first_step_leaves_the_checkpoints(
    toy_run, tmp_path, monkeypatch
):
    run_dir = shutil.copytree(toy_run, tmp_path / "run")
    before = contents(run_dir / "train")

    class Killed(BaseException):
        """Stands for SIGKILL, after which nothing is put back."""

    def be_killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("worldclip.train.loop.create_train_state", be_killed)
        with pytest.raises(Killed):
            restart(run_dir, "train", "train")
    assert (run_dir / ".train.set_aside").exists()
    restart(run_dir, None, "train")
    assert contents(run_dir / "train") == before
    assert not (run_dir / ".train.set_aside").exists()
