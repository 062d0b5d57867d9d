"""A run of before markers, counts and caps moved to `.work` stays finished, or is resumed to the bytes of a new run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from killed import contents
from plain_recipe import make_recipe, make_run, make_shards
from stages import run_stage, why_run

CURATE = {"max_pairs": 7, "write": "tars", "samples_per_tar": 5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Path]:
    """(pool, run) of a finished run."""
    place = tmp_path_factory.mktemp("whole")
    run = make_run(place, make_shards(seed=4, num_shards=3, num_samples=10), curate=CURATE)
    return place / "pool", run


def copy_in_old_layout(run: Path, target: Path) -> Path:
    """Copy a run, with markers, counts and caps where they were beside the lists and tars, and without README.md."""
    shutil.copytree(run, target)
    for folder in (target / "curate", target / "curate" / "tars"):
        for path in (folder / ".work").iterdir():
            path.rename(folder / path.name)
        (folder / ".work").rmdir()
        (folder / "README.md").unlink()
    return target


def test_finished_run_stays_finished(whole, tmp_path):
    pool, run = whole
    old = copy_in_old_layout(run, tmp_path / "old")
    before = contents(old, ["README.md"])
    recipe = make_recipe(pool, curate=CURATE)
    assert why_run("curate", recipe, old) is None
    assert not run_stage("curate", recipe, old)
    assert contents(old, ["README.md"]) == before


INTERRUPTED = ("manifest.json", "part1/00001.tar.parquet", "done/part1/00001.tar.json", "tars/000001.tar")


@pytest.mark.parametrize("absent", [(), ("manifest.json",), INTERRUPTED])
def test_run_is_resumed_to_the_bytes_of_a_new_one(absent, whole, tmp_path):
    """absent: files that an interrupted run lacks; none: a finished run whose recipe changed."""
    pool, run = whole
    old = copy_in_old_layout(run, tmp_path / "old")
    for name in absent:
        (old / "curate" / name).unlink()
    if not absent:
        run_stage("curate", make_recipe(pool, curate=CURATE | {"max_pairs": 5}), old)
    run_stage("curate", make_recipe(pool, curate=CURATE), old)
    assert contents(old / "curate", ["README.md"]) == contents(run / "curate", ["README.md"])
    assert (old / "curate" / "README.md").exists()
