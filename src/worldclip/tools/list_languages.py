"""`worldclip languages`."""

from __future__ import annotations

from typing import Any

from worldclip.core.command import Command
from worldclip.language.table import INSTALLED
from worldclip.report import table


@Command
def list_languages() -> tuple[Any, str]:
    """List the languages with their codes, labels and sources of entries.

    Examples:
        worldclip languages
        worldclip languages --json
    """
    titles = ("code", "name", "script", "LID labels", "Wikipedias", "sources besides Wikipedia")
    rows = []
    cells = []
    for language in INSTALLED.all_languages():
        sources = list(language.in_packages)
        if language.wordnet:
            sources.append("wordnet")
        names = {"code": language.code, "name": language.name, "script": language.script}
        lists = {
            "labels": list(dict.fromkeys([*language.lid176, *language.iso639_3])),
            "wikipedia": list(language.wikipedia),
            "sources": sources,
        }
        rows.append({**names, **lists})
        cells.append([*names.values(), *map(" ".join, lists.values())])
    return rows, table.to_text(table.Table(list(map(table.text_column, titles)), cells))
