"""The manifest names every source with its date, size, fingerprint and licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from entry_lists import QUIET, build, manifest_of, recipe, write_lists, write_texts, write_views
from killed import modified
from stages import run_stage

NAMESPACES = '{"query": {"namespaces": {"0": {"*": ""}, "6": {"*": "Picha", "canonical": "File"}}}}'


def sources_of(run_dir: Path, lang: str) -> dict[str, dict[str, Any]]:
    return {record["source"]: record for record in manifest_of(run_dir)["sources"][lang]}


def test_changed_licence_updates_manifest_and_rebuilds_only_its_language(tmp_path: Path) -> None:
    config = {"sources": ["list"], "lists": write_lists(tmp_path, sw=["simba"], yo=["kìnnìún"])}
    assert run_stage("metadata", recipe(["sw", "yo"], **config), tmp_path / "run", QUIET)
    before = modified(tmp_path / "run/metadata", "yo.parquet")
    assert sources_of(tmp_path / "run", "sw")["list"]["licence"] == "not stated in the file"
    licensed = recipe(["sw", "yo"], **config, licences={"sw": "CC BY 4.0"})
    assert run_stage("metadata", licensed, tmp_path / "run", QUIET)
    named = sources_of(tmp_path / "run", "sw")["list"]
    assert (named["file"], named["size"], named["licence"]) == ("sw.txt", 6, "CC BY 4.0")
    assert len(named["modified"]) == len("2024-01-01")
    assert len(named["sha256"]) == 64
    assert modified(tmp_path / "run/metadata", "yo.parquet") == before


def test_text_and_views_have_the_licences_of_wikipedia_and_an_own_corpus_its_own(tmp_path: Path) -> None:
    corpus = write_texts(tmp_path / "sw/corpus.parquet", "simba ni mnyama")
    (tmp_path / "sw/x-siteinfo-namespaces.json").write_text(NAMESPACES)
    write_texts(tmp_path / "dumps/yo/a.parquet", "kìnnìún")
    views = write_views(tmp_path / "views", "sw Paka 5 0, sw Picha:Paka.jpg 9 0", "yo Ajá 3 0")
    loaded = recipe(
        ["sw", "yo"],
        sources=["unigram", "title"],
        dumps=str(tmp_path / "dumps"),
        wikipedia={"sw": str(corpus)},
        pageviews=str(views),
        text_licences={"sw": "CC0 1.0"},
        overrides={"unigram_top_fraction": 1, "title_top_fraction": 1},
    )
    build(loaded, tmp_path / "run")
    named = sources_of(tmp_path / "run", "sw")
    assert (named["wikipedia"]["file"], named["wikipedia"]["licence"]) == ("corpus.parquet", "CC0 1.0")
    assert (named["siteinfo"]["file"], named["siteinfo"]["size"]) == ("x-siteinfo-namespaces.json", len(NAMESPACES))
    assert named["siteinfo"]["modified"] == named["wikipedia"]["modified"]
    assert named["title"]["page_view_files"] == 2
    yoruba = sources_of(tmp_path / "run", "yo")["wikipedia"]
    assert (yoruba["file"], yoruba["licence"][:12]) == ("a.parquet", "CC BY-SA 4.0")
    manifest = manifest_of(tmp_path / "run")
    assert [file["file"] for file in manifest["pageviews"]] == sorted(path.name for path in views.iterdir())
    assert [file["licence"][:7] for file in manifest["pageviews"]] == ["CC0 1.0"] * 2
    assert manifest["rules"]["sw"]["title"]["kept"] == 1
    assert manifest["inputs"]["sw"]["wikipedia"]["icu"][0].isdigit()
