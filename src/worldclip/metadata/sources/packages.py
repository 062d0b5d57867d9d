"""Sources that need no file: numbers, and what Python packages carry: word frequencies, names of CLDR and of emoji.

wordfreq has words of 44 languages, CLDR (in the package babel) 100 names or more in 168, and emoji names in 14.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from worldclip.core.artifacts import versions
from worldclip.core.errors import BadShard, require
from worldclip.core.registry import Requirement
from worldclip.language import characters
from worldclip.language.locale_data import NAMED_IN, TONES, read_own_data
from worldclip.metadata.counting import Candidates, Record
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.source import Inputs, Source

NUM_NUMBERS = 100
# Tables of a locale's data in babel, what pictures show first; each maps codes to names.
_NAME_TABLES = ("territories", "languages", "currency_names", "scripts")
_REMARK = re.compile(r"\s*[(（\[].*")  # `Myanmar (Burma)`, `peseta (1868–2002)`: a text has the part before
_UNKNOWN_CITY = "Etc/Unknown"
_PART = re.compile(r"[^\s\-]+")
_DOTTED_I = frozenset({"tr", "az", "crh", "gag"})  # languages where i and ı are two letters; their capitals are İ and I


def _packaged(
    name: str, package: str, licence: str, has_words: Callable[[Inputs], bool], read: Callable[[Inputs], Candidates]
) -> Source:
    """Return the source `name`, whose data come with a package."""

    def add(entries: EntryList, inputs: Inputs) -> None:
        if has_words(inputs):
            entries.add(name, read(inputs))

    def reads(inputs: Inputs) -> list[Record]:
        if not has_words(inputs):
            return []
        version = versions([package])[package]
        return [{"source": name, "package": package, "version": version, "licence": licence}]

    return Source(add, reads, requires=Requirement((package,), "metadata"))


# --- wordfreq ---------------------------------------------------------------------------------------------------------


def read_wordfreq(inputs: Inputs) -> Candidates:
    """Yield the most frequent words with their share of all words, each as it is, then in title case.

    wordfreq lower-cases all words, so only the title case brings names back.  Words with two digits or more are
    skipped.
    """
    wordfreq = require("wordfreq", extra="metadata")
    # 0000 stands for 1984 and all other numbers of four digits, and occurs in no text: smash_numbers in
    # wordfreq/numbers.py.
    digit = f"[{characters.digit_class()}]"
    merged_number = re.compile(f"{digit}.*{digit}")
    frequencies = wordfreq.get_frequency_dict(inputs.language.wordfreq, "best")
    for word, frequency in list(frequencies.items())[: inputs.config.wordfreq_top]:
        if merged_number.search(word):
            continue
        yield word, frequency
        yield title_case(word, inputs.lang), frequency


def title_case(word: str, lang: str) -> str:
    """Return the word with each part between whitespace or hyphens capitalized: It's, Jean-Paul, İstanbul."""

    def capitalize(match: re.Match[str]) -> str:
        part = match.group()
        if lang in _DOTTED_I and part[0] == "i":
            return "İ" + part[1:]
        if lang == "nl" and part.startswith("ij"):  # one letter in Dutch: IJsland
            return "IJ" + part[2:]
        return characters.title(part[0]) + part[1:]

    return _PART.sub(capitalize, word)


# --- CLDR -------------------------------------------------------------------------------------------------------------


def read_cldr(inputs: Inputs) -> Candidates:
    """Yield the names in each of the language's locales, without remarks in brackets."""
    localedata = require("babel.localedata", extra="metadata")
    locales = inputs.language.cldr
    absent = [name for name in locales if not localedata.exists(name)]
    if absent:
        raise BadShard(f"the installed babel has no locale {', '.join(absent)}; upgrade babel")
    for locale in locales:
        # what the locale inherits from another one is in another language
        for name in names_of(read_own_data(locale, extra="metadata")):
            yield _REMARK.sub("", name), None


def names_of(locale: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of territories, cities, languages, currencies, scripts, units, months and days in a locale."""
    zones = locale.get("time_zones", {})
    yield from _strings(locale.get("territories", {}))
    yield from (zone["city"] for name, zone in zones.items() if "city" in zone and name != _UNKNOWN_CITY)
    for table in _NAME_TABLES[1:]:
        yield from _strings(locale.get(table, {}))
    for unit in locale.get("unit_display_names", {}).values():
        yield from _strings(unit)
    for table in ("months", "days"):  # grammatical context -> length -> number -> name
        for lengths in locale.get(table, {}).values():
            if isinstance(lengths, Mapping):
                yield from _strings(lengths.get("wide", {}))


def _strings(names: Any) -> Iterator[str]:
    """Yield the strings of a table; babel's data also hold aliases, which inherited data resolve."""
    if isinstance(names, Mapping):
        yield from (name for name in names.values() if isinstance(name, str))


# --- emoji ------------------------------------------------------------------------------------------------------------


def read_emoji(inputs: Inputs) -> Candidates:
    """Yield the names of emoji without those of skin tones: `red apple`."""
    package = require("emoji", extra="metadata")
    package.config.load_language(inputs.lang)
    for char, record in package.EMOJI_DATA.items():
        if inputs.lang in record and TONES.isdisjoint(char):
            yield record[inputs.lang].strip(":").replace("_", " "), None


# 0 to 99 are entries of every language and no words of any
NUMBER = Source(lambda entries, inputs: entries.add("number", ((str(i), None) for i in range(NUM_NUMBERS))))
WORDFREQ = _packaged(
    "wordfreq", "wordfreq", "CC BY-SA 4.0", lambda inputs: inputs.language.wordfreq is not None, read_wordfreq
)
CLDR = _packaged("cldr", "babel", "Unicode License v3", lambda inputs: bool(inputs.language.cldr), read_cldr)
EMOJI = _packaged(
    "emoji",
    "emoji",
    "BSD 3-Clause (names: CLDR, Unicode License v3)",
    lambda inputs: inputs.lang in NAMED_IN,
    read_emoji,
)
