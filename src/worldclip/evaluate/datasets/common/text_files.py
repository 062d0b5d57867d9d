"""Text files of datasets: lines, JSON and CSV as they are, and the codes of their languages.

What a layout cannot read raises an ordinary error; datasets.load says which dataset and folder it concerns.  Only what
would give wrong numbers without an error is checked here.
"""

from __future__ import annotations

import ast
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldclip.core import csv_rows
from worldclip.core.artifacts import Json
from worldclip.core.regular_file import read_regular
from worldclip.language.table import OTHER, Languages, scheme_of

# Codes of Crossmodal-3600, XTD-10 and others that differ from ours.
OUR_CODES = {"fil": "tl", "quz": "qu", "iw": "he", "in": "id", "nb": "no", "jp": "ja"}


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.  Raises ValueError, which names the file, for other bytes."""
    try:
        return read_regular(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error})") from error


def lines_of(text: str) -> list[str]:
    """Return the lines of a text with the line ends of Unix or Windows, without blank ones at its end."""
    return text.replace("\r\n", "\n").rstrip("\n").split("\n")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file as `lines_of` does, at least one."""
    lines = lines_of(read_text(path))
    if lines == [""]:
        raise ValueError(f"{path} is empty")
    return lines


def parse_json(text: str | bytes, where: str) -> Any:
    """Return the value of a JSON text.  Raises ValueError, which names the place, for other texts."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error})") from error


def read_json(path: Path) -> Json:
    """Return the JSON object of a file."""
    value = parse_json(read_text(path), str(path))
    if not isinstance(value, dict):
        raise TypeError(f"{path} holds no JSON object")
    return value


def read_columns(path: Path) -> dict[str, list[str]]:
    """Return the columns of a CSV file with a header, by name; all have equally many rows, at least one."""
    file = io.StringIO(read_text(path), newline="")
    header, *rows = csv_rows.read_rows(file, ",")
    if not rows:
        raise ValueError(f"{path} has no rows")
    for number, fields in enumerate(rows, 1):
        if len(fields) != len(header):
            raise ValueError(f"{path}: row {number} has {len(fields)} fields; the header names {len(header)}")
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def class_index(value: Any, num_classes: int, where: str) -> int:
    """Return a class index, given as a number or as text; a negative one would count from the end."""
    index = int(value)
    if not 0 <= index < num_classes:
        raise ValueError(f"{where}: class {index} is not 0 to {num_classes - 1}")
    return index


def parse_list(text: str) -> list[Any]:
    """Return the list that a table cell holds in Python's notation."""
    return list(ast.literal_eval(text))


# --- language codes


def our_code(code: str, languages: Languages) -> str:
    """Return our code of a dataset's language; a code that our table lacks stays as it is, in lower case."""
    code = code.lower().replace("-", "_")
    return OUR_CODES.get(code) or languages.by_wikipedia().get(code, code)


def our_codes(codes: Sequence[str], languages: Languages) -> dict[str, str]:
    """Map each of a dataset's codes to ours; codes like FLORES' (`deu_Latn`) are understood too.

    Codes that share one language of ours (zho_Hans and zho_Hant) stay as they are: they are evaluated separately.
    """
    ours: dict[str, str] = {}
    for code in codes:
        if scheme_of(code) == "glotlid":  # FLORES' list has the form of GlotLID's
            ours[code] = languages.from_lid(code, scheme="glotlid")
        else:
            ours[code] = our_code(code, languages)
    times_used = Counter(ours.values())
    for code in codes:
        if ours[code] == OTHER or times_used[ours[code]] > 1:
            ours[code] = code
    return ours
