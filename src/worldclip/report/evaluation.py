"""Evaluation over many languages: a sorted plot, grids by family, script and resource level, published numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from worldclip import languages
from worldclip.report.charts import Line, line_chart
from worldclip.report.page import Bar, Section, bars, figure, folded, lang_name, note, percent, table

Report = Mapping[str, Any]

HEADLINE = {  # the metric of a task that stands for it
    "zeroshot_classification": "acc1",
    "multilabel_classification": "mean_average_precision",
    "image_text_retrieval": "text_retrieval_recall@1",
    "cross_lingual_consistency_classes": "consistency@10",
    "cross_lingual_consistency_captions": "consistency@10",
}
MIN_LANGUAGES = 3  # fewer make no plot
LEVELS = ("high", "mid", "low")


def languages_section(report: Report) -> Section | None:
    """Each task that was asked in several languages; None where there is none."""
    parts = []
    for dataset, found in report["datasets"].items():
        for task, of_task in found["tasks"].items():
            metric = HEADLINE.get(task)
            values = {
                lang: record["metrics"][metric]
                for lang, record in of_task["languages"].items()
                if metric in record["metrics"]
            }
            if len(values) >= MIN_LANGUAGES:
                parts.append(_task(dataset, task, str(metric), values, of_task))
    if not parts:
        return None
    return Section(
        anchor="by-language",
        heading="Languages, families, scripts",
        lead="Languages in order of what the model reaches in them; means by family and script, and by how much text a "
        "language has. A language without data is absent. Grids leave out codes that the table of languages lacks.",
        body="".join(parts),
    )


def _task(dataset: str, task: str, metric: str, values: Mapping[str, float], of_task: Report) -> str:
    ordered = sorted(values.items(), key=lambda item: -item[1])
    x = [float(place) for place in range(1, len(ordered) + 1)]
    curves = [Line(name=metric, x=x, y=[100 * value for _, value in ordered])]
    chance = of_task["mean"]["chance"].get(metric)
    marks = [] if chance is None else [(100 * chance, "chance")]
    chart = line_chart(
        curves, x_label="languages, best first", y_label=f"{metric} %", y_from_zero=True, marks=marks, width=720
    )
    mean = sum(values.values()) / len(values)
    remark = f"mean {percent(mean)} over {len(values)} languages"
    heading = f"<h3>{escape(dataset)} <small><code>{escape(task.replace('_', ' '))}</code></small></h3>"
    order = folded(
        "the languages in this order",
        table(["language", escape(metric)], [[lang_name(lang), percent(value)] for lang, value in ordered]),
    )
    rows = grouped(values)
    return heading + figure(escape(metric), remark, chart) + order + _grid(rows) + _levels(rows)


def grouped(values: Mapping[str, float]) -> list[tuple[languages.Language, float]]:
    """The languages of the table among `values`, data sets' own codes (deu_Latn, zh_yue) resolved."""
    found = []
    for code, value in values.items():
        if (language := language_of(code)) is not None:
            found.append((language, value))
    return found


def language_of(code: str) -> languages.Language | None:
    """The row of a code: ours, a Wikipedia's, or FLORES' form; None where there is none."""
    try:
        return languages.get(languages.from_wikipedia(code))
    except KeyError:
        pass
    if languages.scheme_of(code) != "glotlid" or (ours := languages.from_lid(code, "glotlid")) == languages.OTHER:
        return None
    return languages.get(ours)


def _grid(rows: Sequence[tuple[languages.Language, float]]) -> str:
    """Families by scripts; a cell is the mean and the number of its languages."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for language, value in rows:
        cells[language.family, language.script].append(value)
    families = _by_size([language.family for language, _ in rows])
    scripts = _by_size([language.script for language, _ in rows])
    body = [[escape(family), *(_cell(cells.get((family, script), [])) for script in scripts)] for family in families]
    return table(["family", *map(escape, scripts)], body) if rows else ""


def _by_size(names: Sequence[str]) -> list[str]:
    return sorted(set(names), key=lambda name: (-names.count(name), name))


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = float(np.mean(values))
    shade = f"background:color-mix(in srgb,var(--s1) {100 * mean:.0f}%,transparent)"
    return f'<span style="{shade}">{percent(mean)} <small>({len(values)})</small></span>'


def _levels(rows: Sequence[tuple[languages.Language, float]]) -> str:
    drawn = []
    for level in LEVELS:
        values = [value for language, value in rows if language.resource_level == level]
        if values:
            mean = float(np.mean(values))
            label = f"{level} <small>({len(values)} languages)</small>"
            drawn.append(Bar(label=label, parts=[(mean, "var(--s1)", f"{level}: {percent(mean)}")], note=percent(mean)))
    return bars(drawn) if drawn else ""


def published_section(report: Report) -> Section | None:
    """Ours beside the published numbers; None where the evaluation did not ask for them."""
    if "published" not in report:
        return None
    rows = []
    for row in report["published"]["rows"]:
        difference = "" if row["difference_pct"] is None else f"{row['difference_pct']:+.1f}"
        if row["differs"]:
            difference = f"<b>{difference} !</b>"
        source = escape(row["source"] or "") + (" <small>(secondary)</small>" if row["is_secondary"] else "")
        rows.append([escape(row["title"]), _number(row["ours_pct"]), _number(row["published_pct"]), difference, source])
    remarks = "".join(note(f"{row['title']}: {row['protocol']}") for row in report["published"]["rows"])
    return Section(
        anchor="published",
        heading="Beside published numbers",
        lead=f"{escape(report['published']['against'])}, percent; an exclamation mark stands by a difference over 0.2.",
        body=table(["figure", "ours", "published", "difference", "source"], rows) + folded("protocols", remarks),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def comparison_section(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> Section:
    """Rows of evaluate.compare: differences with their paired intervals."""
    cells = []
    for row in rows:
        low, high = row.get("interval_95", (None, None))
        interval = "" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
        difference = f"{100 * row['difference']:+.1f}"
        shown = f"<b>{difference} *</b>" if row.get("is_significant") else difference
        values = [percent(row["first"]), percent(row["second"])]
        about = [escape(row["dataset"]), escape(row["task"]), escape(row["metric"]), str(len(row["languages"]))]
        cells.append([*about, *values, shown, interval])
    head = ["data set", "task", "metric", "languages", "first", "second", "difference", "95% interval"]
    over = "".join(note(f"Means over: {names}.") for names in dict.fromkeys(" ".join(row["languages"]) for row in rows))
    return Section(
        anchor="comparison",
        heading="Two evaluations",
        lead=f"First: {escape(first)}. Second: {escape(second)}. A star marks differences whose interval leaves out 0: "
        "a paired bootstrap over queries, both models and all languages on the same resample.",
        body=table(head, cells, text_columns=3) + over,
    )
