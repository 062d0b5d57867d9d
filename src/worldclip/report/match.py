"""How many texts match, and how often language identification is right where the pool knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worldclip.core.reasons import MATCHED, Reason
from worldclip.core.records import MatchReport
from worldclip.language import table as languages
from worldclip.report.html import join
from worldclip.report.numbers import count, percent, short
from worldclip.report.page import Bar, Card, Section, bars, first_and_more, folded, lang_name
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

MAX_ROWS = 15  # languages in sight; the others are folded
NUM_CONFUSIONS = 3  # languages that texts are most often taken for


def cards(report: MatchReport) -> list[Card]:
    """Return the number of texts with a match."""
    matched = short(report["num_matched_texts"])
    return [Card(matched, "texts with a match", f"of {count(report['pairs'])}")]


def sections(report: MatchReport) -> list[Section]:
    """Return match rates, and the recall of language identification where the pool states languages."""
    texts: dict[str, tuple[int, int]] = {}
    for lang, row in report.get("texts", {}).items():
        matched = row.get(MATCHED, 0)
        total = matched + row.get(Reason.NO_MATCH.label, 0)
        if total:
            texts[lang] = (total, matched)
    parts = [_rates(texts, report.get("profiles", {}))] if texts else []
    return parts + ([_lid_recall(report["truth"], report["lid_recall"])] if "truth" in report else [])


def _rates(texts: Mapping[str, tuple[int, int]], compared: Mapping[str, Mapping[str, int]]) -> Section:
    """Return match rates by script and by language; texts: (with entries for their language, matched)."""
    by_size = sorted(texts, key=lambda lang: -texts[lang][0])
    by_script: dict[str, list[str]] = {}
    for lang in by_size:
        by_script.setdefault(_script(lang), []).append(lang)
    scripts = sorted(by_script.items(), key=lambda item: -sum(texts[lang][0] for lang in item[1]))
    script_rows = [[script, len(langs), *_rate_cells(langs, texts, compared)] for script, langs in scripts]
    lang_rows = [[lang, _script(lang), *_rate_cells([lang], texts, compared)] for lang in by_size]
    profiles = [name for name in next(iter(compared.values()), {}) if name != "texts"]
    rates = [Column("texts", count), *columns_of(["matched", *(name.replace("_", " ") for name in profiles)], percent)]
    lang_columns = [text_column("language", lang_name), text_column("script"), *rates]
    body = [
        to_html(Table([text_column("script"), Column("languages", count), *rates], script_rows)),
        first_and_more(lang_rows, MAX_ROWS, "more", lambda rows: to_html(Table(lang_columns, rows))),
    ]
    lead = "Share of texts with at least one match, among texts whose language has entries, under the run's profile."
    if compared:
        sample = sum(row["texts"] for row in compared.values())
        lead += f" The profiles are compared on {count(sample)} texts of shards chosen by hash."
    return Section("Match rates", lead, join(body))


def _rate_cells(
    langs: Sequence[str], texts: Mapping[str, tuple[int, int]], compared: Mapping[str, Mapping[str, int]]
) -> list[float | None]:
    """Return texts, share matched, and share matched under each profile, of several languages together."""
    total = sum(texts[lang][0] for lang in langs)
    matched = sum(texts[lang][1] for lang in langs)
    samples = [compared[lang] for lang in langs if lang in compared]
    size = sum(row["texts"] for row in samples)
    profiles = [name for name in next(iter(compared.values()), {}) if name != "texts"]
    return [total, matched / total, *(sum(row[name] for row in samples) / size if size else None for name in profiles)]


def _script(lang: str) -> str:
    try:
        return languages.get(lang).script
    except KeyError:
        return ""


def _lid_recall(truth: Mapping[str, Mapping[str, int]], recalls: Mapping[str, float]) -> Section:
    rows = []
    for lang in sorted(truth, key=recalls.__getitem__):
        total = sum(truth[lang].values())
        others = sorted(((n, other) for other, n in truth[lang].items() if other != lang), reverse=True)
        confusions = [join([lang_name(other), percent(n / total)], " ") for n, other in others[:NUM_CONFUSIONS]]
        rows.append([lang, total, recalls[lang], join(confusions, ", ")])
    columns = [
        text_column("true language", lang_name),
        Column("texts", count),
        Column("recall", percent),
        text_column("most often taken for"),
    ]
    bar_rows = [
        Bar(label=lang_name(lang), parts=[(recall, "var(--s1)", f"recall {percent(recall)}")], note=percent(recall))
        for lang, recall in sorted(recalls.items(), key=lambda item: -item[1])
    ]
    mean = sum(recalls.values()) / len(recalls)
    return Section(
        "Language identification",
        f"Share of each language's texts that are identified as that language; mean over {len(rows)} languages "
        f"{percent(mean)}. This pool states the language of its texts; only this page uses it.",
        join([bars(bar_rows), folded("Confusions", to_html(Table(columns, rows)))]),
    )
