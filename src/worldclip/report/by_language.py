"""Results by language: bars, or a map of many languages, and every number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
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
from worldclip.report.results import long_table, pivot
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
    return Section(
        "By language",
        "Languages sorted by result. Each task asks in one language at a time: classification among the class names of "
        "that language, retrieval among its texts.",
        join([legend(colours), *(_dataset(name, result, languages) for name, result in datasets.items())]),
    )


def _dataset(name: str, result: Json, languages: Languages) -> Html:
    parts = [tag("h3", name, " ", tag("small", f"{count(result['num_images'])} images"))]
    # The languages of the means, once for all tasks with the same languages.
    means = [task["mean"]["languages"] for task in result["tasks"].values() if task["is_averaged"]]
    for langs in dict.fromkeys(map(tuple, means)):
        text = f"Mean over {len(langs)} languages"
        names = ", ".join(language_name(lang, languages) or lang for lang in langs)
        if len(langs) <= MAX_NAMED_LANGUAGES:
            parts.append(tag("p", f"{text}: {names}.", class_="lead"))
        else:
            parts.append(folded(f"{text}, by name", tag("p", names, class_="lead")))
    for number, (task, task_result) in enumerate(result["tasks"].items()):
        drawn = _by_language(task, task_result, languages) + _parts(task_result, languages)
        if number and drawn:
            drawn = folded(f"{task_name(task)}, by language", drawn)
        title = f"All metrics of {task_name(task)}"
        if len(task_result["languages"]) > MAX_BARS:
            title += ", languages by name"
        all_metrics = to_html(_metrics_table(task_result, main_metric(task, task_result), languages))
        parts += [drawn, folded(title, all_metrics)]
    return join(parts)


def number_of(task: Json) -> Callable[[float], str]:
    """Return how the metrics of a task are written: shares in percent, distances as they are."""
    return percent if task["is_share"] else DISTANCE


def main_metric(task: str, result: Json) -> str:
    """Return the metric that is plotted by language; empty if none is."""
    return top_metric(result["mean"]["metrics"]) if task == CLASSIFICATION else result.get("plotted", "")


def _by_language(task: str, result: Json, languages: Languages) -> Html:
    """Return a task's main metric: a map of many languages, else bars."""
    metric = main_metric(task, result)
    records = {lang: record for lang, record in result["languages"].items() if metric in record["metrics"]}
    if not records:
        return Html()
    by_value = sorted(records, key=lambda lang: -records[lang]["metrics"][metric])
    hovers = {lang: _hover(lang, metric, records[lang], languages) for lang in by_value}
    name = "top-1 · top-5" if metric == "acc5" else metric_name(metric)
    heading = tag("h4", task_name(task), " ", tag("small", name))
    if len(records) > MAX_BARS:
        all_languages = {lang: find_language(lang, languages) for lang in by_value}
        in_table = {lang: language for lang, language in all_languages.items() if language is not None}
        cells = language_map(records, metric, in_table, hovers)
        if cells:
            return join([heading, cells, tag("p", FIND, class_="lead")])
    rows = [_bar(lang_name(lang, languages), metric, records[lang], hovers[lang]) for lang in by_value]
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
    langs_by_ratio = sorted(ratios, key=lambda lang: (-ratios[lang], lang))
    by_family: dict[str, list[str]] = {}
    for lang in langs_by_ratio:
        by_family.setdefault(languages[lang].family, []).append(lang)
    large = {family: langs for family, langs in by_family.items() if len(langs) >= MIN_MEMBERS}
    headings = {family: large[family] for family in sorted(large, key=lambda name: (-len(large[name]), name))}
    langs_of_small = [lang for lang in langs_by_ratio if languages[lang].family not in large]
    if langs_of_small:
        headings[OTHER_FAMILIES] = langs_of_small
    if not headings:
        return Html()
    parts = []
    for family, langs in headings.items():
        heading = tag("h5", family, " ", tag("small", count(len(langs))))
        parts.append(tag("div", heading, tag("div", *map(cells.get, langs), class_="cells")))
    colours = [tag("span", tag("i", class_=f"step{i}"), name) for i, name in enumerate(STEP_NAMES)]
    colours.append(tag("span", tag("i", class_="at-chance"), "the 95% interval holds chance"))
    legend = tag("p", tag("span", "times chance:"), *colours, class_="legend map-legend")
    return legend + tag("div", *parts, class_="languages")


