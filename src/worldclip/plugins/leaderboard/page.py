"""A leaderboard as text, CSV, JSON and a page.  A missing number is shown as missing, never as 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.plugins.leaderboard.board import BoardCell, BoardColumn, Leaderboard, leaderboard
from worldclip.report.html import Html, join, tag
from worldclip.report.metrics import metric_name, task_info, task_name
from worldclip.report.numbers import interval
from worldclip.report.page import Section, note, write_page
from worldclip.report.table import Column, Table, columns_of, text_column, to_csv, to_html, to_markdown

LEAD = (
    "In percent, with 95% intervals over images and seeds where ranks lie next to results. Bold: the best number of "
    "a column, and those that cannot be told from it, since their intervals overlap; none where the interval reaches "
    "chance, what guessing gives. A mean is over the same languages in each row: a model without some of them has no "
    "number. Models are sorted by their mean over the columns that all of them have."
)
CSV_COLUMNS = (
    "model", "dataset", "variant", "task", "metric", "group", "languages", "value", "low", "high", "chance", "seeds"
)  # fmt: skip
CHANCE = "chance"  # the last row


def to_record(board: Leaderboard) -> dict[str, Any]:
    """Return the leaderboard for --json; the cells are rows of models."""
    return {
        "models": [{"name": model.name, "folders": list(map(str, model.folders))} for model in board.models],
        "columns": list(map(dataclasses.asdict, board.columns)),
        "cells": [list(map(dataclasses.asdict, row)) for row in board.cells],
    }


def csv_text(board: Leaderboard) -> str:
    """Return a row per model and column; missing numbers are empty."""
    rows = []
    for model, cells in zip(board.models, board.cells, strict=True):
        for column, cell in zip(board.columns, cells, strict=True):
            about = [column.dataset, column.variant or None, column.task, column.metric, column.group]
            numbers = [cell.value, *(cell.interval_95 or (None, None)), column.chance, len(cell.seeds) or 1]
            rows.append([model.name, *about, cell.num_languages, *numbers])
    return to_csv(Table(columns_of(CSV_COLUMNS), rows))


def to_text(board: Leaderboard) -> str:
    """Return the columns over all languages in Markdown, and what is not comparable."""
    shown = [i for i, column in enumerate(board.columns) if column.is_main]
    columns = [text_column("model")]
    columns += [Column(_title(board.columns[i]), _text_of(board.columns[i])) for i in shown]
    rows = []
    for model, cells in zip(board.models, board.cells, strict=True):
        shown_cells = [cells[i] for i in shown]
        rows.append([model.name, *shown_cells])
    chances = [board.columns[i].chance for i in shown]
    if any(chance is not None for chance in chances):
        cells_of_chance = [None if chance is None else BoardCell(value=chance, num_languages=0) for chance in chances]
        rows.append([CHANCE, *cells_of_chance])
    return "\n\n".join([to_markdown(Table(columns, rows)), *board.differences, *board.left_out])


def write_leaderboard(path: Path, board: Leaderboard) -> None:
    """Write the page: all models and datasets, then each dataset by groups of languages, then the folders."""
    main = [i for i, column in enumerate(board.columns) if column.is_main]
    results = [_table(board, main, _title), *map(note, [*board.differences, *board.left_out])]
    sections = [Section("Results", LEAD, join(results))]
    parts = []
    for i in main:
        groups = [j for j, column in enumerate(board.columns) if _is_part(column, board.columns[i])]
        if groups:
            parts.append(tag("h3", _title(board.columns[i])))
            parts.append(_table(_with_any(board, [i, *groups]), [i, *groups], _group_title))
    if parts:
        lead = "Means over the languages of each level of resources, in percent."
        sections.append(Section("By group of languages", lead, join(parts)))
    # The page is shown to others: no folder of this machine
    folders = [tag("dt", model.name) + tag("dd", ", ".join(map(_run_name, model.folders))) for model in board.models]
    sections.append(Section("Models", "The folders that were read.", tag("dl", *folders, class_="about")))
    write_page(path, "Leaderboard", "Made with worldclip.", sections)


def _run_name(folder: Path) -> str:
    path = folder.resolve()
    return path.parent.name if path.name == "evaluate" else path.name


def _is_part(column: BoardColumn, whole: BoardColumn) -> bool:
    """Return whether a column is over a group of the languages of another one."""
    is_same = (column.without_conditions, column.variant) == (whole.without_conditions, whole.variant)
    return is_same and not column.is_main


def _with_any(board: Leaderboard, shown: Sequence[int]) -> Leaderboard:
    """Return the models that have any language of these columns."""
    models = []
    cells = []
    for model, row in zip(board.models, board.cells, strict=True):
        if any(row[i].num_languages for i in shown):
            models.append(model)
            cells.append(row)
    return dataclasses.replace(board, models=models, cells=cells)


def _table(board: Leaderboard, shown: Sequence[int], title: Callable[[BoardColumn], str]) -> Html:
    """Return models as rows, and chance; the best number of each column and its equals are bold."""
    rows: list[list[Any]] = [[model.name] for model in board.models]
    for i in shown:
        column = board.columns[i]
        cells = [row[i] for row in board.cells]
        best = best_cells(cells, column.chance) if task_info(column.task).is_share else set()
        for number, (row, cell) in enumerate(zip(rows, cells, strict=True)):
            row.append(_html(column, cell, is_best=number in best))
    if any(board.columns[i].chance is not None for i in shown):
        rows.append([CHANCE, *(_chance(board.columns[i]) for i in shown)])
    columns = [text_column("model"), *columns_of(title(board.columns[i]) for i in shown)]
    return tag("div", to_html(Table(columns, rows)), class_="board")


def best_cells(cells: Sequence[BoardCell], chance: float | None) -> set[int]:
    """Return the places of the best number and of those whose intervals overlap with its own; none at chance."""
    values = [-1.0 if cell.value is None else cell.value for cell in cells]
    best = max(range(len(cells)), key=values.__getitem__, default=None)
    if best is None or cells[best].value is None:
        return set()
    low = (cells[best].interval_95 or (values[best],))[0]
    if chance is not None and low <= chance:
        return set()
    highs = [values[i] if cell.interval_95 is None else cell.interval_95[1] for i, cell in enumerate(cells)]
    return {i for i, high in enumerate(highs) if values[i] >= 0 and high >= low}


def _chance(column: BoardColumn) -> str:
    return "" if column.chance is None else task_info(column.task).number(column.chance)


def _html(column: BoardColumn, cell: BoardCell, is_best: bool) -> Html:
    if cell.value is None:
        return tag("span", tag("small", _missing(column, cell)))
    number = task_info(column.task).number
    value = tag("b", number(cell.value)) if is_best else number(cell.value)
    bounds = interval(cell.interval_95, number)
    seeds = f"{len(cell.seeds)} seeds: {number(cell.seeds[0])} to {number(cell.seeds[-1])}" if cell.seeds else ""
    return tag("span", value, tag("small", bounds) if bounds else None, tag("small", seeds) if seeds else None)


def _text_of(column: BoardColumn) -> Callable[[BoardCell], str]:
    number = task_info(column.task).number

    def text(cell: BoardCell) -> str:
        if cell.value is None:
            return _missing(column, cell)
        parts = [interval(cell.interval_95, number) or ""]
        if cell.seeds:
            parts.append(f"{len(cell.seeds)} seeds: {number(cell.seeds[0])} to {number(cell.seeds[-1])}")
        more = "; ".join(filter(None, parts))
        return f"{number(cell.value)} ({more})" if more else number(cell.value)

    return text


def _missing(column: BoardColumn, cell: BoardCell) -> str:
    """Return what is missing: all, or some of the languages."""
    if not cell.num_languages:
        return "missing"
    return f"missing ({cell.num_languages} of {len(column.languages)} languages)"


def _title(column: BoardColumn) -> str:
    variant = f" ({column.variant})" if column.variant else ""
    languages = column.languages[0] if len(column.languages) == 1 else f"{len(column.languages)} languages"
    return f"{column.dataset}{variant}, {task_name(column.task)}, {metric_name(column.metric)}, {languages}"


def _group_title(column: BoardColumn) -> str:
    return f"{column.group} ({len(column.languages)})"


@Command
def show_leaderboard(folders: Sequence[Path], *, out: Path | None = None, csv: bool = False) -> tuple[Any, str]:
    """Show the evaluations of many models in one table, of mteb too.

    folders: runs, folders that evaluate wrote, or folders of mteb's results (results/MODEL/REVISION/TASK.json).
    out: page to write (.html).
    csv: Print the result as CSV.

    Examples:
        worldclip leaderboard runs/*
        worldclip leaderboard runs/* results --out leaderboard.html
    """
    if not folders:
        raise UserError("worldclip leaderboard takes one or more runs or folders of results")
    board = leaderboard(*folders)
    if out is not None:
        write_leaderboard(out, board)
    text = csv_text(board) if csv else to_text(board)
    return to_record(board), text
