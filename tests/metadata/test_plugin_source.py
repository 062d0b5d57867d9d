"""A metadata source of another package: the CSV files that docs/plugins.md shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import entry_lists
from entry_lists import build, manifest_of, write_lists
from plugin_package import installed, page_code, write_package
from worldclip import metadata
from worldclip.cli import main
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.tools.inspect_metadata import inspect

TERMS = "lang,term,weight\nsw,simba,2\nsw,tembo,1.5\nde,Katze,1\nyo,kìnnìún,3\n"
TWO = LocalExecutor(workers=2, quiet=True)


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    group = {"worldclip.metadata_sources": "glossary = csv_glossary:GLOSSARY"}
    package = write_package(tmp_path / "site", "csv_glossary", page_code("csv_glossary.py"), group)
    with installed(monkeypatch, package):
        yield


def recipe(folder: Path, terms: str, **config: Any) -> Recipe:
    (folder / "terms.csv").write_text(terms, encoding="utf-8")
    values = {"sources": ["list", "glossary"], "lists": write_lists(folder, sw=["simba"])}
    options = {"options": {"glossary": {"file": str(folder / "terms.csv")}}}
    return entry_lists.recipe(["de", "sw"], **(values | options | config))


def test_entries_of_another_packages_source_come_after_ours_in_every_worker(tmp_path: Path) -> None:
    loaded = recipe(tmp_path, TERMS)
    report = build(loaded, tmp_path / "run", TWO)
    rows = metadata.read_entries(str(tmp_path / "run"), "sw").to_pylist()
    found = [(row["entry"], row["source"], row["score"]) for row in rows]
    assert found == [("simba", "list", None), ("tembo", "glossary", 1.5)]
    assert report["lists"]["de"]["by_source"] == {"glossary": 1}
    (record,) = manifest_of(tmp_path / "run")["sources"]["de"]
    assert (record["source"], record["file"], record["licence"]) == ("glossary", "terms.csv", "CC0 1.0")
    assert len(record["sha256"]) == 64
    _, text = inspect(tmp_path / "run/metadata", "sw", "tembo")
    assert "a term of the glossary" in text
    assert "rank 1 of 1 from glossary; weight in the glossary: 1.5" in text


def test_broken_file_fails_its_language_alone(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"terms\.csv: weight of 'tembo'") as failure:
        build(recipe(tmp_path, TERMS.replace("1.5", "many")), tmp_path / "run", TWO)
    assert list(failure.value.failures) == ["sw"]


def test_wrong_options_stop_before_any_work(tmp_path: Path) -> None:
    for config, message in (
        ({"options": {}}, r'metadata\.options\.glossary\.file = "": no such file; set it to a CSV file'),
        ({"options": {"glosary": {}}}, r"metadata\.options\.glosary: unknown metadata source; did you mean glossary\?"),
        ({"sources": ["list"]}, r'metadata\.options\.glossary: unused: metadata\.sources lacks "glossary"'),
        ({"sources": ["glosary"]}, r'metadata\.sources: "glosary": unknown metadata source; did you mean glossary\?'),
    ):
        with pytest.raises(UserError, match=message):
            build(recipe(tmp_path, TERMS, **config), tmp_path / "run", TWO)
        assert not (tmp_path / "run/metadata").exists()


def test_options_have_paths_next_to_the_recipe_and_help_names_the_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "terms.csv").write_text(TERMS, encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(
        '[pool]\npath = "."\n[balance]\ntail_fraction = 0.1\n[metadata]\nsources = ["glossary"]\n'
        '[metadata.options.glossary]\nfile = "terms.csv"\nminimum = 3\n'
    )
    options = load_recipe(tmp_path / "recipe.toml").metadata.options["glossary"]
    assert options == {"file": str(tmp_path / "terms.csv"), "minimum": 3}
    with pytest.raises(SystemExit):
        main(["metadata", "--help"])
    assert ",glossary}" in capsys.readouterr().out.replace("\n", "").replace(" ", "").replace("│", "")


def test_lists_of_a_source_that_is_gone_are_still_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(recipe(tmp_path, TERMS), tmp_path / "run", TWO)
    with monkeypatch.context() as without:
        without.setattr("worldclip.core.registry.metadata.entry_points", lambda **_: [])
        with installed(without):
            _, table = inspect(tmp_path / "run/metadata")
            _, text = inspect(tmp_path / "run/metadata", "sw", "tembo")
    assert "glossary" in table
    assert "from glossary; score: 1.5" in text
