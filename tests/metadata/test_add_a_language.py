"""examples/add_a_language: its recipe, its commands, and its row in the table."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pyarrow.compute as pc

import entry_lists
from entry_lists import build, write_lists, write_texts
from programs import python
from worldclip.config import load_recipe
from worldclip.metadata.stage import read_entries

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "add_a_language"
ROW = (EXAMPLE / "language.csv").read_text(encoding="utf-8").strip()
TABLE = (REPOSITORY / "src/worldclip/language/table.csv").read_text(encoding="utf-8")


def run(place: Path, *arguments: str, source: Path = REPOSITORY / "src") -> str:
    return python(*arguments, cwd=place, PYTHONPATH=str(source))


def test_recipe_and_commands_of_readme_work(tmp_path: Path) -> None:
    place = tmp_path / "example"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("run"))
    run(place, "-m", "worldclip", "metadata", "recipe.toml", "--out", "run", "--workers", "1")
    entries = read_entries(place / "run", "kea")
    row = entries.filter(pc.equal(entries["entry"], "piskador")).to_pylist()[0]
    assert (row["source"], row["score"]) == ("list", 6.0)


def test_row_in_the_table_adds_it_for_all_recipes(tmp_path: Path) -> None:
    package = tmp_path / "src/worldclip"
    (package / "language").mkdir(parents=True)
    for name in ("__init__.py", "language/__init__.py", "language/table.py", "core"):
        source = REPOSITORY / "src/worldclip" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, package / name)
    head, *rows = TABLE.splitlines()
    table = "\n".join([head, *sorted([*rows, ROW])]) + "\n"
    (package / "language/table.csv").write_text(table, encoding="utf-8")
    code = "from worldclip import languages as l; print(l.from_lid('kea_Latn', 'openlid'), l.get('kea').code)"
    assert run(tmp_path, "-c", code, source=tmp_path / "src").split() == ["kea", "kea"]


def test_readme_recipe_and_table_have_one_row_and_words_are_one_list() -> None:
    assert ROW in (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert ROW.count(",") == TABLE.splitlines()[0].count(",")
    (row,) = csv.DictReader([TABLE.splitlines()[0], ROW])
    added = load_recipe(EXAMPLE / "recipe.toml", ["pool.path=."]).languages.add["kea"].row("kea")
    names = ("code", "name", "script", "family", "words")
    assert [row[name] for name in names] == [getattr(added, name) for name in names]
    assert tuple(row["iso639_3"].split()) == added.iso639_3
    words = [line.split("\t")[0] for line in (EXAMPLE / "words.txt").read_text(encoding="utf-8").splitlines()]
    assert len(words) == len(set(words)) == 50


def test_language_without_a_wikipedia_needs_no_text_of_one(tmp_path: Path) -> None:
    write_texts(tmp_path / "dumps/sw/a.parquet", "simba ni mnyama")
    added = {"kea": {"name": "Kabuverdianu", "script": "Latn", "iso639_3": ["kea"]}}
    lists = write_lists(tmp_path, kea=["gatu"])
    config = {"sources": ["unigram"], "dumps": str(tmp_path / "dumps")}
    loaded = entry_lists.recipe(["kea", "sw"], {"languages": {"add": added}}, lists=lists, **config)
    report = build(loaded, tmp_path / "run")
    by_source = {lang: row["by_source"] for lang, row in report["lists"].items()}
    assert by_source == {"kea": {"list": 1}, "sw": {"unigram": 1}}
