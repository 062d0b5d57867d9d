"""A table is described once and written as HTML, Markdown, CSV or text.  Cells are data, never markup."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
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

    def write(self, value: Any) -> str:
        """Return a cell as text."""
        if isinstance(value, Html):
            raise TypeError(f"column {self.title!r} holds HTML, which only to_html can write")
        return "" if value is None else self.text(value)

    def draw(self, value: Any) -> Html:
        """Return a cell as markup."""
        if isinstance(value, Html):
            return value
        if self.html is None or value is None:
            return html(self.write(value))
        return self.html(value)


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


def to_html(table: Table) -> Html:
    """Return a <table> that scrolls sideways on its own, by keyboard too.

    A column whose cells are all None is left out.
    """
    drawn_columns = []
    for column, *values in zip(table.columns, *table.rows, strict=True):
        if values and values.count(None) == len(values):
            continue
        side = "n" if column.align == "right" else None
        title = tag("th", column.title, class_=side)
        drawn_columns.append([title, *(tag("td", column.draw(value), class_=side) for value in values)])
    titles, *rows = zip(*drawn_columns, strict=True)
    body = []
    for number, cells in enumerate(rows):
        css_class = "total" if number in table.totals else None
        body.append(tag("tr", *cells, class_=css_class))
    head = tag("thead", tag("tr", *titles))
    return tag("div", tag("table", head, tag("tbody", *body)), class_="scroll", tabindex=0)


def to_markdown(table: Table) -> str:
    """Return a Markdown table whose source is aligned too; totals are bold."""
    columns: list[list[str]] = []
    for column, *values in zip(table.columns, *table.rows, strict=True):
        cells = []
        for text in (column.title, *map(column.write, values)):
            in_one_line = " ".join(text.split())
            cells.append(_MARKDOWN_SPECIAL.sub(r"\\\g<0>", in_one_line))
        if not columns:
            for number in table.totals:
                cells[1 + number] = f"**{cells[1 + number]}**"
        width = max(3, *map(len, cells))
        if column is table.columns[-1] and column.align == "left":
            width = 3  # a last column may hold long lists: no reason to pad every row to the longest
        rule = "-" * width
        justify = str.ljust
        if column.align == "right":
            rule = f"{rule[1:]}:"
            justify = str.rjust
        title, *texts = (justify(cell, width) for cell in cells)
        columns.append([title, rule, *texts])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))


def to_csv(table: Table) -> str:
    """Return CSV of the values themselves: numbers in full, text as it is (a cell `=1+1` stays `=1+1`)."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.title for column in table.columns])
    writer.writerows(table.rows)  # None becomes an empty cell
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
        texts = map(Column.write, table.columns, row)
        drawn.add_row(*map(Text, texts))
    width = shutil.get_terminal_size((FILE_WIDTH, 1)).columns
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
