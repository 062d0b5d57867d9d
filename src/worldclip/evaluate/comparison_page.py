"""A comparison as text and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from worldclip.evaluate.compare import Arm, ComparedLanguage, ComparedMetric, Comparison
from worldclip.evaluate.tables import MAX_LANGUAGES_IN_TEXT, image_text
from worldclip.language.table import INSTALLED
from worldclip.report.by_language import MAX_BARS
from worldclip.report.chart import Line, line_chart
from worldclip.report.evaluate import bold_flagged
from worldclip.report.html import Html, join, tag
from worldclip.report.metrics import metric_name, task_info, task_name
from worldclip.report.page import (
    Bar,
    Section,
    bars,
    figure,
    folded,
    lang_name,
    language_column,
    legend,
    note,
    write_page,
)
from worldclip.report.table import Column, Table, columns_of, text_column, to_html, to_markdown

NUM_COLOURS = 6  # colours per chart
LANGUAGES_COLUMN = 3  # column of the table
AT_CHANCE = " (not above chance)"
MARKS = (
    "A star marks differences whose 95% interval excludes 0; without it the two are not distinguishable. Not above "
    "chance: the 95% interval of the number begins at or below what guessing gives."
)


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison in Markdown, in percent; a star marks significant differences.

    Results by language follow where there are several and a terminal has room for them.
    """
    table = _table(comparison.arms, comparison.rows)
    parts = [to_markdown(table), "", *_means_over(comparison.rows), *_preprocessing_of(comparison)]
    for rows in _plotted(comparison):
        if len(rows) <= MAX_LANGUAGES_IN_TEXT:
            title = f"{rows[0]['dataset']}, {rows[0]['task']}, {rows[0]['metric']}:"
            parts += ["", title, "", to_markdown(_language_table(comparison.arms, rows, text_column("language")))]
    return "\n".join([*parts, "", MARKS, ""])


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write a comparison as a page: who is compared, the main metrics, results by language, all metrics."""
    arms = comparison.arms
    names = []
    for i, arm in enumerate(arms):
        square = tag("i", style=f"background:{_colour(i)}")
        names.append(tag("dt", square, arm.name) + tag("dd", ", ".join(arm.runs)))
    main_rows = [row for row in comparison.rows if row["metric"] in _main_metrics(row)]
    notes = map(note, [*_means_over(comparison.rows), *_preprocessing_of(comparison)])
    results = [tag("dl", *names, class_="about"), to_html(_readable_table(comparison, main_rows)), *notes]
    if len(main_rows) < len(comparison.rows):
        all_metrics = to_html(_readable_table(comparison, comparison.rows))
        results.append(folded(f"All {len(comparison.rows)} metrics", all_metrics))
    lead = (
        f"In percent; differences are from {arms[0].name}. {MARKS} Intervals are over resamples of the images, the "
        "same for all runs and languages, and of the seeds within each row of runs."
    )
    sections = [Section("Results", lead, join(results))]
    by_language = [_languages_part(arms, rows) for rows in _plotted(comparison)]
    if by_language:
        lead = f"Sorted by the result of {arms[0].name}; in percent."
        sections.append(Section("By language", lead, join(by_language)))
    title = f"Comparison of {' and '.join(arm.name for arm in arms)}" if len(arms) == 2 else "Comparison"
    write_page(path, title, "Made with worldclip.", sections)


def _colour(arm: int) -> str:
    return f"var(--s{1 + arm % NUM_COLOURS})"


def _main_metrics(row: ComparedMetric) -> Sequence[str]:
    """Return the metrics that stand for a row's task; of a task without such metrics, the row's own."""
    return task_info(row["task"]).metrics or (row["metric"],)


# --- all metrics ------------------------------------------------------------------------------------------------------


def _table(arms: Sequence[Arm], rows: Sequence[ComparedMetric]) -> Table:
    names = [arm.name for arm in arms]
    columns = [*map(text_column, ("dataset", "task", "metric")), *columns_of(("languages", *names))]
    for name in names[1:]:
        columns.append(Column("difference" if len(names) == 2 else f"{name} - {names[0]}", html=bold_flagged))
        columns.append(text_column("95% interval"))
    if any("chance" in row for row in rows):
        columns.append(Column("chance"))
        return Table(columns, [[*_cells(row), _chance(row)] for row in rows])
    return Table(columns, [_cells(row) for row in rows])


def _cells(row: ComparedMetric) -> list[Any]:
    langs = row["languages"]
    cells: list[Any] = [row["dataset"], row["task"], row["metric"], langs[0] if len(langs) == 1 else len(langs)]
    cells += [_value(row, arm) for arm in range(len(row["values"]))]
    for i, difference in enumerate(row["differences"]):
        text = _signed(row["task"], difference)
        if "intervals" not in row:
            cells += [text, None]
            continue
        star = " *" if row["is_significant"][i] else ""
        cells += [text + star, " to ".join(_signed(row["task"], bound) for bound in row["intervals"][i])]
    return cells


def _value(row: ComparedMetric, arm: int) -> str:
    """Return an arm's number, the range of its seeds, and whether it is not above chance."""
    number = task_info(row["task"]).number
    text = number(row["values"][arm])
    if seeds := row.get("seeds", [])[arm : arm + 1]:
        text += f" ({number(seeds[0][0])} to {number(seeds[0][-1])})" if seeds[0] else ""
    return text + AT_CHANCE if row.get("is_at_chance", [])[arm : arm + 1] == [True] else text


