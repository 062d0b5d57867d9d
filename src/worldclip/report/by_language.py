"""Results by language: bars, or a map of many languages, and every number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any

from worldclip.core.artifacts import Json
from worldclip.language import scripts
from worldclip.language.table import Language, Languages
from worldclip.report.html import Html, join, tag
from worldclip.report.metrics import CLASSIFICATION, DISTANCE, metric_name, task_name, top_metric
from worldclip.report.numbers import count, interval, percent, times
from worldclip.report.page import (
    Bar,
    Section,
    bars,
    find_language,
    first_and_more,
    folded,
    lang_name,
    language_column,
    language_name,
    legend,
)
from worldclip.report.results import Number, long_table
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

MAX_BARS = 40  # languages shown as bars; more are cells of a map
MAX_NAMED_LANGUAGES = 30  # languages of a mean that are named in sight
MAX_PARTS = 16  # rows of a dataset's parts that stay unfolded
# Steps of one colour, lighter to darker: they differ in lightness, so that they do without hue.  The darkest turns its
# text, see page.css.
STEPS = (3.0, 10.0, 30.0, 100.0)
STEP_NAMES = ("below 3×", "3 to 10×", "10 to 30×", "30 to 100×", "100× or more")
MIN_MEMBERS = 3  # languages of a family with a heading of its own
OTHER_FAMILIES = "other families"
SCORE_COLOURS = {"acc1": "var(--s1)", "acc5": "var(--s8)"}
FIND = (
    "To find a language: the table of all metrics below lists them by name, with family, script and resource level. "
    "A browser's own search (Ctrl+F) opens it."
)


def languages_section(datasets: Mapping[str, Json], languages: Languages) -> Section | None:
    """Return each dataset by language next to chance; None if nothing was measured."""
    if not datasets:
        return None
    colours = [
        (SCORE_COLOURS["acc1"], "top-1, or the metric named"),
        (SCORE_COLOURS["acc5"], "top-5"),
        ("var(--ink)", "95% interval (of top-5 where both are drawn)"),
        ("var(--s2)", "chance (of the same)"),
    ]
    lead = (
        "Languages sorted by result. Each task asks in one language at a time: classification among the class names of "
        "that language, retrieval among its texts."
    )
    parts = [legend(colours)]
    for name, result in datasets.items():
        parts.append(tag("h3", name, " ", tag("small", f"{count(result['num_images'])} images")))
        # The languages of the means, once for all tasks with the same languages.
        langs_of_means: dict[tuple[str, ...], None] = {}
        for task_result in result["tasks"].values():
            if task_result["is_averaged"]:
                langs_of_means[tuple(task_result["mean"]["languages"])] = None
        for langs in langs_of_means:
            text = f"Mean over {len(langs)} languages"
            names = ", ".join(language_name(lang, languages) or lang for lang in langs)
            if len(langs) <= MAX_NAMED_LANGUAGES:
                parts.append(tag("p", f"{text}: {names}.", class_="lead"))
            else:
                parts.append(folded(f"{text}, by name", tag("p", names, class_="lead")))
        for number, (task, task_result) in enumerate(result["tasks"].items()):
            metric = task_result.get("plotted", "")
            if task == CLASSIFICATION:
                metric = top_metric(task_result["mean"]["metrics"])
            drawn = _by_language(task, metric, task_result, languages) + _parts(task_result, languages)
            if number and drawn:
                drawn = folded(f"{task_name(task)}, by language", drawn)
            title = f"All metrics of {task_name(task)}"
            if len(task_result["languages"]) > MAX_BARS:
                title += ", languages by name"
            all_metrics = to_html(_metrics_table(task_result, metric, languages))
            parts += [drawn, folded(title, all_metrics)]
    return Section("By language", lead, join(parts))


def _by_language(task: str, metric: str, result: Json, languages: Languages) -> Html:
    """Return a task's main metric: a map of many languages, else bars; nothing where no metric is plotted."""
    records = {lang: record for lang, record in result["languages"].items() if metric in record["metrics"]}
    if not records:
        return Html()
    by_value = sorted(records, key=lambda lang: -records[lang]["metrics"][metric])
    in_table: dict[str, Language] = {}
    hovers: dict[str, str] = {}
    for lang in by_value:
        record = records[lang]
        facts = [f"{metric_name(metric)} {percent(record['metrics'][metric])}"]
        bounds = record["interval_95"].get(metric)
        if bounds:
            facts.append(str(interval(bounds)))
        chance = record["chance"].get(metric)
        if chance is not None:
            facts.append(f"chance {percent(chance)}")
        hovers[lang] = f"{lang}: {', '.join(facts)}; {count(record['n'])} queries"
        language = find_language(lang, languages)
        if language is not None:
            in_table[lang] = language
            hovers[lang] = f"{language.name} {hovers[lang]}; {_family_and_script(language)}"
    name = "top-1 · top-5" if metric == "acc5" else metric_name(metric)
    heading = tag("h4", task_name(task), " ", tag("small", name))
    if len(records) > MAX_BARS:
        cells = language_map(records, metric, in_table, hovers)
        if cells:
            return join([heading, cells, tag("p", FIND, class_="lead")])
    rows = []
    for lang in by_value:
        record = records[lang]
        value = record["metrics"][metric]
        parts = [(value, SCORE_COLOURS["acc1"], hovers[lang])]
        remark = percent(value)
        if metric == "acc5":  # top-5 behind top-1
            first = record["metrics"]["acc1"]
            parts = [(first, SCORE_COLOURS["acc1"], hovers[lang]), (value - first, SCORE_COLOURS["acc5"], hovers[lang])]
            remark = f"{percent(first)} · {percent(value)}"
        bounds = record["interval_95"].get(metric)
        chance = record["chance"].get(metric)
        rows.append(Bar(label=lang_name(lang, languages), parts=parts, note=remark, interval=bounds, mark=chance))
    return heading + first_and_more(rows, MAX_BARS, "more languages", bars)


