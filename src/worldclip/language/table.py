"""Look languages up: our code <-> Wikipedia, LID labels, WordNet code, script, word spacing, resource level.

language/table.csv has one row per metadata language, `Language`.  A recipe adds languages for its own run
(`[languages.add.kea]`, `AddedLanguage`): its table is a value, `Languages`.  The functions of this module, such as
`get`, answer from the installed languages only.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from typing import Literal, NamedTuple

from worldclip.core.settings import Config, Problems
from worldclip.core.suggest import nearest

Scheme = Literal["lid176", "glotlid", "openlid"]
OTHER = "other"
OTHER_TAGS = {
    "iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro", "nb": "no", "norwegian": "no", "kurdish": "ku",
    "alb": "sq", "arm": "hy", "baq": "eu", "bur": "my", "chi": "zh", "cze": "cs", "dut": "nl", "fre": "fr", "geo": "ka",
    "ger": "de", "gre": "el", "ice": "is", "mac": "mk", "may": "ms", "per": "fa", "rum": "ro", "slo": "sk", "tib": "bo",
    "wel": "cy",
}  # fmt: skip
"""Withdrawn codes, Wikipedia's own, short names and ISO 639-2/B, which no column of the table has -> our code."""
COUNTRIES = {"cn": "zh", "cz": "cs", "dk": "da", "gr": "el", "jp": "ja", "kr": "ko", "ua": "uk", "vn": "vi"}
"""Codes of countries that are taken for those of their languages -> our code, for suggestions."""
WITHDRAWN = frozenset({"bh", "sh"})
"""Codes of the table that ISO 639-1 no longer has (iso639-3.sil.org/code_changes)."""
NAME_COLUMNS = ("wikipedia", "lid176", "iso639_3")  # each name means one language
UNREACHED_BY_DESIGN = frozenset({"simple"})  # English for learners: a list of its own, no label, no part of `other`


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedLanguage(Config):
    """A language that language/table.csv lacks: its row there, in the recipe."""

    name: str = ""
    """English name."""
    script: str = ""
    """ISO 15924 code of its script, e.g. `Latn`; of the Wikipedia's own text."""
    lid176: tuple[str, ...] = ()
    """Labels of lid.176 that mean it."""
    iso639_3: tuple[str, ...] = ()
    """ISO 639-3 codes, or codes with script (`kea_Latn`), by which GlotLID, OpenLID and similar models call it.  A
    member of a macrolanguage without a list of its own belongs to the macrolanguage's list."""
    wikipedia: tuple[str, ...] = ()
    """Codes of its Wikipedias, or of corpora of your own, for metadata.wikipedia; several are merged into one list."""
    cldr: tuple[str, ...] = ()
    """Locales of CLDR, which the package babel carries, e.g. `kea`; in the table those with 100 names or more."""
    words: Literal["space", "icu", "tsheg"] = "space"
    """How words are found: between spaces, by ICU's dictionaries, or at the Tibetan mark."""
    family: str = ""
    """Language family, for the groups of the report: Glottolog's top level, or `Constructed`."""

    def own_problems(self) -> Problems:
        """Yield a missing name, and a script or labels of another form."""
        if not self.name.strip() or not self.name.isprintable():
            yield "name", 'must be the English name of the language, e.g. "Kabuverdianu"'
        if not re.fullmatch("[A-Z][a-z]{3}", self.script):
            yield "script", 'must be the ISO 15924 code of the script, e.g. "Latn" or "Cyrl"'
        for key in NAME_COLUMNS:
            for name in getattr(self, key):
                if not re.fullmatch("[A-Za-z0-9_-]+", name) or name.startswith("__label__"):
                    yield key, f'"{name}" is not a code or label; write it without "__label__", blanks and marks'

    def row(self, code: str) -> Language:
        """Return the row of the table."""
        return Language(code=code, **{column.name: getattr(self, column.name) for column in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Language(AddedLanguage):
    """A row of the table."""

    code: str
    """Ours: the code of its Wikipedia (`other`: all without a list of their own)."""
    wordnet: tuple[str, ...] = ()
    """Codes of the Open Multilingual Wordnet.  Its `als` is Tosk Albanian and belongs to sq."""
    wordfreq: str | None = None
    """Code in the package wordfreq."""
    resource_level: Literal["high", "mid", "low"] = "low"
    """By wordfreq's lists: `high` a large one (words to 1e-8), `mid` a small one (to 1e-6), `low` none."""

    @property
    def in_packages(self) -> tuple[str, ...]:
        """Return the sources of entries that have its words in a Python package, without a download."""
        return tuple(name for name in ("wordfreq", "cldr") if getattr(self, name))


class _Tables(NamedTuple):
    """The languages, and our code of each Wikipedia and label."""

    by_code: dict[str, Language]
    by_wikipedia: dict[str, str]
    by_lid176: dict[str, str]
    by_iso639_3: dict[str, str]
    by_tag: dict[str, str]  # all of these, locales, names and OTHER_TAGS, case-folded


@dataclass(frozen=True, slots=True)
class Languages:
    """The languages that a recipe knows: the installed ones and those that it adds.  An installed code keeps its row.

    Immutable and small when pickled, so that it goes to workers with their work.
    """

    added: tuple[Language, ...] = ()

    def get(self, code: str) -> Language:
        """Return the row of one of our codes.  Raises KeyError with a suggestion for an unknown code."""
        try:
            return self.by_code()[code]
        except KeyError:
            problem = f"unknown language code {code!r}"
            near = self.nearest(code)
            if near:
                problem += f"; did you mean {near!r}?"
            raise KeyError(problem) from None

    def hub_code(self, code: str) -> str | None:
        """Return the code by which the hub's cards name one of our languages, of ISO 639-1 or 639-3; None without one.

        A code of ours may be another language's there: `als` is Tosk Albanian, and our Alemannic `gsw`.
        """
        row = self.by_code().get(code)
        if row is None:
            return None
        iso_codes = [name.partition("_")[0] for name in row.iso639_3]
        is_iso639_1 = len(code) == 2 and code in INSTALLED.by_code() and code not in WITHDRAWN
        if is_iso639_1 or code in iso_codes:
            return code
        return iso_codes[0] if iso_codes else None

    def from_tag(self, tag: str) -> str | None:
        """Return our code of a language by a BCP 47 tag (de-DE), ISO 639 (deu, ger) or its English name, in any case.

        Return None for other texts.
        """
        name = tag.strip().casefold().replace("-", "_")
        by_tag = _tables(self.added).by_tag
        return by_tag.get(name) or by_tag.get(name.partition("_")[0])

    def nearest(self, code: str) -> str | None:
        """Return the code that an unknown one probably means; None where no one is near."""
        near = nearest(code, self.by_code())
        return COUNTRIES.get(code.casefold()) or self.from_tag(code) or next(iter(near), None)

    def by_code(self) -> dict[str, Language]:
        """Return all rows by code, in sorted order."""
        return _tables(self.added).by_code

    def all_languages(self) -> tuple[Language, ...]:
        """Return all rows, sorted by code."""
        return tuple(self.by_code().values())

    def from_lid(self, label: str, scheme: Scheme = "lid176") -> str:
        """Return our code of a LID label; `other` if it has no list of its own, or is unknown.

        label: with or without fastText's `__label__`.  scheme: how the model spells its labels: `lid176` like
        Wikipedias ("sw"), `glotlid` and `openlid` as ISO 639-3 and script ("swh_Latn").
        """
        name = label.removeprefix("__label__")
        codes = self._by_lid_label(scheme)
        return codes.get(name) or codes.get(name.partition("_")[0], OTHER)

    def by_wikipedia(self) -> dict[str, str]:
        """Return our code of each Wikipedia."""
        return _tables(self.added).by_wikipedia

    def from_wordnet(self, code: str) -> str:
        """Return our code of an Open Multilingual Wordnet code (`als` is Albanian there).

        Raises KeyError if unknown.
        """
        codes: dict[str, str] = {}
        for language in self.all_languages():
            codes |= dict.fromkeys(language.wordnet, language.code)
        return codes[code]

    def wikipedias(self, code: str, scheme: Scheme = "lid176") -> tuple[str, ...]:
        """Return the Wikipedias of a language's list; for `other` all that no label of `scheme` maps to."""
        if code != OTHER:
            return self.get(code).wikipedia
        reached = set(self._by_lid_label(scheme).values()) | UNREACHED_BY_DESIGN
        return tuple(sorted(wiki for wiki, ours in self.by_wikipedia().items() if ours not in reached))

    def _by_lid_label(self, scheme: Scheme) -> dict[str, str]:
        if scheme not in ("lid176", "glotlid", "openlid"):
            raise ValueError(f"scheme is {scheme!r}; it is lid176, glotlid or openlid")
        tables = _tables(self.added)
        return tables.by_lid176 if scheme == "lid176" else tables.by_iso639_3


@functools.lru_cache(maxsize=4)  # a process may use some recipes in turns
def _tables(added: tuple[Language, ...]) -> _Tables:
    rows = {language.code: language for language in added} | _installed_rows()
    languages = dict(sorted(rows.items()))

    def codes_of(column: str) -> dict[str, str]:
        codes: dict[str, str] = {}
        for language in languages.values():
            codes |= dict.fromkeys(getattr(language, column), language.code)
        return codes

    wikipedia = codes_of("wikipedia")
    lid176 = codes_of("lid176")
    iso639_3 = codes_of("iso639_3")
    names = {language.name: language.code for language in languages.values()}
    codes = {code: code for code in languages}
    tags = names | codes_of("cldr") | iso639_3 | lid176 | wikipedia | codes  # `mon` is Mongolian, not the language Mon
    by_tag = OTHER_TAGS | {tag.casefold().replace("-", "_"): code for tag, code in tags.items()}
    return _Tables(languages, wikipedia, lid176, iso639_3, by_tag)


@functools.cache
def _installed_rows() -> dict[str, Language]:
    """Return the rows of language/table.csv by code."""
    text = resources.files("worldclip").joinpath("language/table.csv").read_text(encoding="utf-8")
    languages = {}
    for row in csv.DictReader(text.splitlines()):
        several = {key: tuple(row[key].split()) for key in ("wikipedia", "lid176", "iso639_3", "wordnet", "cldr")}
        languages[row["code"]] = Language(**{**row, **several, "wordfreq": row["wordfreq"] or None})  # type: ignore[arg-type]
    return languages


INSTALLED = Languages()
"""The languages of language/table.csv, which every recipe knows."""

get = INSTALLED.get
by_code = INSTALLED.by_code
all_languages = INSTALLED.all_languages
from_lid = INSTALLED.from_lid
from_wordnet = INSTALLED.from_wordnet
wikipedias = INSTALLED.wikipedias


def scheme_of(label: str) -> Scheme:
    """Return how a model spells its labels, from any one of them: `glotlid` for `swh_Latn`, `lid176` for `sw`."""
    code, separator, script = label.removeprefix("__label__").partition("_")
    is_iso = len(code) == 3 and separator == "_" and len(script) == 4 and script.istitle()
    return "glotlid" if is_iso else "lid176"


def code_of_stated(label: str, codes: Container[str], table: Languages) -> str:
    """Return our code of a label that a pool states (pool.lang): one of `codes`, a Wikipedia's, a LID label, a tag."""
    if label in codes:
        return label
    if label in table.by_wikipedia():  # `zh_min_nan` is no `zh`, as the label `zh_Hant` is
        return table.by_wikipedia()[label]
    code = table.from_lid(label, scheme=scheme_of(label))
    return code if code != OTHER else table.from_tag(label) or OTHER


def how_to_know(code: str, table: Languages = INSTALLED) -> str:
    """Return how a language whose code is unknown becomes known."""
    meant = table.nearest(code)
    hint = f'did you mean "{meant}"?' if meant else "worldclip languages lists the known ones"
    return f"{hint} ([languages.add.{code}] adds a language)"


def not_of_the_run(lang: str, langs: Sequence[str], table: Languages) -> str:
    """Return what is wrong with a language that a run does not have, and the nearest of its languages."""
    meant = table.nearest(lang)
    near = f'did you mean "{meant}"? ' if meant in langs else ""
    return f"not a language of this run; {near}its languages are {', '.join(langs)}"
