"""The languages that have a code here, and how LID models, Wikipedia and sources of entries know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from worldclip.core.command import Command
from worldclip.language.table import INSTALLED
from worldclip.report.table import Table, text_column, to_markdown


class LanguageRow(TypedDict):
    """A language of language/table.csv."""

    code: str
    name: str
    script: str
    labels: list[str]
    """Of lid.176, GlotLID and OpenLID."""
    wikipedia: list[str]
    sources: list[str]
    """Sources of entries besides its Wikipedias: wordfreq, cldr, wordnet."""


def list_languages() -> list[LanguageRow]:
    """List the languages that worldclip knows.

    Examples:
        worldclip languages
        worldclip languages --json
    """
    return [
        {
            "code": language.code,
            "name": language.name,
            "script": language.script,
            "labels": list(dict.fromkeys([*language.lid176, *language.iso639_3])),
            "wikipedia": list(language.wikipedia),
            "sources": [*language.in_packages, *(["wordnet"] if language.wordnet else [])],
        }
        for language in INSTALLED.all_languages()
    ]


def to_text(rows: Sequence[LanguageRow]) -> str:
    """Return the languages as a table."""
    titles = ("code", "name", "script", "LID labels", "Wikipedias", "sources besides Wikipedia")
    cells = [
        [row["code"], row["name"], row["script"], *map(" ".join, (row["labels"], row["wikipedia"], row["sources"]))]
        for row in rows
    ]
    return to_markdown(Table([text_column(title) for title in titles], cells))


LANGUAGES = Command(list_languages, lambda rows, flags: to_text(rows))
"""List the languages with their codes, labels and sources of entries."""
