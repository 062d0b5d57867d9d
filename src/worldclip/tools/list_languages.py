"""The languages that have a code here, how LID models and Wikipedia call them, and which entry lists a run has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

from worldclip.core.artifacts import require_manifest
from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.marks import Metavar
from worldclip.core.toml_files import read_sections
from worldclip.language.config import languages_of
from worldclip.language.table import INSTALLED, Language
from worldclip.report.table import Column, Table, text_column, to_markdown


class LanguageRow(TypedDict):
    """A language of language/table.csv, or of the run's recipe."""

    code: str
    name: str
    script: str
    resource_level: str
    family: str
    lid176: list[str]
    glotlid: list[str]
    wikipedia: list[str]
    sources: list[str]
    """Sources that need no dump: wordfreq, cldr, wordnet."""
    entries: NotRequired[int | None]
    """Entries in the run's list; None where it has no list."""


def list_languages(
    run: Path | None = None, *, find: Annotated[str | None, Metavar("WORD")] = None
) -> list[LanguageRow]:
    """List the languages that worldclip knows.

    run: a run: also show the languages that its recipe adds, and how many entries its list of each language has.
    find: show only languages with this in their name, or with this code or label.

    Raises UserError if nothing matches, or the run has no finished metadata.

    Examples:
        worldclip languages --find swahili
        worldclip languages runs/my_images
    """
    if run is not None:
        read_sections(run)  # refuses what is no run
    languages = INSTALLED if run is None else languages_of(run)
    counts = None if run is None else require_manifest(run, "metadata")["counts"]
    rows = [_row(language) for language in languages.all_languages()]
    if counts is not None:
        for row in rows:
            row["entries"] = counts.get(row["code"])
    if find is not None:
        tagged = languages.from_tag(find)
        rows = [row for row in rows if row["code"] == tagged or _matches(row, find)]
        if not rows:
            raise UserError(f"--find {find!r}: no such name, code or label; worldclip languages lists all languages")
    return rows


def _row(language: Language) -> LanguageRow:
    return {
        "code": language.code,
        "name": language.name,
        "script": language.script,
        "resource_level": language.resource_level,
        "family": language.family,
        "lid176": list(language.lid176),
        "glotlid": list(language.iso639_3),
        "wikipedia": list(language.wikipedia),
        "sources": [*language.in_packages, *(["wordnet"] if language.wordnet else [])],
    }


def _matches(row: LanguageRow, word: str) -> bool:
    labels = (row["code"], *row["lid176"], *row["glotlid"], *row["wikipedia"])
    return word.casefold() in row["name"].casefold() or word in labels


def to_text(rows: Sequence[LanguageRow]) -> str:
    """Return the languages as a table."""
    columns = [text_column(title) for title in ("code", "name", "script", "LID labels", "Wikipedias", "lists from")]
    cells = [
        [
            row["code"],
            row["name"],
            row["script"],
            " ".join(dict.fromkeys([*row["lid176"], *row["glotlid"]])),
            " ".join(row["wikipedia"]),
            ", ".join(row["sources"]) or ("Wikipedia only" if row["wikipedia"] else "your own list"),
        ]
        for row in rows
    ]
    if rows and "entries" in rows[0]:
        columns.insert(2, Column("entries", lambda count: f"{count:,}"))
        for row, line in zip(rows, cells, strict=True):
            line.insert(2, row["entries"])  # type: ignore[arg-type]  # a count, or None for an empty cell
    return to_markdown(Table(columns, cells))


LANGUAGES = Command(list_languages, lambda rows, flags: to_text(rows), ("run",))
"""List the languages with their codes, labels and entry lists."""
