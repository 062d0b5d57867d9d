"""A table is described once and written as HTML, Markdown, CSV or text.  Cells are data, never markup."""

from __future__ import annotations

import csv
import io
import itertools
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worldclip.report.html import Html, html, tag

_MARKDOWN_SPECIAL = re.compile(
    r"""[\\|`<\[\]~]            # code, links, HTML, the cell's own border
    |&(?=\#?\w+;)               # an entity
    |\*(?=\S)|(?<=\S)\*         # emphasis needs a neighbour that is not whitespace: a lone star stays
    |(?<!\w)_|_(?!\w)           # likewise, and an underscore within a word is harmless
    """,
    re.VERBOSE,
)
FILE_WIDTH = 1000  # characters of a line where output is no terminal


@dataclass(frozen=True, slots=True)
class Column:
    """How one column is headed, aligned and written."""

    title: str
    text: Callable[[Any], str] = str
    """Write a cell's value as text."""
    html: Callable[[Any], Html] | None = None
    """Write a cell's value in HTML; default: its text, escaped."""
    align: Literal["left", "right"] = "right"


def text_column(title: str, html: Callable[[Any], Html] | None = None) -> Column:
    """Return a column of text, aligned left."""
    return Column(title, html=html, align="left")


def columns_of(titles: Iterable[str], text: Callable[[Any], str] = str) -> list[Column]:
    """Return columns of numbers written alike."""
    return [Column(title, text) for title in titles]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and rows of one value per column.  None is an empty cell; Html only fits tables that become HTML."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    totals: Collection[int] = ()
    """Rows set apart: sums and means."""

    def without_empty_columns(self) -> Table:
        """Return the table without columns in which every cell is None."""
        # Row by row, so that a row of another length than the columns is an error here (strict).
        is_used = [False] * len(self.columns)
        for row in self.rows:
            is_used = [used or cell is not None for used, cell in zip(is_used, row, strict=True)]
        rows = [list(itertools.compress(row, is_used)) for row in self.rows]
        return Table(list(itertools.compress(self.columns, is_used)), rows, self.totals)


def to_html(table: Table) -> Html:
    """Return a <table> that scrolls sideways on its own, by keyboard too, without its empty columns."""
    if table.rows:
        table = table.without_empty_columns()
    head = tag("tr", *(tag("th", column.title, class_=_side(column)) for column in table.columns))
    body = []
    for number, row in enumerate(table.rows):
        cells = [tag("td", _html_cell(column, value), class_=_side(column)) for column, value in _cells(table, row)]
        css_class = "total" if number in table.totals else None
        body.append(tag("tr", *cells, class_=css_class))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll", tabindex=0)


def to_markdown(table: Table) -> str:
    """Return a Markdown table whose source is aligned too; totals are bold."""
    lines = []
    for texts in _texts(table):
        in_one_line = [" ".join(text.split()) for text in texts]
        lines.append([_MARKDOWN_SPECIAL.sub(r"\\\g<0>", text) for text in in_one_line])
    for number in table.totals:
        lines[1 + number][0] = f"**{lines[1 + number][0]}**"
    columns = []
    for column, cells in zip(table.columns, zip(*lines, strict=True), strict=True):
        width = max(3, *map(len, cells))
        if column is table.columns[-1] and column.align == "left":
            width = 3  # a last column may hold long lists: no reason to pad every row to the longest
        padded = [cell.ljust(width) for cell in cells]
        rule = "-" * width
        if column.align == "right":
            padded = [cell.rjust(width) for cell in cells]
            rule = f"{rule[1:]}:"
        columns.append([padded[0], rule, *padded[1:]])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))


def to_csv(table: Table) -> str:
    """Return CSV of the values themselves: numbers in full, text as it is (a cell `=1+1` stays `=1+1`)."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.title for column in table.columns])
    for row in table.rows:
        writer.writerow([value for _, value in _cells(table, row)])  # None becomes an empty cell
    return file.getvalue()


def to_text(table: Table) -> str:
    """Return columns that fit the terminal, where long cells take several lines; in a file each row is one line."""
    from rich import table as rich_table
    from rich.console import Console
    from rich.text import Text

    drawn = rich_table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns:
        is_number = column.align == "right"
        drawn.add_column(Text(column.title), justify=column.align, no_wrap=is_number, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(_text(column, value)) for column, value in _cells(table, row)))
    width = shutil.get_terminal_size((FILE_WIDTH, 1)).columns
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _texts(table: Table) -> Iterator[list[str]]:
    """Yield the titles, then the texts of each row."""
    yield [column.title for column in table.columns]
    for row in table.rows:
        yield [_text(column, value) for column, value in _cells(table, row)]


def _cells(table: Table, row: Sequence[Any]) -> list[tuple[Column, Any]]:
    return list(zip(table.columns, row, strict=True))


def _side(column: Column) -> str | None:
    return "n" if column.align == "right" else None


def _text(column: Column, value: Any) -> str:
    if isinstance(value, Html):
        raise TypeError(f"column {column.title!r} holds HTML, which only to_html can write")
    return "" if value is None else column.text(value)


def _html_cell(column: Column, value: Any) -> Html:
    if value is None:
        return Html()
    if isinstance(value, Html):
        return value
    if column.html is None:
        return html(column.text(value))
    return column.html(value)
