"""What a person reads of a curation, whole: a change that nobody thought of shows in the diff.

After a change that is meant: pytest tests/test_approved.py --snapshot-update, then read the diff of __snapshots__.
"""

import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from approved import masked, shown
from plain_recipe import LISTS, make_shards, write_pool
from pools import write_table
from worldclip.cli import main
from worldclip.tools.estimate import estimate, to_text

RECIPE = """
[pool]
path = "POOL"
texts = ["json:alt", "json:caption"]
text_weights = [1.0, 3.0]
deny_keys = ["FOLDER/denied.parquet", "FOLDER/takedown.txt"]
[languages]
codes = ["en", "ar", "th", "zh"]
[metadata.lists]
LISTS
[match]
min_lang_prob = 0.2
merge_labels = {ru = "en"}
[balance]
tail_fraction = 0.05
tail_fractions = {th = 0.4}
[curate]
text_policy = "one"
exclude = ["ar"]
max_pairs = {zh = 2}
"""


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pool of three shards of 5, 40 and 17 samples, some bad, repeated, denied or without a text, and its recipe."""
    folder = tmp_path_factory.mktemp("approved")
    sizes = {0: 5, 1: 40, 2: 17}
    shards = {}
    for number, size in sizes.items():
        ((_, samples),) = make_shards(seed=number, num_shards=1, num_samples=size).items()
        named = [(key.replace("s0", f"s{number}"), texts) for key, texts in reversed(samples)]
        shards[f"part{number % 2}/{number:05}.tar"] = named
    write_pool(folder / "pool", shards, by_place=True)
    write_table(folder / "denied.parquet", {"key": pa.array(["part1/s1_003", "part1/s1_004", "part0/s2_001"])})
    (folder / "takedown.txt").write_text("part0/s0_001\npart1/s1_030\n")
    for name, entries in LISTS.items():
        (folder / f"{name}.txt").write_text("".join(f"{entry}\n" for entry in entries))
    lists = "".join(f'{name} = "FOLDER/{name}.txt"\n' for name in LISTS)
    recipe = RECIPE.replace("LISTS", lists).replace("POOL", str(folder / "pool")).replace("FOLDER", str(folder))
    (folder / "recipe.toml").write_text(recipe)
    return folder


@pytest.fixture(scope="module")
def run_dir(folder) -> Path:
    run_dir = folder / "run"
    assert main(["run", str(folder / "recipe.toml"), "--out", str(run_dir), "--until", "curate"]) == 0
    other = ["--out", str(folder / "other"), "--set", "balance.tail_fraction=0.3", "--set", "curate.seed=1"]
    other += ["--set", "curate.write=tars", "--set", "curate.samples_per_tar=5"]
    assert main(["run", str(folder / "recipe.toml"), "--until", "curate", *other]) == 0
    return run_dir


def test_page_of_a_run(run_dir, folder, snapshot):
    assert masked(shown((run_dir / "report.html").read_text(encoding="utf-8")), FOLDER=folder) == snapshot


def test_data_card(run_dir, folder, snapshot):
    assert masked((run_dir / "curate" / "DATA_CARD.md").read_text(encoding="utf-8"), FOLDER=folder) == snapshot


def test_curated_tars(run_dir, folder, snapshot):
    lines = []
    for path in sorted((folder / "other/curate/tars").glob("*.tar")):
        with tarfile.open(path) as tar:
            lines += [f"{path.name} {member.name} {tar.extractfile(member).read().decode()}" for member in tar]
    assert "\n".join(lines) == snapshot


COMMANDS = {
    "a key that is kept": "inspect RUN --key part1/s1_012",
    "a key that is denied": "inspect RUN --key part1/s1_003",
    "a repeated key": "inspect RUN --key part0/s2_012",
    "a capped key": "inspect RUN --key part0/s2_003",
    "an entry": "inspect RUN --entry house",
    "status": "status RUN",
    "taken down": "status RUN --keys FOLDER/takedown.txt",
    "other fractions": "estimate RUN --tail-fraction 0.01,0.05,0.3",
    "another curation": "compare RUN FOLDER/other",
    "a recipe for the pool": "init POOL --out FOLDER/drafted.toml",
    "what would be published": "publish RUN me/pairs --dry-run",
    "copies": "pool dedup FOLDER/recipe.toml --out FOLDER/copies",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_output_of_commands(name, run_dir, folder, capsys, snapshot):
    places = {"RUN": run_dir, "FOLDER": folder, "POOL": folder / "pool"}
    words = [re.sub("^(RUN|FOLDER|POOL)", lambda found: str(places[found[1]]), word) for word in COMMANDS[name].split()]
    code = main(words)
    output = capsys.readouterr()
    assert masked(f"exit code {code}\n{output.out}\n{output.err}", RUN=run_dir, FOLDER=folder) == snapshot


def test_data_of_the_explorer(run_dir, folder, snapshot):
    assert main(["explore", str(run_dir), "--out", str(folder / "explorer")]) == 0
    data = folder / "explorer/data"
    parts = []
    for path in sorted(data.rglob("*.js")):
        if path.name != "profile.js":  # classes of all characters
            content = path.read_text(encoding="utf-8")
            parts.append(f"{path.relative_to(data).as_posix()}\n" + content.replace(",[", ",\n["))
    assert masked("\n".join(parts), FOLDER=folder) == snapshot


def test_estimate_of_more_languages_than_are_named(run_dir, snapshot):
    assert masked(to_text(estimate(run_dir), num_languages=2)) == snapshot


def test_status_of_a_stage_that_is_done_in_part(run_dir, folder, capsys, snapshot):
    part = folder / "part"
    recipe = str(folder / "recipe.toml")
    assert main(["run", recipe, "--out", str(part), "--until", "metadata"]) == 0
    assert main(["match", recipe, "--out", str(part), "--shards", "2/3"]) == 0
    capsys.readouterr()
    assert main(["status", str(part)]) == 0
    assert masked(capsys.readouterr().out, RUN=part) == snapshot
