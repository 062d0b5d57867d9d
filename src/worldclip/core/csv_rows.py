"""Read CSV between any of the usual delimiters, with fields of any length."""

from __future__ import annotations

import csv
import itertools
import threading
from collections.abc import Iterator
from typing import Any, TextIO

DELIMITERS = ("\t", ",", ";", "|")  # tried in this order: a tab within a field is rarer than a comma
MAX_FIELD_CHARS = 1 << 30
ROWS_AT_ONCE = 1_000
_FIELD_LIMIT = threading.Lock()  # the limit of the module csv is one for the whole process


def find_delimiter(text: str, num_columns: int = 0) -> str | None:
    """Return the first delimiter that cuts the first line into so many fields; num_columns 0: into several.

    None: no delimiter does.
    """
    head = text.partition("\n")[0]
    for delimiter in DELIMITERS:
        try:
            num_fields = len(next(csv.reader([head], delimiter=delimiter), []))
        except csv.Error:  # such as a carriage return within the line; the reader of the rows says what is wrong
            continue
        if num_fields == num_columns or (num_columns == 0 and num_fields > 1):
            return delimiter
    return None


def read_rows(file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its last line, fields) of each row that is not empty.

    file: opened with newline="".  Raises csv.Error that names the line.
    """
    reader = csv.reader(file, delimiter=delimiter)
    while rows := _next_rows(reader):
        yield from ((line, row) for line, row in rows if row)


def _next_rows(reader: Any) -> list[tuple[int, list[str]]]:
    """Return the next ROWS_AT_ONCE rows; other readers of the process find csv's limit of a field as it was."""
    with _FIELD_LIMIT:
        older = csv.field_size_limit(MAX_FIELD_CHARS)
        try:
            return [(reader.line_num, row) for row in itertools.islice(reader, ROWS_AT_ONCE)]
        except csv.Error as error:
            raise csv.Error(f"line {reader.line_num:,}: {error}") from error
        finally:
            csv.field_size_limit(older)
