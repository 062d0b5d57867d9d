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
    parts = [to_markdown(table), ""]
    langs = dict.fromkeys(" ".join(row["languages"]) for row in comparison.rows if len(row["languages"]) > 1)
    parts += [f"Means over: {names}." for names in langs]
    names = [arm.name for arm in comparison.arms]
    for texts in dict.fromkeys(tuple(map(image_text, row["preprocess"])) for row in comparison.rows):
        if len(set(texts)) > 1:
            arm_texts = [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
            parts.append(f"Images are preprocessed differently. {'; '.join(arm_texts)}.")
    # The arms: their folders, and the keys whose values are not those of the first arm.
    if any(arm.changes for arm in comparison.arms):
        parts += ["", "What differs from the first:", ""]
        for arm in comparison.arms:
            facts = list(map(str, arm.changes))
            if arm.name != arm.runs[0]:
                facts.insert(0, ", ".join(arm.runs))
            parts.append(f"- {arm.name}: {'; '.join(facts) or 'the first'}")
    for rows in _by_language_of(comparison):
        if len(rows) > MAX_LANGUAGES_IN_TEXT:
            continue
        first = rows[0]
        columns = [text_column("language"), *columns_of(names, task_info(first["task"]).number)]
        table = Table(columns, [[row["lang"], *row["values"]] for row in rows])
        parts += ["", f"{first['dataset']}, {first['task']}, {first['metric']}:", "", to_markdown(table)]
    num_tests = sum(len(row.get("p_values", ())) for row in comparison.rows)
    return "\n".join([*parts, "", MARKS.format(num_tests), ""])


def _table(arms: Sequence[Arm], rows: Sequence[Record]) -> Table:
    names = [arm.name for arm in arms]
    columns = [*map(text_column, ("dataset", "task", "metric")), *columns_of(("languages", *names))]
    for name in names[1:]:
        title = "difference" if len(names) == 2 else f"{name} - {names[0]}"
        columns += [Column(title), text_column("95% interval")]
    cells = [_cells(row) for row in rows]
    if any("chance" in row for row in rows):
        columns.append(Column("chance"))
        for row, cells_of_row in zip(rows, cells, strict=True):
            chance = None
            if "chance" in row:
                chance = task_info(row["task"]).number(row["chance"])
            cells_of_row.append(chance)
    return Table(columns, cells)


def _cells(row: Record) -> list[Any]:
    langs = row["languages"]
    languages = langs[0] if len(langs) == 1 else len(langs)
    cells: list[Any] = [row["dataset"], row["task"], row["metric"], languages]
    cells += [_value(row, arm) for arm in range(len(row["values"]))]
    for i, difference in enumerate(row["differences"]):
        text = _signed(row["task"], difference)
        if "intervals" not in row:
            cells += [text, None]
            continue
        if row["is_significant"][i]:
            text += " *"
        cells += [text, " to ".join(_signed(row["task"], bound) for bound in row["intervals"][i])]
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