def language_map(
    records: Mapping[str, Json], metric: str, languages: Mapping[str, Language], hovers: Mapping[str, str]
) -> Html:
    """Return cells by family, the largest family first; in it the language with most times chance first.

    Only known languages with a chance above 0 have a cell.  languages and hovers have the codes of the records as keys.
    """
    ratios: dict[str, float] = {}
    cells: dict[str, Html] = {}
    for lang, record in records.items():
        chance = record["chance"].get(metric)
        if lang not in languages or not chance:
            continue
        ratio = record["metrics"][metric] / chance
        ratios[lang] = ratio
        bounds = record["interval_95"].get(metric)
        # A language whose interval holds chance has a dashed border.
        look = f"step{sum(ratio >= bound for bound in STEPS)}"
        if bounds is not None and bounds[0] <= chance:
            look = "at-chance"
        name = tag("b", languages[lang].name)
        cells[lang] = tag("span", name, tag("small", times(ratio)), class_=f"c {look}", title=hovers[lang])
    if not cells:
        return Html()
    sizes = Counter(languages[lang].family for lang in cells)
    by_family: dict[tuple[int, str], list[Html]] = {}  # by (minus the size, name), small families as one at the end
    for lang in sorted(ratios, key=lambda lang: (-ratios[lang], lang)):
        family = languages[lang].family
        place = (0, OTHER_FAMILIES)
        if sizes[family] >= MIN_MEMBERS:
            place = (-sizes[family], family)
        by_family.setdefault(place, []).append(cells[lang])
    parts = []
    for (_, family), cells_of_family in sorted(by_family.items()):
        heading = tag("h5", family, " ", tag("small", count(len(cells_of_family))))
        parts.append(tag("div", heading, tag("div", *cells_of_family, class_="cells")))
    colours = [tag("span", tag("i", class_=f"step{i}"), name) for i, name in enumerate(STEP_NAMES)]
    colours.append(tag("span", tag("i", class_="at-chance"), "the 95% interval holds chance"))
    legend = tag("p", tag("span", "times chance:"), *colours, class_="legend map-legend")
    return legend + tag("div", *parts, class_="languages")


