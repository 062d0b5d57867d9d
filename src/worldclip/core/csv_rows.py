"""Read CSV between any of the usual delimiters, with fields of any length."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import TextIO

DELIMITERS = ("\t", ",", ";", "|")  # tried in this order: a tab within a field is rarer than a comma
csv.field_size_limit(1 << 30)  # one limit for the whole process; captions of a megabyte exist


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


def read_rows(file: TextIO, delimiter: str) -> Iterator[list[str]]:
    """Yield the fields of each row that is not empty.

    file: opened with newline="".  Raises csv.Error that names the line.
    """
    reader = csv.reader(file, delimiter=delimiter)
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num:,}: {error}") from error
