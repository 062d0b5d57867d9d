"""The starter recipe: every language that a package has words of, whole but for the number of words."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import finish
from worldclip import metadata
from worldclip.config import load_recipe
from worldclip.core.execute import LocalExecutor
from worldclip.language import table as languages

STARTER = Path(__file__).parents[2] / "recipes" / "starter.toml"
SOME = 'languages.codes=["en", "hi", "sw", "tl", "zh"]'


def test_starter_names_every_language_that_a_package_has() -> None:
    codes = load_recipe(STARTER).languages.codes
    known = languages.all_languages()
    assert codes == tuple(language.code for language in known if language.wordfreq or language.cldr)
    assert (sum(language.wordfreq is not None for language in known), len(codes)) == (44, 169)


def test_starter_builds_a_list_per_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("wordfreq", "babel", "emoji"):
        pytest.importorskip(package)
    wn = pytest.importorskip("wn")
    monkeypatch.setattr(wn.config, "_data_directory", tmp_path / "wn_data")
    monkeypatch.setattr(wn.config, "_dbpath", tmp_path / "wn_data" / "wn.db")
    recipe = load_recipe(STARTER, ["metadata.wordfreq_top=300", SOME])
    report = finish("metadata", recipe, tmp_path / "run", LocalExecutor(quiet=True))
    by_source = {lang: row["by_source"] for lang, row in report["lists"].items()}
    assert all(by_source[lang]["wordfreq"] > 250 for lang in ("en", "hi", "tl", "zh"))
    assert all(counts["cldr"] > 700 for counts in by_source.values())
    assert [lang for lang, counts in by_source.items() if counts.get("emoji", 0) > 1000] == ["en", "zh"]
    words = {lang: metadata.read_entries(tmp_path / "run", lang)["entry"].to_pylist() for lang in report["lists"]}
    assert words["en"][100:104] == ["the", "The", "to", "To"]
    assert words["hi"][100] == "के"
    assert words["zh"][100] == "的"
    assert {"red apple", "Tanzania"} < {*words["en"]}
    assert {"Visiwa vya Virgin, Marekani", "Myanmar", "Jumapili"} < {*words["sw"]}
    assert {"红苹果", "坦桑尼亚", "坦尚尼亞"} < {*words["zh"]}
    assert any(note.startswith("no wordnet of en, zh") for note in report["notes"])
