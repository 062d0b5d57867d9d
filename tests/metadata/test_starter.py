"""The starter recipe: every language that wordfreq has, whole but for the number of words."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import finish
from worldclip import metadata
from worldclip.config import load_recipe
from worldclip.core.execute import LocalExecutor
from worldclip.language import table as languages

STARTER = Path(__file__).parents[2] / "recipes" / "starter.toml"


def test_starter_names_every_wordfreq_language() -> None:
    codes = load_recipe(STARTER).languages.codes
    assert codes == tuple(language.code for language in languages.all_languages() if language.wordfreq)
    assert len(codes) == 44


def test_starter_builds_a_list_per_language(tmp_path: Path) -> None:
    pytest.importorskip("wordfreq")
    recipe = load_recipe(STARTER, ["metadata.wordfreq_top=300", 'languages.codes=["en", "hi", "tl", "zh"]'])
    report = finish("metadata", recipe, tmp_path / "run", LocalExecutor(quiet=True))
    assert all(row["by_source"]["wordfreq"] > 250 for row in report["lists"].values())
    words = {lang: metadata.read_entries(tmp_path / "run", lang)["entry"].to_pylist() for lang in report["lists"]}
    assert words["en"][100:104] == ["the", "The", "to", "To"]
    assert words["hi"][100] == "के"
    assert words["zh"][100] == "的"
