"""Evaluation over many languages: a sorted plot, grids by family, script and resource level, published numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from worldclip.evaluate import suites
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.compare import asked_in, signed
from worldclip.evaluate.report import RAW
from worldclip.evaluate.tasks import LOCAL
from worldclip.language import table as languages
from worldclip.report.charts import Dot, dot_chart
from worldclip.report.page import (
    Bar,
    Section,
    bars,
    cards,
    count,
    figure,
    folded,
    lang_name,
    legend,
    note,
    percent,
    table,
)

Report = Mapping[str, Any]

HEADLINES = {  # the metrics of a task that stand for it, the first one in plots
    "zeroshot_classification": ("acc1", "acc5"),
    "multilabel_classification": ("mean_average_precision",),
    "image_text_retrieval": ("text_retrieval_recall@1", "image_retrieval_recall@1"),
    "cross_lingual_consistency_classes": ("consistency@10",),
    "cross_lingual_consistency_captions": ("consistency@10",),
}
BESIDE = ("few_shot", "linear_probe")  # tasks whose metrics are called as a data set's own
MIN_LANGUAGES = 3  # fewer make no plot
LEVELS = {"high": "var(--s1)", "mid": "var(--s4)", "low": "var(--s2)"}
NO_LEVEL = "var(--s7)"  # colour of codes that the table of languages lacks
MAX_SCRIPTS, MAX_FAMILIES = 6, 14  # of the grid; the rest are taken together
MAX_NAMED = 20  # languages in a cell's hover text
SHADE_PCT = 60  # strength of a cell's colour at 100%, so that its text stays readable
ALL = "all"


def results_section(report: Report) -> Section | None:
    """Every number on one table; None where nothing was measured."""
    rows: list[list[str]] = []
    for dataset, found in report["datasets"].items():
        of_dataset = [row for task, of_task in found["tasks"].items() for row in _result_rows(dataset, task, of_task)]
        rows += [[escape(dataset) if i == 0 else "", *row] for i, row in enumerate(of_dataset)]
    if not rows:
        return None
    bad = {name: found["num_bad_images"] for name, found in report["datasets"].items() if found["num_bad_images"]}
    remarks = "".join(note(f"{name}: {num} images would not decode and are left out.") for name, num in bad.items())
    return Section(
        anchor="results",
        heading="Results",
        lead="Each data set and what it asks; the mean over languages where there are several, with the 95% interval "
        "where there is one. The tick in a bar is chance.",
        body=table(
            ["data set", "task", "metric", "", "value", "languages", "95% interval", "asked"], rows, text_columns=4
        )
        + _suite(report)
        + remarks,
    )


def _suite(report: Report) -> str:
    """The one number of a suite, or what it lacks."""
    if "suite" not in report:
        return ""
    suite = report["suite"]
    if suite["mean"] is None:
        lacking = f"{len(suite['missing'])} of its data sets are missing: {', '.join(suite['missing'])}"
        return note(f"Suite {suite['name']} has no mean, as {lacking}.")
    return cards([(percent(suite["mean"]), f"suite {suite['name']}", "plain mean over its data sets")])


def _result_rows(dataset: str, task: str, of_task: Report) -> list[list[str]]:
    """Task (where another begins), metric, bar, value, languages, interval, number asked."""
    records = of_task["languages"]
    if LOCAL in records or len(records) == 1:  # English and local questions are two numbers
        groups = [(lang, _with_made(dataset, record), record["chance"], record) for lang, record in records.items()]
    else:
        mean = of_task["mean"]
        groups = [(str(len(mean["languages"])), mean["metrics"], mean["chance"], None)]
    rows: list[list[str]] = []
    for over, metrics, chance, record in groups:
        for metric in _headline(dataset, task, metrics):
            interval = record["interval_95"].get(metric) if record else None
            about = ["" if rows else escape(task_name(task)), escape(metric.replace("_", " "))]
            bar = "" if task in RAW else _small_bar(metrics[metric], interval, chance.get(metric))
            between = " to ".join(_value(task, bound) for bound in interval) if interval else ""
            asked = count(record["n"]) if record else ""
            rows.append([*about, bar, _value(task, metrics[metric]), escape(over), between, asked])
    return rows


def _with_made(dataset: str, record: Report) -> dict[str, float]:
    """A record's metrics and the numbers that the catalog makes of them: a worst region, the mean of two."""
    made = {metric: suites.value(metric, record) for metric in (CATALOG[dataset].metrics if dataset in CATALOG else ())}
    return {**record["metrics"], **{metric: number for metric, number in made.items() if number is not None}}