def _chance(row: ComparedMetric) -> str | None:
    return task_info(row["task"]).number(row["chance"]) if "chance" in row else None


def _signed(task: str, difference: float) -> str:
    return f"{100 * difference:+.1f}" if task_info(task).is_share else f"{difference:+.3f}"


def _readable_table(comparison: Comparison, rows: Sequence[ComparedMetric]) -> Table:
    """Return the table with the report's names; a dataset and a task are named once.

    Without the column of languages where all rows are over the same ones, which the page names below.
    """
    table = _table(comparison.arms, rows)
    has_same_languages = len({tuple(row["languages"]) for row in comparison.rows}) == 1
    has_several = len(comparison.rows[0]["languages"]) > 1
    cells: list[list[Any]] = []
    last_dataset, last_task = "", ""
    for dataset, task, metric, *others in table.rows:
        is_new_task = (dataset, task) != (last_dataset, last_task)
        shown_dataset = dataset if dataset != last_dataset else None
        cells.append([shown_dataset, task_name(task) if is_new_task else None, metric_name(metric), *others])
        if has_same_languages and has_several:
            cells[-1][LANGUAGES_COLUMN] = None  # an empty column is not drawn
        last_dataset, last_task = dataset, task
    return Table(table.columns, cells)


def _means_over(rows: Sequence[ComparedMetric]) -> list[str]:
    langs = dict.fromkeys(" ".join(row["languages"]) for row in rows if len(row["languages"]) > 1)
    return [f"Means over: {names}." for names in langs]


def _preprocessing_of(comparison: Comparison) -> list[str]:
    """Return a sentence on how each arm turns images into pixels, where they differ."""
    sentences = []
    for texts in dict.fromkeys(tuple(map(image_text, row["preprocess"])) for row in comparison.rows):
        if len(set(texts)) > 1:
            of_arms = [f"{arm.name}: {text}" for arm, text in zip(comparison.arms, texts, strict=True)]
            sentences.append(f"Images are preprocessed differently. {'; '.join(of_arms)}.")
    return sentences


# --- by language ------------------------------------------------------------------------------------------------------


def _plotted(comparison: Comparison) -> list[list[ComparedLanguage]]:
    """Return the rows by language of each task's first metric, best first, where there are several languages."""
    first_metrics: dict[tuple[str, str], str] = {}
    for row in comparison.rows:
        first_metrics.setdefault((row["dataset"], row["task"]), row["metric"])
    tasks: dict[tuple[str, str], list[ComparedLanguage]] = {}
    for of_lang in comparison.by_language:
        task = (of_lang["dataset"], of_lang["task"])
        if first_metrics[task] == of_lang["metric"]:
            tasks.setdefault(task, []).append(of_lang)
    return [sorted(rows, key=lambda row: -row["values"][0]) for rows in tasks.values() if len(rows) > 1]


def _language_table(arms: Sequence[Arm], rows: Sequence[ComparedLanguage], language: Column) -> Table:
    columns = [language, *columns_of((arm.name for arm in arms), task_info(rows[0]["task"]).number)]
    return Table(columns, [[row["lang"], *row["values"]] for row in rows])


def _languages_part(arms: Sequence[Arm], rows: Sequence[ComparedLanguage]) -> Html:
    """Return one task by language: a bar per language and arm, or lines where there are many; all numbers."""
    first = rows[0]
    remark = f"{task_name(first['task'])}, {metric_name(first['metric'])}"
    heading = tag("h3", first["dataset"], " ", tag("small", remark))
    colours = legend((_colour(i), arm.name) for i, arm in enumerate(arms))
    is_share = task_info(first["task"]).is_share
    if is_share and len(rows) <= MAX_BARS:
        return join([heading, colours, bars(bar for row in rows for bar in _language_bars(arms, row))])
    numbers = to_html(_language_table(arms, rows, language_column("language", INSTALLED)))
    chart = figure(remark, "%" if is_share else "", _language_chart(arms, rows))
    return join([heading, colours, chart, folded(f"{len(rows)} languages in numbers", numbers)])


def _language_bars(arms: Sequence[Arm], row: ComparedLanguage) -> Iterator[Bar]:
    number = task_info(row["task"]).number
    for i, (arm, value) in enumerate(zip(arms, row["values"], strict=True)):
        hover = f"{arm.name}: {number(value)}%"
        yield Bar(
            label="" if i else lang_name(row["lang"], INSTALLED), parts=[(value, _colour(i), hover)], note=number(value)
        )


def _language_chart(arms: Sequence[Arm], rows: Sequence[ComparedLanguage]) -> Html:
    """Return a line per arm over the languages, in the order of the first arm."""
    scale = 100 if task_info(rows[0]["task"]).is_share else 1
    lines = []
    for i, arm in enumerate(arms):
        values = [scale * row["values"][i] for row in rows]
        lines.append(Line(name=arm.name, x=range(1, len(rows) + 1), y=values, colour=_colour(i)))
    return line_chart(lines, x_label="languages, best first", y_label=metric_name(rows[0]["metric"]))
