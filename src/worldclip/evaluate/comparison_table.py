"""A comparison in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worldclip.evaluate.arms import Arm
from worldclip.evaluate.compare import Comparison, LanguageRow, MetricRow
from worldclip.evaluate.tables import MAX_LANGUAGES_IN_TEXT, NUM_EXTREMES, image_text
from worldclip.report.metrics import task_info
from worldclip.report.table import Column, Table, columns_of, text_column, to_markdown

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
    names = [arm.name for arm in comparison.arms]
    means: dict[str, None] = {}
    preprocessing: dict[tuple[str, ...], None] = {}
    for row in comparison.rows:
        if len(row["languages"]) > 1:
            means[f"Means over: {' '.join(row['languages'])}."] = None
        preprocessing[tuple(map(image_text, row["preprocess"]))] = None
    parts = [to_markdown(_table(names, comparison.rows)), "", *means]
    for texts in preprocessing:
        if len(set(texts)) > 1:
            arm_texts = map(": ".join, zip(names, texts, strict=True))
            parts.append(f"Images are preprocessed differently. {'; '.join(arm_texts)}.")
    parts += _what_differs(comparison.arms)
    # By language the first metric of each task.
    first_metrics: dict[tuple[str, str], str] = {}
    for row in comparison.rows:
        first_metrics.setdefault((row["dataset"], row["task"]), row["metric"])
    tasks: dict[tuple[str, str], list[LanguageRow]] = {}
    for in_language in comparison.by_language:
        task = (in_language["dataset"], in_language["task"])
        if first_metrics[task] == in_language["metric"]:
            tasks.setdefault(task, []).append(in_language)
    has_intervals = False
    for rows in tasks.values():
        if len(rows) > 1:
            parts.append(_by_language_text(sorted(rows, key=lambda row: -row["values"][0]), names))
            has_intervals |= "intervals" in rows[0]
    if has_intervals:
        parts += ["", ONE_BY_ONE]
    star = STAR.format(comparison.num_tests) if comparison.num_tests else ""
    return "\n".join([*parts, "", star + NOT_ABOVE_CHANCE, ""])


def _what_differs(arms: Sequence[Arm]) -> list[str]:
    """Return the lines about the runs of each arm, what is not as in the first one, and the pairs seen by language."""
    lines = ["", "What differs from the first:", ""]
    has_changes = False
    is_seen_known = True
    differs_in_seen = False
    for arm in arms:
        facts = [*map(str, arm.changes), *arm.schedules]
        if arm.code:
            facts.append(f"other code of {', '.join(arm.code)}")
        has_changes |= bool(facts)
        is_seen_known &= bool(arm.seen)
        differs_in_seen |= arm.seen != arms[0].seen
        if arm.name != arm.runs[0]:
            facts.insert(0, ", ".join(arm.runs))
        if not facts:
            facts.append("the first" if arm is arms[0] else "no key")
        lines.append(f"- {arm.name}: {'; '.join(facts)}")
    if not has_changes:
        lines = []
    if not is_seen_known or not differs_in_seen:
        return lines
    # The pairs seen, most of the first arm first; after 30 languages one row for the others.
    pairs: dict[str, list[float]] = {}
    for number, arm in enumerate(arms):
        for lang, num_pairs in arm.seen.items():
            pairs.setdefault(lang, [0] * len(arms))[number] = num_pairs
    rows: list[list[Any]] = []
    for lang, numbers in list(pairs.items())[:MAX_LANGUAGES_IN_TEXT]:
        rows.append([lang, *numbers])
    totals = [len(rows)]
    others = list(pairs.values())[MAX_LANGUAGES_IN_TEXT:]
    if others:
        rows.append([f"{len(others)} more", *map(sum, zip(*others, strict=True))])
        totals.append(len(rows))
    rows.append(["all", *(sum(arm.seen.values()) for arm in arms)])
    columns = [text_column("language"), *columns_of([arm.name for arm in arms], "{:,.0f}".format)]
    return [*lines, "", "Pairs seen in training by language:", "", to_markdown(Table(columns, rows, totals))]


def _by_language_text(rows: Sequence[LanguageRow], names: Sequence[str]) -> str:
    """Return a task's table by language: the arms' numbers, and the difference of each from the first."""
    first = rows[0]
    number = task_info(first["task"]).number
    columns = [text_column("language"), *columns_of(names, number), *_difference_columns(names)]
    remark = ""
    num_more = len(rows) - 2 * NUM_EXTREMES
    is_folded = len(rows) > MAX_LANGUAGES_IN_TEXT
    if is_folded:
        rows = sorted(rows, key=lambda row: -row["differences"][-1])
        rows = [*rows[:NUM_EXTREMES], *rows[-NUM_EXTREMES:]]
        remark = f" (the {NUM_EXTREMES} highest and lowest differences of {names[-1]}; --json has all)"
    cells: list[list[Any]] = [[row["lang"], *row["values"], *_difference_cells(row)] for row in rows]
    if is_folded:
        cells.insert(NUM_EXTREMES, [f"{num_more} more", *([None] * (len(columns) - 1))])
    head = f"{first['dataset']}, {first['task']}, {first['metric']}{remark}:"
    return f"\n{head}\n\n{to_markdown(Table(columns, cells))}"


def _table(names: Sequence[str], rows: Sequence[MetricRow]) -> Table:
    """Return a row per metric: the number of each arm with the range of its seeds, and the differences."""
    columns = [*map(text_column, ("dataset", "task", "metric")), *columns_of(("languages", *names))]
    columns += _difference_columns(names)
    has_chance = any("chance" in row for row in rows)
    if has_chance:
        columns.append(Column("chance"))
    table: list[list[Any]] = []
    for row in rows:
        number = task_info(row["task"]).number
        langs = row["languages"]
        cells: list[Any] = [row["dataset"], row["task"], row["metric"], langs[0] if len(langs) == 1 else len(langs)]
        for arm, value in enumerate(row["values"]):
            text = number(value)
            if row["seeds"][arm]:
                text += f" ({number(row['seeds'][arm][0])} to {number(row['seeds'][arm][-1])})"
            if "is_at_chance" in row and row["is_at_chance"][arm]:
                text += " (not above chance)"
            cells.append(text)
        cells += _difference_cells(row, row.get("is_significant", ()))
        if has_chance:
            cells.append(number(row["chance"]) if "chance" in row else None)
        table.append(cells)
    return Table(columns, table)


def _difference_columns(names: Sequence[str]) -> list[Column]:
    columns = []
    for name in names[1:]:
        title = "difference" if len(names) == 2 else f"{name} - {names[0]}"
        columns += [Column(title), text_column("95% interval")]
    return columns


def _difference_cells(row: MetricRow | LanguageRow, stars: Sequence[bool] = ()) -> list[str | None]:
    """Return each difference from the first arm and its interval.  stars: which differences are significant."""
    cells: list[str | None] = []
    for i, difference in enumerate(row["differences"]):
        text = _signed(row["task"], difference)
        if stars and stars[i]:
            text += " *"
        interval = None
        if "intervals" in row:
            bounds = row["intervals"][i]
            interval = "none: the same in every image"
            if bounds is not None:
                interval = " to ".join(_signed(row["task"], bound) for bound in bounds)
        cells += [text, interval]
    return cells


def _signed(task: str, difference: float) -> str:
    return f"{100 * difference:+.1f}" if task_info(task).is_share else f"{difference:+.3f}"
