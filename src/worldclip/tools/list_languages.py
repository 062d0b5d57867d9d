"""`worldclip languages`."""

from __future__ import annotations

from collections.abc import Sequence

from worldclip.core.command import Command
from worldclip.core.job import Report
from worldclip.language.table import INSTALLED
from worldclip.report import table


def list_languages() -> list[Report]:
    """List the languages that worldclip knows, and their names in LID models, Wikipedia and sources of entries.

    Examples:
        worldclip languages
        worldclip languages --json
    """
    rows = []
    for language in INSTALLED.all_languages():
        sources = list(language.in_packages)
        if language.wordnet:
            sources.append("wordnet")
        rows.append(
            {
                "code": language.code,
                "name": language.name,
                "script": language.script,
                "labels": list(dict.fromkeys([*language.lid176, *language.iso639_3])),
                "wikipedia": list(language.wikipedia),
                "sources": sources,
            }
        )
    return rows


def _to_text(rows: Sequence[Report]) -> str:
    titles = ("code", "name", "script", "LID labels", "Wikipedias", "sources besides Wikipedia")
    cells = []
    for row in rows:
        joined = map(" ".join, (row["labels"], row["wikipedia"], row["sources"]))
        cells.append([row["code"], row["name"], row["script"], *joined])
    return table.to_text(table.Table(list(map(table.text_column, titles)), cells))


LANGUAGES = Command(list_languages, lambda rows, flags: _to_text(rows))
"""List the languages with their codes, labels and sources of entries."""
