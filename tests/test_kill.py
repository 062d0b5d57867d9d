"""A run killed at any moment of match, balance or curate is finished by the same call, with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import killed
from plain_recipe import LISTS, make_recipe, make_shards, run_stages, write_metadata, write_pool
from stages import context
from worldclip import balance, curate, match
from worldclip.config import load_recipe
from worldclip.core.settings import to_toml

STAGES = ("match", "balance", "curate")

# Runs the stages as recipe.py does.
CODE = """
import sys
from pathlib import Path
from worldclip import balance, curate, match
from worldclip.config import load_recipe
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Run
from worldclip.recipe import sections_of

run = Path(sys.argv[2])
context = Run(dir=run, sections=sections_of(load_recipe(run)), executor=LocalExecutor(workers=1, quiet=True))
for stage in (match.match, balance.balance, curate.curate):
    stage(context)
"""


def read_bytes(run: Path) -> dict[str, bytes]:
    return {f"{stage}/{name}": data for stage in STAGES for name, data in killed.contents(run / stage).items()}


def finish(run: Path) -> int:
    """Run the stages to their end in this process; return the number of files that they write."""
    written = []
    replace = os.replace

    def counting_replace(source: Path, target: Path) -> None:
        if Path(target).is_relative_to(run):
            written.append(target)
        replace(source, target)

    started = context(load_recipe(run), run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", counting_replace)
        for stage in (match.match, balance.balance, curate.curate):
            stage(started)
    return len(written)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, dict[str, bytes], int]:
    """(pool, what an unbroken run leaves, number of files it writes)."""
    folder, run = tmp_path_factory.mktemp("pool"), tmp_path_factory.mktemp("whole")
    write_pool(folder, make_shards(seed=4, num_shards=3, num_samples=10))
    prepare(run, folder)
    num_files = finish(run)
    return folder, read_bytes(run), num_files


def prepare(run: Path, folder: Path) -> None:
    capped = {"max_pairs": 7, "write": "tars", "samples_per_tar": 5}
    recipe = make_recipe(folder, curate=capped)
    write_metadata(run, LISTS)
    run_stages(recipe, run, stages="pool")
    (run / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "kill_at", "when"),
    [
        ("match/texts", 2, "before"),
        ("match/done/counts", 2, "after"),
        ("match/report.json", 1, "before"),
        ("balance/en.npy", 1, "after"),
        ("balance/manifest.json", 1, "before"),
        ("curate/.work/caps", 1, "after"),
        ("curate/.work/counts", 2, "before"),
        ("curate/tars", 1, "after"),
        ("curate/manifest.json", 1, "before"),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(world, tmp_path, place, kill_at, when):
    folder, whole, num_files = world
    prepare(tmp_path, folder)
    assert killed.run(CODE, kill_at, tmp_path, place=place, when=when).returncode == -signal.SIGKILL
    assert finish(tmp_path) < num_files, "what was done is not done again"
    found = read_bytes(tmp_path)
    assert sorted(found) == sorted(whole)
    assert found == whole


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [2.0, 3.5, 5.0])
def test_workers_killed_with_their_parent_leave_nothing_half_done(world, tmp_path, delay_s):
    folder, whole, _ = world
    prepare(tmp_path, folder)
    code = CODE.replace("workers=1", "workers=2")
    child = subprocess.Popen([sys.executable, "-c", code, "0", str(tmp_path)], start_new_session=True)
    time.sleep(delay_s)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    finish(tmp_path)
    assert sorted(read_bytes(tmp_path)) == sorted(whole)
    assert read_bytes(tmp_path) == whole