def _family_and_script(language: Language) -> str:
    return f"{language.family or 'no family'}, {scripts.NAMES.get(language.script, language.script)}"


def _parts(task: Json, languages: Languages) -> Html:
    """Return a dataset's parts: means over languages, or each language where a mean would mix questions."""
    by_part: dict[str, dict[tuple[str, str], Number]] = {}
    metrics: dict[str, None] = {}
    langs: dict[str, None] = {}
    for number in long_table(task["languages"].values()):
        if number.part:
            by_part.setdefault(number.part, {})[number.lang, number.metric] = number
            metrics[number.metric] = None
            langs[number.lang] = None
    if not by_part:
        return Html()
    # English and local questions differ in difficulty: their parts are columns side by side, never averaged.
    has_mean = task["is_averaged"] or len(task["languages"]) == 1
    titles: list[str] = []
    if has_mean:
        titles += map(metric_name, metrics)
    else:
        for lang, metric in product(langs, metrics):
            titles.append(f"{language_name(lang, languages) or lang}, {metric_name(metric)}")
    rows = []
    for part, cells in by_part.items():
        values: list[float | None] = []
        if has_mean:
            values += [task["mean"]["metrics"].get(f"{part}/{metric}") for metric in metrics]
        else:
            for place in product(langs, metrics):
                cell = cells.get(place)
                values.append(None if cell is None else cell.value)
        rows.append([part, *values, max(number.n for number in cells.values())])
    title = "part (mean over languages)" if task["is_averaged"] else "part"
    columns = [text_column(title), *columns_of(titles, percent), Column("queries", count)]
    drawn = to_html(Table(columns, rows))
    return drawn if len(rows) <= MAX_PARTS else folded(f"{len(rows)} parts", drawn)


def _metrics_table(task: Json, main: str, languages: Languages) -> Table:
    """Return every metric by language, with the interval, chance and multiple of chance of `main`, and the mean."""
    mean = task["mean"]
    records = task["languages"]
    number = percent if task["is_share"] else DISTANCE
    metrics = [name for name in mean["metrics"] if "/" not in name]
    is_long = len(records) > MAX_BARS  # then the names are what one looks for
    columns = [
        language_column("language", languages),
        text_column("family, script, resources"),
        *columns_of(map(metric_name, metrics), number),
        Column("95% interval", lambda bounds: interval(bounds, number) or ""),
        Column(f"chance of {metric_name(main)}", number),
        Column("times chance", times),
        Column("queries", count),
    ]
    names: dict[str, str] = {}  # in lower case, to sort by
    rows: list[list[Any]] = []
    for lang, record in records.items():
        language = find_language(lang, languages)
        names[lang] = (language.name if language else lang).casefold()
        about = None
        if language and is_long:
            about = f"{_family_and_script(language)}, {language.resource_level}"
        values = map(record["metrics"].get, metrics)
        bounds = record["interval_95"].get(main)
        rows.append([lang, about, *values, bounds, *_chance_and_multiple(record, main), record["n"]])
    if is_long:
        rows.sort(key=lambda row: (names[row[0]], row[0]))
    if not task["is_averaged"]:
        return Table(columns, rows)
    title = Html(f"mean over {len(mean['languages'])}")
    rows.append([title, None, *map(mean["metrics"].get, metrics), None, *_chance_and_multiple(mean, main), None])
    return Table(columns, rows, totals=[len(rows) - 1])


def _chance_and_multiple(record: Json, metric: str) -> list[float | None]:
    """Return chance and the multiple of it that is reached; None where the task knows no chance."""
    chance = record["chance"].get(metric)
    value = record["metrics"].get(metric)
    multiple = value / chance if chance and value is not None else None
    return [chance, multiple]
