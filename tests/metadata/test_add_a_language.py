"""examples/add_a_language: its row, its recipe and its commands, on a copy of the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "add_a_language"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder beside a copy of the package that has the row at its place."""
    folder = tmp_path_factory.mktemp("add_a_language")
    shutil.copytree(REPOSITORY / "src/worldclip", folder / "src/worldclip")  # with numba's cache, by times of files
    table = folder / "src/worldclip/language/table.csv"
    head, *rows = table.read_text(encoding="utf-8").splitlines()
    row = (EXAMPLE / "language.csv").read_text(encoding="utf-8").strip()
    table.write_text("\n".join([head, *sorted([*rows, row])]) + "\n", encoding="utf-8")
    shutil.copytree(EXAMPLE, folder / "example", ignore=shutil.ignore_patterns("run"))
    return folder


def run(place: Path, *arguments: str) -> str:
    answer = subprocess.run(
        [sys.executable, *arguments],
        cwd=place / "example",
        env={**os.environ, "PYTHONPATH": str(place / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_row_and_commands_of_readme_work(place: Path) -> None:
    answer = run(
        place, "-c", "from worldclip import languages as l; print(l.from_lid('kea_Latn', 'openlid'), l.get('kea').code)"
    )
    assert answer.split() == ["kea", "kea"]
    run(place, "-m", "worldclip", "metadata", "recipe.toml", "--out", "run", "--workers", "1")
    assert "Kabuverdianu" in run(place, "-m", "worldclip", "inspect", "run/metadata")
    record = json.loads(
        run(place, "-m", "worldclip", "inspect", "run/metadata", "--lang", "kea", "--find", "piskador", "--json")
    )
    assert (record["source"], record["score"], record["holding"]) == ("list", 6.0, ["piskador na mar"])
    assert "CC0 1.0: kea" in run(place, "-m", "worldclip", "pack", "run", "--out", "kea.tar")


def test_readme_shows_the_row_and_words_are_one_list() -> None:
    row = (EXAMPLE / "language.csv").read_text(encoding="utf-8").strip()
    assert row in (EXAMPLE / "README.md").read_text(encoding="utf-8")
    head = (REPOSITORY / "src/worldclip/language/table.csv").read_text(encoding="utf-8").splitlines()[0]
    assert row.count(",") == head.count(",")
    words = [line.split("\t")[0] for line in (EXAMPLE / "words.txt").read_text(encoding="utf-8").splitlines()]
    assert len(words) == len(set(words)) == 50
