"""Sources that packages carry: the table's columns are the packages' languages, and entries are clean."""

from __future__ import annotations

import pytest

from worldclip.core.errors import BadShard
from worldclip.language import table as languages
from worldclip.language.locale_data import read_own_data
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.sources import packages
from worldclip.pool.emoji import LANGS

MIN_NAMES = 100  # of a language in the column `cldr`
CONFIG = MetadataConfig()


def read(source: str, lang: str) -> list[str]:
    return [entry for entry, _ in packages.PACKAGED[source].read(lang, CONFIG)]


def test_column_cldr_holds_the_languages_that_babel_names_things_in() -> None:
    localedata = pytest.importorskip("babel.localedata")
    for language in languages.all_languages():
        names = {*read("cldr", language.code)} if language.cldr else set()
        assert not language.cldr or len(names) >= MIN_NAMES, language.code
        if not language.cldr and localedata.exists(language.code):
            locale = read_own_data(language.code, extra="metadata")
            assert len({*packages._names_of(locale)}) < 2 * MIN_NAMES, f"{language.code} has a locale in babel"


def test_names_of_cldr_have_no_remarks_and_no_inherited_language() -> None:
    pytest.importorskip("babel")
    names = read("cldr", "sw")
    assert {"Tanzania", "Myanmar", "Kiswahili", "Jiji la Mexico", "Januari", "vijiko vikubwa"} < {*names}
    assert not [name for name in names if "(" in name]
    assert "January" not in names
    assert {"Србија", "Srbija"} < {*read("cldr", "sr")}


def test_locale_that_babel_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("babel")
    language = languages.get("sw")
    monkeypatch.setattr(languages, "get", lambda code: language.__class__(**fields(language) | {"cldr": ("sw_Zzzz",)}))
    with pytest.raises(BadShard, match="no locale sw_Zzzz; upgrade babel"):
        read("cldr", "sw")


def fields(language: languages.Language) -> dict[str, object]:
    return {name: getattr(language, name) for name in language.__slots__}


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
    assert packages.packaged_sources("en", config) == ["wordfreq", "cldr", "emoji"]
    assert packages.packaged_sources("sw", config) == ["cldr"]
    assert packages.packaged_sources("ace", config) == []
