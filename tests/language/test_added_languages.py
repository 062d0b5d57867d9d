"""Languages that a recipe adds: checked, known in every process of the run, and unknown to the next recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import worldclip
from entry_lists import write_texts
from killed import modified
from stages import QUIET, finish, why_run
from tars import sample, write_tar
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout
from worldclip.core.artifacts import read_json, require_manifest
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Run
from worldclip.language import table as languages
from worldclip.language.config import languages_of
from worldclip.metadata.config import MetadataConfig
from worldclip.tools.inspect_run import inspect_entry

KEA = {"name": "Kabuverdianu", "script": "Latn", "iso639_3": ["kea"], "family": "Indo-European"}


def sections(folder: Path, **added: Any) -> dict[str, Any]:
    return {
        "pool": {"path": str(folder / "pool"), "lang": "json:language"},
        "languages": {"codes": ["en", "kea"], "add": added or {"kea": KEA}},
        "metadata": {"lists": {lang: str(folder / f"{lang}.txt") for lang in ("en", "kea")}},
        "balance": {"tail_fraction": 0.5},
    }


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A pool of two tars whose records state English and Kabuverdianu, and a list of each."""
    (tmp_path / "en.txt").write_text("fish\nboat\n", encoding="utf-8")
    (tmp_path / "kea.txt").write_text("pexe\nbarku\n", encoding="utf-8")
    for shard in range(2):
        record = {"texts": ["a fish", "un pexe na mar"], "language": ["eng_Latn", "kea_Latn"]}
        stems = [f"{n:03}" for n in range(10 * shard, 10 * shard + 10)]
        write_tar(tmp_path / "pool" / f"{shard}.tar", [part for stem in stems for part in sample(stem, None, record)])
    return tmp_path


def test_added_language_goes_from_metadata_to_the_report_in_two_processes(world: Path) -> None:
    recipe, run = load_recipe(sections(world)), world / "run"
    two_processes = LocalExecutor(workers=2, quiet=True)
    for until, executor in {"metadata": QUIET, "match": two_processes, "curate": QUIET}.items():
        worldclip.run(recipe, run, until=until, executor=executor)
    matched = read_json(layout.report_json(run / "match"))["texts"]
    assert matched["kea"]["matched"] == matched["en"]["matched"] == 20
    assert require_manifest(run, "match")["lists"] == {"en": 2, "kea": 2}
    assert read_json(layout.thresholds(run))["lists"]["kea"]["num_matches"] == 20
    assert "Kabuverdianu" in layout.report_html(run).read_text(encoding="utf-8")
    assert load_recipe(run).languages.add["kea"].row("kea") == languages_of(run).get("kea")
    assert inspect_entry(run, "pexe", "kea")["matches"] == 20


def test_another_recipe_does_not_know_the_language(world: Path) -> None:
    values = sections(world)
    assert load_recipe(values).languages.table.from_lid("kea_Latn", "glotlid") == "kea"
    values["languages"] = {"codes": ["kea"]}
    with pytest.raises(UserError, match=r'unknown language "kea"; .*\[languages.add.kea\]') as refused:
        load_recipe(values)
    assert len(refused.value.problems) == 2  # languages.codes and metadata.lists
    assert languages.from_lid("kea_Latn", "glotlid") == languages.OTHER


def test_section_of_a_recipe_is_checked_against_its_languages(world: Path) -> None:
    values = sections(world)
    run = Run(dir=world, sections=values)
    assert set(run.section(MetadataConfig).lists) == {"en", "kea"}
    del values["languages"]["add"]
    values["languages"]["codes"] = ["en"]
    with pytest.raises(UserError, match=r'metadata.lists.kea = ".*kea.txt": unknown language; worldclip languages'):
        run.section(MetadataConfig)


def test_all_mistakes_of_added_languages_are_named_at_once(world: Path) -> None:
    wrong = {
        "sw": KEA | {"iso639_3": []},
        "merged": KEA | {"iso639_3": []},
        "Kea-CV": {"name": "", "script": "latin"},
        "kea": KEA | {"iso639_3": ["kea", "por", "__label__kea_Latn"], "wikipedia": ["pt"]},
        "krio": KEA | {"lid176": ["pt"]},
    }
    with pytest.raises(UserError) as refused:
        load_recipe(sections(world, **wrong))
    text = "\n".join(refused.value.problems)
    for words in (
        "languages.add.sw: is an installed language (Swahili)",
        "languages.add.merged: is not a code",
        "languages.add.Kea-CV: is not a code",
        'languages.add.Kea-CV.name = "": must be the English name',
        'languages.add.Kea-CV.script = "latin": must be the ISO 15924 code',
        'languages.add.kea.iso639_3: "por" belongs to pt',
        'languages.add.kea.iso639_3: "kea" belongs to krio',
        'languages.add.krio.iso639_3: "kea" belongs to kea',
        'languages.add.kea.iso639_3: "__label__kea_Latn" is not a code or label',
        'languages.add.kea.wikipedia: "pt" belongs to pt',
        'languages.add.krio.lid176: "pt" belongs to pt',
    ):
        assert words in text, f"{words} is not in\n{text}"
    with pytest.raises(UserError, match=r"unknown key languages.add.kea.skript; did you mean script\?"):
        load_recipe(sections(world, kea={"name": "x", "skript": "Latn"}))
    with pytest.raises(UserError, match=r"languages.add.kea = 3: must be a section, \[languages.add.kea\]"):
        load_recipe(sections(world, kea=3))


def test_changed_row_rebuilds_its_list_alone(world: Path) -> None:
    def recipe(words: str) -> Recipe:
        return load_recipe(sections(world, kea=KEA | {"words": words}))

    finish("metadata", recipe("space"), world / "run", QUIET)
    assert why_run("metadata", recipe("space"), world / "run") is None
    assert why_run("metadata", recipe("icu"), world / "run") == "languages.add.kea.words was space, is icu"
    before = modified(world / "run/metadata", "*.parquet")
    finish("metadata", recipe("icu"), world / "run", QUIET)
    written = modified(world / "run/metadata", "*.parquet").items() - before.items()
    assert [path.stem for path, _ in written] == ["kea"]


def test_corpus_of_an_added_language_is_counted_by_its_words(world: Path) -> None:
    write_texts(world / "corpus.parquet", *(f"pexe fresku na mar {n}" for n in range(9)))
    values = sections(world, kea=KEA | {"wikipedia": ["kea"]})
    values["languages"]["codes"] = ["kea"]
    values["metadata"] = {
        "sources": ["unigram"],
        "wikipedia": {"kea": str(world / "corpus.parquet")},
        "overrides": {"unigram_top_fraction": 1.0},
    }
    report = finish("metadata", load_recipe(values), world / "run", LocalExecutor(workers=2, quiet=True))
    assert report["lists"]["kea"]["by_source"]["unigram"] == 13
