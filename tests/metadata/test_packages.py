"""Sources that packages carry: the table's columns are the packages' languages, and entries are clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from entry_lists import words
from stages import finish
from worldclip.config import load_recipe
from worldclip.core.errors import BadShard
from worldclip.language import table as languages
from worldclip.language.config import AddedLanguage
from worldclip.language.locale_data import read_own_data
from worldclip.metadata.config import METADATA_SOURCES, MetadataConfig
from worldclip.metadata.source import Inputs, used_sources
from worldclip.metadata.sources import packages
from worldclip.plugins.emoji.build import LANGS

MIN_NAMES = 100  # of a language in the column `cldr`
BABEL = "2.19."  # whose locales the column `cldr` lists; a later one can name things in further languages
CONFIG = MetadataConfig()
STARTER = Path(__file__).parents[2] / "recipes" / "starter.toml"


def read(source: str, lang: str) -> list[str]:
    return [entry for entry, _ in METADATA_SOURCES.load(source).read(Inputs(lang=lang, config=CONFIG))]


def test_languages_in_column_cldr_have_names_in_babel() -> None:
    pytest.importorskip("babel")
    few = [lang.code for lang in languages.all_languages() if lang.cldr and len({*read("cldr", lang.code)}) < MIN_NAMES]
    assert not few


def test_column_cldr_misses_no_language_that_babel_names_things_in() -> None:
    babel = pytest.importorskip("babel")
    if not babel.__version__.startswith(BABEL):
        pytest.skip(f"babel {babel.__version__} is installed; the column is of {BABEL}x")
    without = [language.code for language in languages.all_languages() if not language.cldr]
    locales = [code for code in without if babel.localedata.exists(code)]
    own = {code: {*packages._names_of(read_own_data(code, extra="metadata"))} for code in locales}
    assert not [code for code, names in own.items() if len(names) >= 2 * MIN_NAMES]


def test_names_of_cldr_have_no_remarks_and_no_inherited_language() -> None:
    pytest.importorskip("babel")
    names = read("cldr", "sw")
    assert {"Tanzania", "Myanmar", "Kiswahili", "Jiji la Mexico", "Januari", "vijiko vikubwa"} < {*names}
    assert not [name for name in names if "(" in name]
    assert "January" not in names
    assert {"Србија", "Srbija"} < {*read("cldr", "sr")}


def test_locale_that_babel_lacks_is_named() -> None:
    pytest.importorskip("babel")
    kea = AddedLanguage(name="Kabuverdianu", script="Latn", cldr=("kea_Zzzz",)).row("kea")
    inputs = Inputs(lang="kea", config=CONFIG, languages=languages.Languages((kea,)))
    with pytest.raises(BadShard, match="no locale kea_Zzzz; upgrade babel"):
        list(METADATA_SOURCES.load("cldr").read(inputs))


def test_emoji_are_named_without_skin_tones_in_every_language_of_the_package() -> None:
    pytest.importorskip("emoji")
    for lang in LANGS:
        names = read("emoji", lang)
        assert len(names) > 1500
        assert not [name for name in names if ":" in name.strip(":") and "_" in name]
    assert "red apple" in read("emoji", "en")
    assert "manzana roja" in read("emoji", "es")
    assert not [name for name in read("emoji", "en") if "skin tone" in name]


def test_sources_of_a_language_are_in_order_and_need_no_package() -> None:
    config = MetadataConfig(sources=("emoji", "wordfreq", "cldr"))
    expected = {"en": ["wordfreq", "cldr", "emoji"], "sw": ["cldr"], "ace": []}
    for lang, names in expected.items():
        inputs = Inputs(lang=lang, config=config)
        assert [source.name for source in used_sources(config) if source.has_words(inputs)] == names


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
    some = 'languages.codes=["en", "hi", "sw", "tl", "zh"]'
    recipe = load_recipe(STARTER, ["metadata.wordfreq_top=300", some])
    report = finish("metadata", recipe, tmp_path / "run")
    by_source = {lang: row["by_source"] for lang, row in report["lists"].items()}
    assert all(by_source[lang]["wordfreq"] > 250 for lang in ("en", "hi", "tl", "zh"))
    assert all(counts["cldr"] > 700 for counts in by_source.values())
    assert [lang for lang, counts in by_source.items() if counts.get("emoji", 0) > 1000] == ["en", "zh"]
    entries = {lang: words(tmp_path / "run", lang) for lang in report["lists"]}
    assert entries["en"][100:104] == ["the", "The", "to", "To"]
    assert (entries["hi"][100], entries["zh"][100]) == ("के", "的")
    assert {"red apple", "Tanzania"} < {*entries["en"]}
    assert {"Visiwa vya Virgin, Marekani", "Myanmar", "Jumapili"} < {*entries["sw"]}
    assert {"红苹果", "坦桑尼亚", "坦尚尼亞"} < {*entries["zh"]}
    assert any(note.startswith("no wordnet of en, zh") for note in report["notes"])
