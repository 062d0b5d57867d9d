"""Results over many languages: a sorted plot, means by family and script, and by resource level."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from worldclip.core.records import DatasetResult, LanguageResult
from worldclip.language import table as languages
from worldclip.language.table import Language
from worldclip.report.chart import Dot, dot_chart
from worldclip.report.html import Html, join, tag
from worldclip.report.numbers import count, interval, percent
from worldclip.report.page import Bar, Section, bars, code, figure, folded, lang_name, legend
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

MIN_LANGUAGES = 3  # fewer make no plot
LEVEL_COLOURS = {"high": "var(--s1)", "mid": "var(--s4)", "low": "var(--s2)"}
NO_LEVEL_COLOUR = "var(--s7)"  # of codes that are not in the table of languages
MAX_SCRIPTS, MAX_FAMILIES = 6, 14  # of the grid; the others are taken together
MAX_NAMED = 20  # languages in a cell's hover text
SHADE_PCT = 60  # strength of a cell's colour at 100%, so that its text stays readable
ALL = "all"


def languages_section(datasets: Mapping[str, DatasetResult]) -> Section | None:
    """Return the results of tasks with several languages; None if there are none."""
    parts = []
    for dataset, result in datasets.items():
        for task, task_result in result["tasks"].items():
            metric = task_result.get("plotted", "")
            records = {lang: record for lang, record in task_result["languages"].items() if metric in record["metrics"]}
            if len(records) >= MIN_LANGUAGES:
                parts.append(_task(dataset, task, metric, records))
    if not parts:
        return None
    return Section(
        "Languages, families, scripts",
        "Languages sorted by result, each with its 95% interval and, as a short rule, chance; then means by "
        "family and script, and by how much text a language has. Languages without data are absent. The grid leaves "
        "out codes that are not in the table of languages.",
        join(parts),
    )


def _task(dataset: str, task: str, metric: str, records: Mapping[str, LanguageResult]) -> Html:
    values = {lang: record["metrics"][metric] for lang, record in records.items()}
    langs = sorted(values, key=lambda lang: -values[lang])
    dots = [_dot(lang, metric, records[lang]) for lang in langs]
    used = {dot.colour for dot in dots}
    levels = [(colour, f"{level} resource") for level, colour in LEVEL_COLOURS.items()]
    levels.append((NO_LEVEL_COLOUR, "unknown level"))
    title = metric.replace("_", " ")
    chart = dot_chart(dots, y_label=f"{title}, %", x_label="languages, best first")
    remark = f"%, mean {percent(sum(values.values()) / len(values))} over {len(values)} languages"
    rows = []
    for lang in langs:
        record = records[lang]
        bounds, chance = record["interval_95"].get(metric), record["chance"].get(metric)
        rows.append([lang, values[lang], interval(bounds), chance, record["n"]])
    columns = [
        text_column("language", lang_name),
        Column(title, percent),
        Column("95% interval"),
        Column("chance", percent),
        Column("queries", count),
    ]
    in_table = known_languages(values)
    task_name = task.removeprefix("cross_lingual_").replace("_", " ")
    return join(
        [
            tag("h3", dataset, " ", tag("small", code(task_name))),
            figure(title, remark, legend(level for level in levels if level[0] in used) + chart),
            folded("Languages in this order", to_html(Table(columns, rows))),
            to_html(_grid(in_table)) if in_table else "",
            _level_bars(in_table),
        ]
    )


def _dot(lang: str, metric: str, record: LanguageResult) -> Dot:
    language = find_language(lang)
    bounds, chance = record["interval_95"].get(metric), record["chance"].get(metric)
    value = record["metrics"][metric]
    name = f"{language.name} {lang}" if language else lang
    between = f", {interval(bounds)}" if bounds else ""
    return Dot(
        label=lang,
        hover=f"{name}: {percent(value)}{between}; {count(record['n'])} queries",
        y=100 * value,
        interval=(100 * bounds[0], 100 * bounds[1]) if bounds else None,
        chance=None if chance is None else 100 * chance,
        colour=LEVEL_COLOURS[language.resource_level] if language else NO_LEVEL_COLOUR,
    )


def known_languages(values: Mapping[str, float]) -> list[tuple[Language, float]]:
    """Return the languages of the table among `values`; datasets' own codes (deu_Latn, zh_yue) are resolved."""
    rows = [(find_language(code), value) for code, value in values.items()]
    return [(language, value) for language, value in rows if language is not None]


def find_language(code: str) -> Language | None:
    """Return the language of a code of ours, of Wikipedia or of FLORES; None if it is unknown."""
    try:
        return languages.get(languages.from_wikipedia(code))
    except KeyError:
        pass
    if languages.scheme_of(code) != "glotlid":
        return None
    lang = languages.from_lid(code, "glotlid")
    return None if lang == languages.OTHER else languages.get(lang)


def _grid(rows: Sequence[tuple[Language, float]]) -> Table:
    """Return means by family (rows) and script (columns), the most frequent first."""
    families = _group_rare([language.family for language, _ in rows], MAX_FAMILIES, "other families")
    scripts = _group_rare([language.script for language, _ in rows], MAX_SCRIPTS, "other scripts")
    cells: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for language, value in rows:
        family, script = families[language.family], scripts[language.script]
        for place in ((family, script), (family, ALL), (ALL, script), (ALL, ALL)):
            cells[place].append((language.name, value))
    row_names = [*dict.fromkeys(families.values()), ALL]
    column_names = [*dict.fromkeys(scripts.values()), ALL]
    body = [[family, *(_grid_cell(cells.get((family, script))) for script in column_names)] for family in row_names]
    return Table([text_column("family"), *columns_of(column_names)], body, totals=[len(row_names) - 1])


def _group_rare(names: Sequence[str], limit: int, rest: str) -> dict[str, str]:
    """Map the `limit` most frequent names to themselves and the others to `rest`, in order of frequency."""
    frequency = Counter(names)
    ordered = sorted(frequency, key=lambda name: (-frequency[name], name))
    if len(ordered) == limit + 1:  # a group of one saves no room
        limit += 1
    return {name: name if i < limit else rest for i, name in enumerate(ordered)}


def _grid_cell(values: Sequence[tuple[str, float]] | None) -> Html | None:
    if values is None:
        return None
    mean = sum(value for _, value in values) / len(values)
    best = sorted(values, key=lambda item: -item[1])[:MAX_NAMED]
    hover = ", ".join(f"{name} {percent(value)}" for name, value in best)
    shade = f"background:color-mix(in srgb,var(--s1) {SHADE_PCT * mean:.0f}%,transparent)"
    number = tag("small", f"({len(values)})")
    return tag("span", percent(mean), " ", number, class_="shade", style=shade, title=hover)


def _level_bars(rows: Sequence[tuple[Language, float]]) -> Html:
    drawn = []
    for level, colour in LEVEL_COLOURS.items():
        values = [value for language, value in rows if language.resource_level == level]
        if values:
            mean = sum(values) / len(values)
            label = join([level, tag("small", f"({len(values)} languages)")], " ")
            drawn.append(Bar(label=label, parts=[(mean, colour, f"{level}: {percent(mean)}")], note=percent(mean)))
    return bars(drawn) if drawn else Html()