def _headline(dataset: str, task: str, metrics: Mapping[str, float]) -> list[str]:
    """The metrics that the catalog has for the data set, else those that stand for the task."""
    of_catalog = CATALOG[dataset].metrics if dataset in CATALOG and not task.startswith(BESIDE) else ()
    found = [metric for metric in of_catalog if metric in metrics]
    return found or [metric for metric in HEADLINES.get(task, tuple(metrics)) if metric in metrics]


def task_name(task: str) -> str:
    """As people read it."""
    return task.removeprefix("cross_lingual_").replace("_", " ")


def _value(task: str, value: float) -> str:
    return f"{value:.3f}" if task in RAW else percent(value)


def _small_bar(value: float, interval: Sequence[float] | None, chance: float | None) -> str:
    """A bar of 0 to 1 that stands in a table's cell."""
    parts = f'<i style="width:{100 * value:.1f}%;background:var(--s1)"></i>'
    if interval:
        parts += f'<u style="left:{100 * interval[0]:.1f}%;width:{100 * (interval[1] - interval[0]):.1f}%"></u>'
    if chance is not None:
        parts += f'<s style="left:{100 * chance:.1f}%"></s>'
    return f'<span class="bars cell"><span class="b">{parts}</span></span>'


def languages_section(report: Report) -> Section | None:
    """Each task that was asked in several languages; None where there is none."""
    parts = []
    for dataset, found in report["datasets"].items():
        for task, of_task in found["tasks"].items():
            for metric in HEADLINES.get(task, ())[:1]:
                records = {lang: found for lang, found in of_task["languages"].items() if metric in found["metrics"]}
                if len(records) >= MIN_LANGUAGES:
                    parts.append(_task(dataset, task, metric, records))
    if not parts:
        return None
    return Section(
        anchor="by-language",
        heading="Languages, families, scripts",
        lead="Languages in order of what the model reaches in them, each with its 95% interval and, as a short rule, "
        "chance; means by family and script, and by how much text a language has. A language without data is absent. "
        "Grids leave out codes that the table of languages lacks.",
        body="".join(parts),
    )


def _task(dataset: str, task: str, metric: str, records: Mapping[str, Report]) -> str:
    values = {lang: record["metrics"][metric] for lang, record in records.items()}
    ordered = sorted(values, key=lambda lang: -values[lang])
    dots = [_dot(lang, metric, records[lang]) for lang in ordered]
    chart = dot_chart(dots, y_label=f"{metric} %", x_label="languages, best first")
    remark = f"%, mean {percent(sum(values.values()) / len(values))} over {len(values)} languages"
    heading = f"<h3>{escape(dataset)} <small><code>{escape(task_name(task))}</code></small></h3>"
    order = folded(
        "the languages in this order",
        table(
            ["language", escape(metric), "95% interval", "chance", "asked"],
            [_language_row(lang, metric, records[lang]) for lang in ordered],
        ),
    )
    rows = grouped(values)
    colours = {dot.colour for dot in dots}
    levels = [*((colour, f"{level} resource") for level, colour in LEVELS.items()), (NO_LEVEL, "no known level")]
    keys = legend([(colour, name) for colour, name in levels if colour in colours])
    return (
        heading + figure(escape(metric.replace("_", " ")), remark, keys + chart) + order + _grid(rows) + _levels(rows)
    )


def _dot(lang: str, metric: str, record: Report) -> Dot:
    language = language_of(lang)
    interval, chance = record["interval_95"].get(metric), record["chance"].get(metric)
    value = record["metrics"][metric]
    between = f", {percent(interval[0])} to {percent(interval[1])}" if interval else ""
    return Dot(
        label=lang,
        hover=f"{language.name if language else ''} {lang}: {percent(value)}{between}; asked {record['n']:,}".strip(),
        y=100 * value,
        interval=(100 * interval[0], 100 * interval[1]) if interval else None,
        chance=None if chance is None else 100 * chance,
        colour=LEVELS.get(language.resource_level, NO_LEVEL) if language else NO_LEVEL,
    )


