"""How many texts match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worldclip.contracts.reasons import MATCHED, Reason
from worldclip.contracts.records import MatchReport
from worldclip.language.table import Languages
from worldclip.report.html import join
from worldclip.report.numbers import count, percent, short
from worldclip.report.page import (
    Card,
    Section,
    first_and_more,
    language_column,
)
from worldclip.report.table import Column, Table, text_column, to_html

MAX_ROWS = 15  # languages in sight; the others are folded


def cards(report: MatchReport) -> list[Card]:
    """Return the number of texts with a match."""
    matched = short(report["num_matched_texts"])
    return [Card(matched, "texts with a match", f"of {count(report['pairs'])}")]


def sections(report: MatchReport, languages: Languages) -> list[Section]:
    """Return match rates by script and by language."""
    texts: dict[str, tuple[int, int]] = {}
    for lang, row in report.get("texts", {}).items():
        matched = row.get(MATCHED, 0)
        total = matched + row.get(Reason.NO_MATCH.label, 0)
        if total:
            texts[lang] = (total, matched)
    return [_rates(texts, languages)] if texts else []


def _rates(texts: Mapping[str, tuple[int, int]], languages: Languages) -> Section:
    """Return match rates by script and by language; texts: (with entries for their language, matched)."""
    by_size = sorted(texts, key=lambda lang: -texts[lang][0])
    by_script: dict[str, list[str]] = {}
    for lang in by_size:
        by_script.setdefault(_script(lang, languages), []).append(lang)
    scripts = sorted(by_script.items(), key=lambda item: -sum(texts[lang][0] for lang in item[1]))

    def cells(langs: Sequence[str]) -> list[float]:
        """Return texts and share matched of several languages together."""
        total = sum(texts[lang][0] for lang in langs)
        return [total, sum(texts[lang][1] for lang in langs) / total]

    script_rows = [[script, len(langs), *cells(langs)] for script, langs in scripts]
    lang_rows = [[lang, _script(lang, languages), *cells([lang])] for lang in by_size]
    rates = [Column("texts", count), Column("matched", percent)]
    lang_columns = [language_column("language", languages), text_column("script"), *rates]
    body = [
        to_html(Table([text_column("script"), Column("languages", count), *rates], script_rows)),
        first_and_more(lang_rows, MAX_ROWS, "more", lambda rows: to_html(Table(lang_columns, rows))),
    ]
    lead = "Share of texts with at least one match, among texts whose language has entries."
    return Section("Match rates", lead, join(body))


def _script(lang: str, languages: Languages) -> str:
    row = languages.by_code().get(lang)
    return row.script if row else ""