def _bar(label: str, metric: str, record: Json, hover: str) -> Bar:
    """Return top-1 and, if `metric` is acc5, top-5 behind it; else the metric."""
    value = record["metrics"][metric]
    parts = [(value, SCORE_COLOURS["acc1"], hover)]
    remark = percent(value)
    if metric == "acc5":
        first = record["metrics"]["acc1"]
        parts = [(first, SCORE_COLOURS["acc1"], hover), (value - first, SCORE_COLOURS["acc5"], hover)]
        remark = f"{percent(first)} · {percent(value)}"
    bounds = record["interval_95"].get(metric)
    return Bar(label=label, parts=parts, note=remark, interval=bounds, mark=record["chance"].get(metric))


def _hover(lang: str, metric: str, record: Json, languages: Languages) -> str:
    """Return language, value, interval, chance, number of queries, family and script."""
    language = find_language(lang, languages)
    facts = [f"{metric_name(metric)} {percent(record['metrics'][metric])}"]
    bounds = record["interval_95"].get(metric)
    if bounds:
        facts.append(str(interval(bounds)))
    chance = record["chance"].get(metric)
    if chance is not None:
        facts.append(f"chance {percent(chance)}")
    hover = f"{lang}: {', '.join(facts)}; {count(record['n'])} queries"
    if language is None:
        return hover
    return f"{language.name} {hover}; {_family_and_script(language)}"


def _family_and_script(language: Language) -> str:
    return f"{language.family or 'no family'}, {scripts.NAMES.get(language.script, language.script)}"


def _parts(task: Json, languages: Languages) -> Html:
    """Return a dataset's parts: means over languages, or each language where a mean would mix questions."""
    numbers = [number for number in long_table(task["languages"].values()) if number.part]
    # English and local questions differ in difficulty: their parts are columns side by side, never averaged.
    by_part = pivot(numbers, lambda number: number.part, lambda number: (number.lang, number.metric))
    if not by_part:
        return Html()
    metrics = list(dict.fromkeys(number.metric for number in numbers))
    langs = list(dict.fromkeys(number.lang for number in numbers))
    has_mean = task["is_averaged"] or len(task["languages"]) == 1
    titles: list[str] = []
    if has_mean:
        titles += map(metric_name, metrics)
    else:
        for lang in langs:
            name = language_name(lang, languages) or lang
            titles += [f"{name}, {metric_name(metric)}" for metric in metrics]
    rows = []
    for part, cells in by_part.items():
        values: list[float | None] = []
        if has_mean:
            values += [task["mean"]["metrics"].get(f"{part}/{metric}") for metric in metrics]
        else:
            for place in product(langs, metrics):
                values.append(cells[place].value if place in cells else None)
        rows.append([part, *values, max(number.n for number in cells.values())])
    title = "part (mean over languages)" if task["is_averaged"] else "part"
    columns = [text_column(title), *columns_of(titles, percent), Column("queries", count)]
    drawn = to_html(Table(columns, rows))
    return drawn if len(rows) <= MAX_PARTS else folded(f"{len(rows)} parts", drawn)


def _metrics_table(task: Json, main: str, languages: Languages) -> Table:
    """Return every metric by language, with the interval, chance and multiple of chance of `main`, and the mean."""
    mean = task["mean"]
    records = task["languages"]
    number = number_of(task)
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
    rows: list[list[Any]] = []
    for lang in sorted(records, key=partial(_name_key, languages=languages)) if is_long else records:
        record = records[lang]
        language = find_language(lang, languages)
        about = f"{_family_and_script(language)}, {language.resource_level}" if language and is_long else None
        values = [record["metrics"][name] for name in metrics]
        bounds = record["interval_95"].get(main)
        rows.append([lang, about, *values, bounds, *_chance_and_multiple(record, main), record["n"]])
    if not task["is_averaged"]:
        return Table(columns, rows)
    means = [mean["metrics"][name] for name in metrics]
    title = Html(f"mean over {len(mean['languages'])}")
    rows.append([title, None, *means, None, *_chance_and_multiple(mean, main), None])
    return Table(columns, rows, totals=[len(rows) - 1])


def _name_key(lang: str, languages: Languages) -> tuple[str, str]:
    language = find_language(lang, languages)
    name = language.name if language else lang
    return name.casefold(), lang


def _chance_and_multiple(record: Json, metric: str) -> list[float | None]:
    """Return chance and the multiple of it that is reached; None where the task knows no chance."""
    chance = record["chance"].get(metric)
    value = record["metrics"].get(metric)
    multiple = value / chance if chance and value is not None else None
    return [chance, multiple]
