"""How many texts match, and how often language identification is right where the pool knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worldclip.contracts.reasons import MATCHED, Reason
from worldclip.contracts.records import MatchReport
from worldclip.language.table import Languages
from worldclip.report.html import Html, join, tag
from worldclip.report.language_map import cell, step_legend, step_of
from worldclip.report.numbers import count, percent, short
from worldclip.report.page import (
    Bar,
    Card,
    Section,
    bars,
    first_and_more,
    folded,
    lang_name,
    language_column,
    language_label,
    note,
)
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

MAX_ROWS = 15  # languages in sight; the others are folded
NO_LANGUAGE = Reason.NO_LANGUAGE.label
MAX_RECALL_BARS = 40  # languages with a bar of recall; more are cells
RECALL_STEPS = (0.1, 0.5, 0.8, 0.95)
RECALL_STEP_NAMES = ("below 10%", "10 to 50%", "50 to 80%", "80 to 95%", "95% or more")
NUM_CONFUSIONS = 3  # languages that texts are most often taken for


Truth = Mapping[str, Mapping[str, int]]
"""{true language: {language found, or no_language: texts}}."""


def cards(report: MatchReport) -> list[Card]:
    """Return the number of texts with a match."""
    matched = short(report["num_matched_texts"])
    return [Card(matched, "texts with a match", f"of {count(report['pairs'])}")]


def sections(report: MatchReport, languages: Languages) -> list[Section]:
    """Return match rates, and the recall of language identification where the pool states languages."""
    texts: dict[str, tuple[int, int]] = {}
    for lang, row in report.get("texts", {}).items():
        matched = row.get(MATCHED, 0)
        total = matched + row.get(Reason.NO_MATCH.label, 0)
        if total:
            texts[lang] = (total, matched)
    parts = [_rates(texts, report.get("profiles", {}), languages)] if texts else []
    return parts + ([_lid_recall(report, languages)] if "truth" in report else [])


def _rates(
    texts: Mapping[str, tuple[int, int]], compared: Mapping[str, Mapping[str, int]], languages: Languages
) -> Section:
    """Return match rates by script and by language; texts: (with entries for their language, matched)."""
    by_size = sorted(texts, key=lambda lang: -texts[lang][0])
    by_script: dict[str, list[str]] = {}
    for lang in by_size:
        by_script.setdefault(_script(lang, languages), []).append(lang)
    scripts = sorted(by_script.items(), key=lambda item: -sum(texts[lang][0] for lang in item[1]))
    profiles = [name for name in next(iter(compared.values()), {}) if name != "texts"]

    def cells(langs: Sequence[str]) -> list[float | None]:
        """Return texts, share matched, and share matched under each profile, of several languages together."""
        total = sum(texts[lang][0] for lang in langs)
        matched = sum(texts[lang][1] for lang in langs)
        samples = [compared[lang] for lang in langs if lang in compared]
        size = sum(row["texts"] for row in samples)
        under_profiles = [sum(row[name] for row in samples) / size if size else None for name in profiles]
        return [total, matched / total, *under_profiles]

    script_rows = [[script, len(langs), *cells(langs)] for script, langs in scripts]
    lang_rows = [[lang, _script(lang, languages), *cells([lang])] for lang in by_size]
    titles = ["matched", *(name.replace("_", " ") for name in profiles)]
    rates = [Column("texts", count), *columns_of(titles, percent)]
    lang_columns = [language_column("language", languages), text_column("script"), *rates]
    body = [
        to_html(Table([text_column("script"), Column("languages", count), *rates], script_rows)),
        first_and_more(lang_rows, MAX_ROWS, "more", lambda rows: to_html(Table(lang_columns, rows))),
    ]
    lead = "Share of texts with at least one match, among texts whose language has entries, under the run's profile."
    if compared:
        sample = sum(row["texts"] for row in compared.values())
        lead += f" The profiles are compared on {count(sample)} texts of shards chosen by hash."
    return Section("Match rates", lead, join(body))


def _script(lang: str, languages: Languages) -> str:
    row = languages.by_code().get(lang)
    return row.script if row else ""


def _lid_recall(report: MatchReport, languages: Languages) -> Section:
    """Return how much of each language's texts identification finds, and where the others go."""
    truth = report["truth"]
    recalls = report["lid_recall"]
    unknown = report.get("lid_unknown", [])
    mean = sum(recalls.values()) / len(recalls)
    best_first = sorted(recalls, key=lambda lang: (-recalls[lang], lang))
    if len(recalls) <= MAX_RECALL_BARS:
        drawn = bars(_recall_bar(lang, recalls[lang], languages) for lang in best_first)
    else:
        drawn = _recall_cells(truth, recalls, unknown, languages)
    losses = folded("Lost by language, and confusions", to_html(_loss_table(truth, recalls, languages)))
    lead = (
        f"Share of each language's texts that are identified as that language; mean over {len(recalls)} languages "
        f"{percent(mean)}. This pool states the language of its texts; only this page uses it."
    )
    return Section("Language identification", lead, join([drawn, _unknown_note(truth, unknown, languages), losses]))


def _recall_bar(lang: str, recall: float, languages: Languages) -> Bar:
    parts = [(recall, "var(--s1)", f"recall {percent(recall)}")]
    return Bar(label=lang_name(lang, languages), parts=parts, note=percent(recall))


def _recall_cells(truth: Truth, recalls: Mapping[str, float], unknown: Sequence[str], languages: Languages) -> Html:
    """Return a cell per language, the worst first; those that the model has no label for have a dashed border."""
    cells = []
    for lang in sorted(recalls, key=lambda lang: (recalls[lang], lang)):
        class_ = "at-chance" if lang in unknown else f"step{step_of(recalls[lang], RECALL_STEPS)}"
        recall = percent(recalls[lang])
        hover = f"{language_label(lang, languages)}: {recall} of {count(sum(truth[lang].values()))} texts"
        cells.append(cell(lang, recall, class_, hover))
    steps = step_legend("texts found:", RECALL_STEP_NAMES, "no label in the model")
    return steps + tag("div", tag("div", *cells, class_="cells"), class_="languages")


def _unknown_note(truth: Truth, unknown: Sequence[str], languages: Languages) -> Html | None:
    if not unknown:
        return None
    num_texts = sum(sum(truth[lang].values()) for lang in unknown)
    names = ", ".join(language_label(lang, languages) for lang in unknown)
    text = f"The model has no label for {len(unknown)} of these languages, with {count(num_texts)} texts: {names}."
    return note(f"{text} Another model may have (languages.lid_model), or the pool states them (pool.lang).")


def _loss_table(truth: Truth, recalls: Mapping[str, float], languages: Languages) -> Table:
    """Return texts of each language: found, taken for another, without a language; the worst first."""
    rows = []
    for lang in sorted(truth, key=lambda lang: (recalls[lang], lang)):
        total = sum(truth[lang].values())
        without = truth[lang].get(NO_LANGUAGE, 0)
        others = [(n, other) for other, n in truth[lang].items() if other not in (lang, NO_LANGUAGE)]
        confusions = []
        for n, other in sorted(others, reverse=True)[:NUM_CONFUSIONS]:
            confusions.append(join([lang_name(other, languages), percent(n / total)], " "))
        wrong = 1 - recalls[lang] - without / total
        rows.append([lang, total, recalls[lang], max(0.0, wrong), without / total, join(confusions, ", ")])
    columns = [
        language_column("true language", languages),
        Column("texts", count),
        *columns_of(("recall", "taken for another", "no language"), percent),
        text_column("most often taken for"),
    ]
    return Table(columns, rows)
