"""A comparison in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from worldclip.evaluate.compare import Arm, Comparison, Record
from worldclip.evaluate.tables import MAX_LANGUAGES_IN_TEXT, NUM_EXTREMES, image_text
from worldclip.report.metrics import task_info
from worldclip.report.table import Column, Table, columns_of, text_column, to_markdown

AT_CHANCE = " (not above chance)"
SAME_IN_EVERY_IMAGE = "none: the same in every image"
STAR = (
    "A star marks differences whose 95% interval excludes 0, also after Holm's correction for {} comparisons (p "
    "below 0.05); without it the two are not distinguishable. "
)
NOT_ABOVE_CHANCE = "Not above chance: the 95% interval of the number begins at or below what guessing gives."
ONE_BY_ONE = (
    "Each interval in the tables by language is one of its own, without the correction: of twenty languages without a "
    "difference one excludes 0 by chance."
)


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison in Markdown, in percent; a star marks significant differences.

    Results by language follow where there are several: of many those with the largest and the lowest difference.
    """
    table = _table(comparison.arms, comparison.rows)
    parts = [to_markdown(table), ""]
    langs = dict.fromkeys(" ".join(row["languages"]) for row in comparison.rows if len(row["languages"]) > 1)
    parts += [f"Means over: {names}." for names in langs]
    names = [arm.name for arm in comparison.arms]
    for texts in dict.fromkeys(tuple(map(image_text, row["preprocess"])) for row in comparison.rows):
        if len(set(texts)) > 1:
            arm_texts = [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
            parts.append(f"Images are preprocessed differently. {'; '.join(arm_texts)}.")
    parts += _what_differs(comparison.arms)
    by_language = [_by_language_text(rows, names) for rows in _by_language_of(comparison)]
    parts += by_language
    if any("intervals" in row for row in comparison.by_language) and by_language:
        parts += ["", ONE_BY_ONE]
    num_tests = sum(len(row.get("p_values", ())) for row in comparison.rows)
    star = ""
    if num_tests:
        star = STAR.format(num_tests)
    return "\n".join([*parts, "", star + NOT_ABOVE_CHANCE, ""])


def _what_differs(arms: Sequence[Arm]) -> list[str]:
    """Return the lines about the runs of each arm, what is not as in the first one, and the pairs seen by language."""
    lines = []
    if any(arm.changes or arm.code or arm.schedules for arm in arms):
        lines += ["", "What differs from the first:", ""]
        for arm in arms:
            facts = [*map(str, arm.changes), *arm.schedules]
            if arm.code:
                facts.append(f"other code of {', '.join(arm.code)}")
            if arm.name != arm.runs[0]:
                facts.insert(0, ", ".join(arm.runs))
            if not facts:
                facts.append("the first" if arm is arms[0] else "no key")
            lines.append(f"- {arm.name}: {'; '.join(facts)}")
    seen = [arm.seen for arm in arms]
    if all(seen) and any(other != seen[0] for other in seen[1:]):
        lines += ["", "Pairs seen in training by language:", "", to_markdown(_seen_table(arms))]
    return lines


def _seen_table(arms: Sequence[Arm]) -> Table:
    """Return the pairs that each arm saw by language, most of the first arm first; after 30 languages one row."""
    langs = list(dict.fromkeys(chain.from_iterable(arm.seen for arm in arms)))
    rows: list[list[Any]] = [[lang, *(arm.seen.get(lang, 0) for arm in arms)] for lang in langs]
    shown = rows[:MAX_LANGUAGES_IN_TEXT]
    rest = rows[MAX_LANGUAGES_IN_TEXT:]
    totals = [len(shown)]
    if rest:
        sums = [sum(row[i + 1] for row in rest) for i in range(len(arms))]
        shown.append([f"{len(rest)} more", *sums])
        totals.append(len(shown))
    shown.append(["all", *(sum(arm.seen.values()) for arm in arms)])
    return Table([text_column("language"), *columns_of([arm.name for arm in arms], "{:,.0f}".format)], shown, totals)


def _by_language_text(rows: Sequence[Record], names: Sequence[str]) -> str:
    """Return a task's table by language: the arms' numbers, and the difference of each from the first."""
    first = rows[0]
    columns = [
        text_column("language"),
        *columns_of(names, task_info(first["task"]).number),
        *_difference_columns(names),
    ]
    cells = [[row["lang"], *row["values"], *_difference_cells(row)] for row in rows]
    remark = ""
    if len(rows) > MAX_LANGUAGES_IN_TEXT:
        by_difference = sorted(range(len(rows)), key=lambda i: -rows[i]["differences"][-1])
        highest = [cells[i] for i in by_difference[:NUM_EXTREMES]]
        lowest = [cells[i] for i in by_difference[-NUM_EXTREMES:]]
        between = [f"{len(rows) - 2 * NUM_EXTREMES} more", *([None] * (len(columns) - 1))]
        cells = [*highest, between, *lowest]
        remark = f" (the {NUM_EXTREMES} highest and lowest differences of {names[-1]}; --json has all)"
    head = f"{first['dataset']}, {first['task']}, {first['metric']}{remark}:"
    return f"\n{head}\n\n{to_markdown(Table(columns, cells))}"


def _table(arms: Sequence[Arm], rows: Sequence[Record]) -> Table:
    names = [arm.name for arm in arms]
    columns = [*map(text_column, ("dataset", "task", "metric")), *columns_of(("languages", *names))]
    columns += _difference_columns(names)
    cells = [_cells(row) for row in rows]
    if any("chance" in row for row in rows):
        columns.append(Column("chance"))
        for row, cells_of_row in zip(rows, cells, strict=True):
            chance = None
            if "chance" in row:
                chance = task_info(row["task"]).number(row["chance"])
            cells_of_row.append(chance)
    return Table(columns, cells)


def _difference_columns(names: Sequence[str]) -> list[Column]:
    columns = []
    for name in names[1:]:
        title = "difference" if len(names) == 2 else f"{name} - {names[0]}"
        columns += [Column(title), text_column("95% interval")]
    return columns


def _cells(row: Record) -> list[Any]:
    langs = row["languages"]
    languages = langs[0] if len(langs) == 1 else len(langs)
    cells: list[Any] = [row["dataset"], row["task"], row["metric"], languages]
    cells += [_value(row, arm) for arm in range(len(row["values"]))]
    return cells + _difference_cells(row)


def _difference_cells(row: Record) -> list[Any]:
    """Return each difference from the first arm, with a star where it is significant, and its interval."""
    cells: list[Any] = []
    for i, difference in enumerate(row["differences"]):
        text = _signed(row["task"], difference)
        if "intervals" not in row:
            cells += [text, None]
            continue
        if row.get("is_significant", [])[i : i + 1] == [True]:
            text += " *"
        interval = row["intervals"][i]
        bounds = SAME_IN_EVERY_IMAGE
        if interval is not None:
            bounds = " to ".join(_signed(row["task"], bound) for bound in interval)
        cells += [text, bounds]
    return cells


def _value(row: Record, arm: int) -> str:
    """Return an arm's number, the range of its seeds, and whether it is not above chance."""
    number = task_info(row["task"]).number
    text = number(row["values"][arm])
    if any(row.get("seeds", [])[arm : arm + 1]):
        seeds = row["seeds"][arm]
        text += f" ({number(seeds[0])} to {number(seeds[-1])})"
    if row.get("is_at_chance", [])[arm : arm + 1] == [True]:
        text += AT_CHANCE
    return text


def _signed(task: str, difference: float) -> str:
    return f"{100 * difference:+.1f}" if task_info(task).is_share else f"{difference:+.3f}"


def _by_language_of(comparison: Comparison) -> list[list[Record]]:
    """Return the rows by language of each task's first metric, best first, where there are several languages."""
    first_metrics: dict[tuple[str, str], str] = {}
    for row in comparison.rows:
        first_metrics.setdefault((row["dataset"], row["task"]), row["metric"])
    tasks: dict[tuple[str, str], list[Record]] = {}
    for row in comparison.by_language:
        task = (row["dataset"], row["task"])
        if first_metrics[task] == row["metric"]:
            tasks.setdefault(task, []).append(row)
    return [sorted(rows, key=lambda row: -row["values"][0]) for rows in tasks.values() if len(rows) > 1]
