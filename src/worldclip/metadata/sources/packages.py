"""Sources that Python packages carry: word frequencies, names of CLDR, names of emoji.  None needs a download.

wordfreq has words of 44 languages, CLDR (in the package babel) 100 names or more in 168, and emoji names in 14.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worldclip.core.artifacts import versions
from worldclip.core.errors import BadShard, require
from worldclip.core.registry import Requirement
from worldclip.language.emoji import NAMED_IN, TONES
from worldclip.language.locale_data import read_own_data
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import Candidates, Record
from worldclip.metadata.source import Inputs, Source
from worldclip.metadata.sources.lists import read_frequent_words

# Tables of a locale's data in babel, what pictures show first; each maps codes to names.
_NAME_TABLES = ("territories", "languages", "currency_names", "scripts")
_REMARK = re.compile(r"\s*[(（\[].*")  # `Myanmar (Burma)`, `peseta (1868–2002)`: a text has the part before
_UNKNOWN_CITY = "Etc/Unknown"


class PackagedSource(Source):
    """A source whose data come with the first package that it requires."""

    @property
    def package(self) -> str:
        return self.requires.modules[0]

    def fingerprint(self, inputs: Inputs) -> str:
        return versions([self.package])[self.package] if self.has_words(inputs) else ""

    def describe(self, inputs: Inputs, known: Any) -> list[Record]:
        return [{"source": self.name, "package": self.package, "version": known, "licence": self.licence}]


class Wordfreq(PackagedSource):
    """Frequent words."""

    name = "wordfreq"
    meaning = "one of the most frequent words of the package wordfreq, as it is or in title case"
    score = "share of all words"
    requires = Requirement(("wordfreq",), "metadata")
    licence = "CC BY-SA 4.0"

    def has_words(self, inputs: Inputs) -> bool:
        return inputs.language.wordfreq is not None

    def read(self, inputs: Inputs) -> Candidates:
        return read_frequent_words(inputs.lang, inputs.config.wordfreq_top, inputs.languages)

    def notes(self, lists: Mapping[str, Record], built: Sequence[str], config: MetadataConfig) -> Iterator[str]:
        if any(self.name in row["by_source"] for row in lists.values()):
            yield (
                "words of wordfreq are lower-cased and names are not, so each word is an entry as it is and in title"
                " case"
            )


class Cldr(PackagedSource):
    """Names of CLDR."""

    name = "cldr"
    meaning = "a name in CLDR: of a territory, city, language, script, currency, unit, month or day"
    requires = Requirement(("babel",), "metadata")
    licence = "Unicode License v3"

    def has_words(self, inputs: Inputs) -> bool:
        return bool(inputs.language.cldr)

    def read(self, inputs: Inputs) -> Candidates:
        """Yield the names in each of the language's locales, without remarks in brackets."""
        localedata = require("babel.localedata", extra="metadata")
        locales = inputs.language.cldr
        if absent := [name for name in locales if not localedata.exists(name)]:
            raise BadShard(f"the installed babel has no locale {', '.join(absent)}; upgrade babel")
        for locale in locales:
            # what the locale inherits from another one is in another language
            for name in _names_of(read_own_data(locale, extra="metadata")):
                yield _REMARK.sub("", name), None


class EmojiNames(PackagedSource):
    """Names of emoji."""

    name = "emoji"
    meaning = "the name of an emoji"
    requires = Requirement(("emoji",), "metadata")
    licence = "BSD 3-Clause (names: CLDR, Unicode License v3)"

    def has_words(self, inputs: Inputs) -> bool:
        return inputs.lang in NAMED_IN

    def read(self, inputs: Inputs) -> Candidates:
        """Yield the names without those of skin tones: `red apple`."""
        package = require("emoji", extra="metadata")
        package.config.load_language(inputs.lang)
        for char, record in package.EMOJI_DATA.items():
            if inputs.lang in record and TONES.isdisjoint(char):
                yield record[inputs.lang].strip(":").replace("_", " "), None


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


WORDFREQ = Wordfreq()
CLDR = Cldr()
EMOJI = EmojiNames()
