"""The languages that have a code here, and how LID models, Wikipedia and sources of entries know them."""

from __future__ import annotations

from collections.abc import Sequence

from worldclip.core.command import Command
from worldclip.core.job import Report
from worldclip.language.table import INSTALLED
from worldclip.report import table


def list_languages() -> list[Report]:
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


def _to_text(rows: Sequence[Report]) -> str:
    titles = ("code", "name", "script", "LID labels", "Wikipedias", "sources besides Wikipedia")
    cells = [[value if isinstance(value, str) else " ".join(value) for value in row.values()] for row in rows]
    return table.to_text(table.Table([table.text_column(title) for title in titles], cells))


LANGUAGES = Command(list_languages, lambda rows, flags: _to_text(rows))
"""List the languages with their codes, labels and sources of entries."""