def _language_row(lang: str, metric: str, record: Report) -> list[str]:
    interval, chance = record["interval_95"].get(metric), record["chance"].get(metric)
    between = f"{percent(interval[0])} to {percent(interval[1])}" if interval else ""
    shown_chance = "" if chance is None else percent(chance)
    return [lang_name(lang), percent(record["metrics"][metric]), between, shown_chance, count(record["n"])]


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
    """Families by scripts, the most frequent first; a cell is the mean and the number of its languages."""
    if not rows:
        return ""
    families = _kept([language.family for language, _ in rows], MAX_FAMILIES, "other families")
    scripts = _kept([language.script for language, _ in rows], MAX_SCRIPTS, "other scripts")
    cells: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for language, value in rows:
        family, script = families[language.family], scripts[language.script]
        for place in ((family, script), (family, ALL), (ALL, script), (ALL, ALL)):
            cells[place].append((language.name, value))
    columns = [*dict.fromkeys(scripts.values()), ALL]
    body = [
        [escape(family), *(_cell(cells.get((family, script), [])) for script in columns)]
        for family in [*dict.fromkeys(families.values()), ALL]
    ]
    return table(["family", *map(escape, columns)], body, last="total")


def _kept(names: Sequence[str], limit: int, rest: str) -> dict[str, str]:
    """name -> itself for the `limit` most frequent, `rest` for the others, in order of frequency."""
    times = Counter(names)
    ordered = sorted(times, key=lambda name: (-times[name], name))
    return {name: name if i < limit or len(ordered) == limit + 1 else rest for i, name in enumerate(ordered)}


def _cell(values: Sequence[tuple[str, float]]) -> str:
    if not values:
        return ""
    mean = float(np.mean([value for _, value in values]))
    hover = ", ".join(
        f"{name} {percent(value)}" for name, value in sorted(values, key=lambda item: -item[1])[:MAX_NAMED]
    )
    shade = f"background:color-mix(in srgb,var(--s1) {SHADE_PCT * mean:.0f}%,transparent)"
    shown = f"{percent(mean)} <small>({len(values)})</small>"
    return f'<span class="shade" style="{shade}" title="{escape(hover)}">{shown}</span>'


def _levels(rows: Sequence[tuple[languages.Language, float]]) -> str:
    drawn = []
    for level, colour in LEVELS.items():
        values = [value for language, value in rows if language.resource_level == level]
        if values:
            mean = float(np.mean(values))
            label = f"{level} <small>({len(values)} languages)</small>"
            drawn.append(Bar(label=label, parts=[(mean, colour, f"{level}: {percent(mean)}")], note=percent(mean)))
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
        ours = [_number(row["ours_pct"]), _number(row["published_pct"]), difference, row.get("over", "")]
        rows.append([escape(row["title"]), *ours, source])
    remarks = "".join(note(f"{row['title']}: {row['protocol']}") for row in report["published"]["rows"])
    return Section(
        anchor="published",
        heading="Beside published numbers",
        lead=f"{escape(report['published']['against'])}, percent; an exclamation mark stands by a difference over 0.2.",
        body=table(["figure", "ours", "published", "difference", "languages", "source"], rows)
        + folded("protocols", remarks),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def comparison_section(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> Section:
    """Rows of evaluate.compare: differences with their paired intervals."""
    cells: list[list[str]] = []
    before = ("", "")
    for row in rows:
        low, high = row.get("interval_95", (None, None))
        interval = "" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
        difference = signed(row["task"], row["difference"])
        shown = f"<b>{difference} *</b>" if row.get("is_significant") else difference
        values = [_value(row["task"], row["first"]), _value(row["task"], row["second"])]
        name = "" if row["dataset"] == before[0] else escape(row["dataset"])
        task = "" if (row["dataset"], row["task"]) == before else escape(task_name(row["task"]))
        before = row["dataset"], row["task"]
        cells.append([name, task, escape(row["metric"].replace("_", " ")), asked_in(row), *values, shown, interval])
    head = ["data set", "task", "metric", "languages", "first", "second", "difference", "95% interval"]
    means = dict.fromkeys(" ".join(row["languages"]) for row in rows if len(row["languages"]) > 1)
    return Section(
        anchor="comparison",
        heading="Two evaluations",
        lead=f"First: {escape(first)}. Second: {escape(second)}. A star marks differences whose interval leaves out 0: "
        "a paired bootstrap over images, both models and all languages on the same resample.",
        body=table(head, cells, text_columns=3) + "".join(note(f"Means over: {names}.") for names in means),
    )
