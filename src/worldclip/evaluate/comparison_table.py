"""A comparison in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worldclip.evaluate.compare import Arm, Comparison, Record
from worldclip.evaluate.tables import MAX_LANGUAGES_IN_TEXT, image_text
from worldclip.report.metrics import task_info
from worldclip.report.table import Column, Table, columns_of, text_column, to_markdown

AT_CHANCE = " (not above chance)"
MARKS = (
    "A star marks differences whose 95% interval excludes 0, also after Holm's correction for {} comparisons (p "
    "below 0.05); without it the two are not distinguishable. Not above chance: the 95% interval of the number begins "
    "at or below what guessing gives."
)


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison in Markdown, in percent; a star marks significant differences.

    Results by language follow where there are several and a terminal has room for them.
    """
    table = _table(comparison.arms, comparison.rows)
    parts = [to_markdown(table), "", *_means_over(comparison.rows), *_preprocessing_of(comparison)]
    parts += _settings_of(comparison.arms)
    for rows in _by_language_of(comparison):
        if len(rows) <= MAX_LANGUAGES_IN_TEXT:
            title = f"{rows[0]['dataset']}, {rows[0]['task']}, {rows[0]['metric']}:"
            parts += ["", title, "", to_markdown(_language_table(comparison.arms, rows))]
    return "\n".join([*parts, "", MARKS.format(sum(len(row.get("p_values", ())) for row in comparison.rows)), ""])


def _table(arms: Sequence[Arm], rows: Sequence[Record]) -> Table:
    names = [arm.name for arm in arms]
    columns = [*map(text_column, ("dataset", "task", "metric")), *columns_of(("languages", *names))]
    for name in names[1:]:
        columns.append(Column("difference" if len(names) == 2 else f"{name} - {names[0]}"))
        columns.append(text_column("95% interval"))
    if any("chance" in row for row in rows):
        columns.append(Column("chance"))
        return Table(columns, [[*_cells(row), _chance(row)] for row in rows])
    return Table(columns, [_cells(row) for row in rows])


def _cells(row: Record) -> list[Any]:
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


def _value(row: Record, arm: int) -> str:
    """Return an arm's number, the range of its seeds, and whether it is not above chance."""
    number = task_info(row["task"]).number
    text = number(row["values"][arm])
    if seeds := row.get("seeds", [])[arm : arm + 1]:
        text += f" ({number(seeds[0][0])} to {number(seeds[0][-1])})" if seeds[0] else ""
    return text + AT_CHANCE if row.get("is_at_chance", [])[arm : arm + 1] == [True] else text


def _chance(row: Record) -> str | None:
    return task_info(row["task"]).number(row["chance"]) if "chance" in row else None


def _signed(task: str, difference: float) -> str:
    return f"{100 * difference:+.1f}" if task_info(task).is_share else f"{difference:+.3f}"


def _means_over(rows: Sequence[Record]) -> list[str]:
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


def _settings_of(arms: Sequence[Arm]) -> list[str]:
    """Return a list of the arms: their folders, and the keys whose values are not those of the first arm."""
    if not any(arm.changes for arm in arms):
        return []
    lines = ["", "What differs from the first:", ""]
    for arm in arms:
        runs = [] if arm.name == arm.runs[0] else [", ".join(arm.runs)]
        lines.append(f"- {arm.name}: {'; '.join([*runs, *map(str, arm.changes)]) or 'the first'}")
    return lines


def _by_language_of(comparison: Comparison) -> list[list[Record]]:
    """Return the rows by language of each task's first metric, best first, where there are several languages."""
    first_metrics: dict[tuple[str, str], str] = {}
    for row in comparison.rows:
        first_metrics.setdefault((row["dataset"], row["task"]), row["metric"])
    tasks: dict[tuple[str, str], list[Record]] = {}
    for of_lang in comparison.by_language:
        task = (of_lang["dataset"], of_lang["task"])
        if first_metrics[task] == of_lang["metric"]:
            tasks.setdefault(task, []).append(of_lang)
    return [sorted(rows, key=lambda row: -row["values"][0]) for rows in tasks.values() if len(rows) > 1]


def _language_table(arms: Sequence[Arm], rows: Sequence[Record]) -> Table:
    columns = [text_column("language"), *columns_of((arm.name for arm in arms), task_info(rows[0]["task"]).number)]
    return Table(columns, [[row["lang"], *row["values"]] for row in rows])
