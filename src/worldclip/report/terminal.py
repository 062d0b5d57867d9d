"""Show text of a command on a terminal: its Markdown tables as columns that fit, all other lines cut between words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

_CELL_BORDER = re.compile(r"(?<!\\)\|")
_ESCAPE = re.compile(r"\\(?=[\\|`<\[\]~&*_])")  # the escapes that report/table.py writes


def fit_terminal(text: str, width: int) -> str:
    """Return a command's result for a terminal of `width` columns.

    Tables lose their borders and rules, and long cells take several lines.  No line breaks within a word or a flag.
    """
    from rich.console import Console

    console = Console(width=width, color_system=None, file=None, highlight=False)
    with console.capture() as capture:
        for is_table, lines in groupby(text.split("\n"), lambda line: line.startswith("| ")):
            if is_table:
                console.print(_table(list(lines)))
                continue
            for line in lines:
                console.print(line, markup=False, overflow="fold")
    return "\n".join(line.rstrip() for line in capture.get().removesuffix("\n").split("\n"))


def _table(lines: Sequence[str]) -> Any:
    """Return a Markdown table as one of rich's."""
    from rich.table import Table
    from rich.text import Text

    head, rule, *rows = lines
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=True)
    for title, dashes in zip(_cells(head), _cells(rule), strict=True):
        is_right = dashes.endswith(":")
        table.add_column(Text(title), justify="right" if is_right else "left", no_wrap=is_right, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    return table


def _cells(line: str) -> Iterator[str]:
    """Yield the cells of a line of a Markdown table, without escapes."""
    for cell in _CELL_BORDER.split(line.strip())[1:-1]:
        yield _ESCAPE.sub("", cell).strip()
