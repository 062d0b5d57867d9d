"""The section "Daily delivery" of docs/pool.md: its lines, in order, as they stand, on a lake that grows."""

import re
import shlex
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from killed import modified
from miniature import write_files
from pages import REPOSITORY
from pools import write_table
from worldclip.cli import main
from worldclip.core.artifacts import read_json

RECIPE = """
[pool]
path = "lake"
key = "uid"
[languages]
codes = ["en"]
[metadata]
lists = { en = "en.txt" }
[balance]
tail_fraction = 1.0
"""


def blocks() -> list[list[str]]:
    """Return the lines of each block of the section."""
    text = (REPOSITORY / "docs/pool.md").read_text(encoding="utf-8")
    section = text.partition("\n## Daily delivery\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [block.splitlines() for block in found]


def run_lines(lines: list[str]) -> None:
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "worldclip":
            assert main(words[1:]) == 0, line
        else:
            subprocess.run(line, shell=True, check=True)


def deliver(name: str, keys: list[str], text: str = "a red apple") -> None:
    write_table(Path("lake") / name, {"uid": keys, "text": [text] * len(keys)})


def kept() -> list[str]:
    keys: list[str] = []
    for path in sorted(Path("runs/lake/curate").rglob("*.parquet")):
        if "dropped" not in path.parts and ".work" not in path.parts:
            keys += pq.read_table(path)["key"].to_pylist()
    return keys


@pytest.fixture
def begun(tmp_path, monkeypatch) -> Path:
    """A working directory after the first block."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"en.txt": "red\napple\n", "lake.toml": RECIPE})
    deliver("2026-12-01/0.parquet", ["a", "b", "c"])
    deliver("2026-12-01/1.parquet", ["d", "a", "e"])
    run_lines(blocks()[0])
    return tmp_path


def test_a_delivery_is_deduplicated_and_only_its_files_are_read_and_matched(begun):
    assert kept() == ["a", "b", "c", "d", "e"]
    before = {**modified(Path("runs/lake/pool/pairs")), **modified(Path("runs/lake/match/texts"))}
    deliver("2026-12-02/0.parquet", ["f", "b", "g"])
    run_lines(blocks()[1])
    assert kept() == ["a", "b", "c", "d", "e", "f", "g"]
    assert read_json(Path("copies/report.json"))["copies"] == 2
    after = {**modified(Path("runs/lake/pool/pairs")), **modified(Path("runs/lake/match/texts"))}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2


def test_entries_of_the_pools_words_are_frozen_so_that_a_delivery_matches_only_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lake.toml").write_text(RECIPE.replace('lists = { en = "en.txt" }', 'sources = ["pool"]'))
    deliver("2026-12-01/0.parquet", ["a", "b", "c", "d", "e"])
    assert main(["run", "lake.toml", "--until", "curate"]) == 0
    texts = Path("runs/lake/match/texts")
    oldest = texts / "2026-12-01/0.parquet.parquet"
    before = modified(texts)
    deliver("2026-12-02/0.parquet", ["f", "g", "h", "i", "j"], "the green pear")
    assert main(["run", "runs/lake", "--until", "curate"]) == 0
    assert modified(texts)[oldest] > before[oldest]
    before = modified(texts)
    page = (REPOSITORY / "docs/scale.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"Freeze the entries.*?\n\n((?:    .*\n)+)", page)
    run_lines([line.strip() for line in block.splitlines()])
    deliver("2026-12-03/0.parquet", ["k", "l", "m", "n", "o"], "red pear in the blue boat")
    assert main(["run", "runs/lake", "--until", "curate"]) == 0
    assert before.items() <= modified(texts).items()
    assert kept() == list("abcdefghijklmno")
    unfreeze = ["--set", "metadata.lists=none", "--set", "metadata.sources=pool"]
    assert main(["run", "runs/lake", "--until", "curate", *unfreeze]) == 0
    assert modified(texts)[oldest] > before[oldest]


def test_keys_that_are_taken_down_are_gone_and_stay_gone_when_they_are_delivered_again(begun, capsys):
    Path("today.txt").write_text("b\nd\n")
    run_lines(blocks()[2])
    assert "today.txt, 2 keys: 2 gone\n" in capsys.readouterr().out
    deliver("2026-12-02/0.parquet", ["d", "f"])
    run_lines(blocks()[1])
    assert kept() == ["a", "c", "e", "f"]


def test_an_explorer_that_is_not_written_again_is_named(begun, capsys):
    lines = blocks()[2]
    (explore,) = (line for line in lines if line.startswith("worldclip explore"))
    run_lines([explore])
    Path("today.txt").write_text("b\nd\n")
    run_lines([line for line in lines if line != explore])
    said = capsys.readouterr().out
    assert "today.txt, 2 keys: 2 in older files\n" in said
    assert re.search(r"^explorer/data +2  worldclip explore runs/lake --out explorer$", said, re.MULTILINE)
