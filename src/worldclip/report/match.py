"""How many texts match."""

from __future__ import annotations

from typing import Any

from worldclip.contracts.reasons import MATCHED, Reason
from worldclip.core.artifacts import Json
from worldclip.language import scripts
from worldclip.language.table import Languages
from worldclip.report.numbers import count, percent, short
from worldclip.report.page import Card, Section, first_and_more, language_column
from worldclip.report.table import Column, Table, text_column, to_html

MAX_ROWS = 15  # languages in sight; the others are folded


def cards(report: Json) -> list[Card]:
    """Return the number of pairs with a match."""
    matched = short(report["num_matched_texts"])
    return [Card(matched, "pairs with a match", f"of {count(report['pairs'])}")]


def sections(report: Json, languages: Languages) -> list[Section]:
    """Return match rates by language."""
    rows: list[list[Any]] = []
    table = languages.by_code()
    for lang, row in report.get("texts", {}).items():
        matched = row.get(MATCHED, 0)
        total = matched + row.get(Reason.NO_MATCH.label, 0)
        if total:
            script = table[lang].script if lang in table else ""
            rows.append([lang, scripts.NAMES.get(script, script), total, matched / total])
    if not rows:
        return []
    rows.sort(key=lambda row: -row[2])
    rates = [Column("texts", count), Column("matched", percent)]
    columns = [language_column("language", languages), text_column("script"), *rates]
    lead = "Share of texts with at least one match, among texts whose language has entries."
    body = first_and_more(rows, MAX_ROWS, "more", lambda some: to_html(Table(columns, some)))
    return [Section("Match rates", lead, body)]
