"""Sources that Python packages carry: word frequencies, names of CLDR, names of emoji.  None needs a download.

wordfreq    frequent words of 44 languages (metadata/sources/lists.py)
cldr        names in Unicode's Common Locale Data Repository, which the package babel carries: territories, cities,
            languages, scripts, currencies, units, months, days.  168 languages with 100 names or more
emoji       what emoji show, such as "red apple", in 14 languages
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worldclip.core.errors import BadShard, require
from worldclip.language import table as languages
from worldclip.language.emoji import NAMED_IN, TONES
from worldclip.language.locale_data import read_own_data
from worldclip.metadata.config import MetadataConfig, Source
from worldclip.metadata.sources.lists import read_frequent_words

# Tables of a locale's data in babel, what pictures show first; each maps codes to names.
_NAME_TABLES = ("territories", "languages", "currency_names", "scripts")
_REMARK = re.compile(r"\s*[(（\[].*")  # `Myanmar (Burma)`, `peseta (1868–2002)`: a text has the part before
_UNKNOWN_CITY = "Etc/Unknown"
_Entries = Iterator[tuple[str, float | None]]


@dataclass(frozen=True, slots=True)
class PackagedSource:
    """A source whose data come with a Python package."""

    package: str
    licence: str
    has: Callable[[str], bool]
    """Whether it has words of a language, by our code; known without the package."""
    read: Callable[[str, MetadataConfig], _Entries]
    """Yield the entries of a language.  Raises UserError if the package is not installed."""


def packaged_sources(lang: str, config: MetadataConfig) -> list[Source]:
    """Return the sources of the recipe that packages carry and that have words of a language, in their order."""
    return [source for source in PACKAGED if source in config.sources and PACKAGED[source].has(lang)]


def read_cldr(lang: str) -> _Entries:
    """Yield the names that CLDR has in a language, in each of its locales, without remarks in brackets."""
    localedata = require("babel.localedata", extra="metadata")
    locales = languages.get(lang).cldr
    if absent := [name for name in locales if not localedata.exists(name)]:
        raise BadShard(f"the installed babel has no locale {', '.join(absent)}; upgrade babel")
    for locale in locales:
        # what the locale inherits from another one is in another language
        for name in _names_of(read_own_data(locale, extra="metadata")):
            yield _REMARK.sub("", name), None


def _names_of(locale: Mapping[str, Any]) -> Iterator[str]:
    zones = locale.get("time_zones", {})
    yield from _strings(locale.get("territories", {}))
    yield from (zone["city"] for name, zone in zones.items() if "city" in zone and name != _UNKNOWN_CITY)
    for table in _NAME_TABLES[1:]:
        yield from _strings(locale.get(table, {}))
    for unit in locale.get("unit_display_names", {}).values():
        yield from _strings(unit)
    for table in ("months", "days"):  # grammatical context -> length -> number -> name
        for lengths in locale.get(table, {}).values():
            yield from _strings(lengths.get("wide", {}) if isinstance(lengths, Mapping) else {})


def _strings(names: Any) -> Iterator[str]:
    """Yield the strings of a table; babel's data also hold aliases, which inherited data resolve."""
    if isinstance(names, Mapping):
        yield from (name for name in names.values() if isinstance(name, str))


def read_emoji_names(lang: str) -> _Entries:
    """Yield the names of emoji in a language, without those of skin tones: `red apple`."""
    package = require("emoji", extra="metadata")
    package.config.load_language(lang)
    for char, record in package.EMOJI_DATA.items():
        if lang in record and TONES.isdisjoint(char):
            yield record[lang].strip(":").replace("_", " "), None


PACKAGED: dict[Source, PackagedSource] = {
    "wordfreq": PackagedSource(
        "wordfreq",
        "CC BY-SA 4.0",
        lambda lang: languages.get(lang).wordfreq is not None,
        lambda lang, config: read_frequent_words(lang, config.wordfreq_top),
    ),
    "cldr": PackagedSource(
        "babel",
        "Unicode License v3",
        lambda lang: bool(languages.get(lang).cldr),
        lambda lang, config: read_cldr(lang),
    ),
    "emoji": PackagedSource(
        "emoji",
        "BSD 3-Clause (names: CLDR, Unicode License v3)",
        lambda lang: lang in NAMED_IN,
        lambda lang, config: read_emoji_names(lang),
    ),
}
