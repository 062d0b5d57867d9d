"""What the first rows of a table say about its columns: which hold texts, and which are worth a condition."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worldclip.core.printable import one_line
from worldclip.tools.known_pools import is_text_name

MAX_VALUES = 12  # different values of a column that are worth a condition
MIN_REPEATS = 4  # rows per value, on average: among fewer rows any column has few values
MAX_CHARS = 30  # of a value in a comment
MIN_TEXTS = 0.5  # of the values: texts of several words
_ADDRESS = re.compile(r"\w+://\S+$|\S*$")  # one word: an address, a path, a key, a number
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?", re.ASCII)
Columns = Mapping[str, Sequence[Any]]
"""The values of each column in the first rows, without missing ones."""


def values_by_column(rows: Iterable[Mapping[str, Any]]) -> Columns:
    """Return the values of each column that are not missing."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values = columns.setdefault(name, [])
            if value is not None:
                values.append(value)
    return columns


def columns_of_texts(columns: Columns) -> list[str]:
    """Return the columns of texts: those with a usual name, and those whose values are many and of several words."""
    names = []
    for name, values in columns.items():
        texts: list[Any] = []
        for value in values:
            texts += value if isinstance(value, list) else [value]
        texts = [text for text in texts if text is not None]
        if not texts or not all(isinstance(text, str) for text in texts):
            continue
        num_sentences = sum(_ADDRESS.match(text) is None for text in texts)
        is_free = num_sentences > MIN_TEXTS * len(texts) and not _has_few(texts)
        if is_text_name(name) or is_free:
            names.append(name)
    return names


def columns_for_where(columns: Columns, used: Sequence[str]) -> dict[str, str]:
    """Return {column: its values, in words} of numbers, and of columns with few different values; used: left out."""
    described = {}
    for name, values in columns.items():
        is_plain = all(isinstance(value, bool | int | float | str) for value in values)
        if name in used or not is_plain or len(set(values)) < 2:
            continue
        if _has_few(values):
            shown = []
            for value, _ in Counter(values).most_common():
                text = json.dumps(value, ensure_ascii=False)
                shown.append(one_line(text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}..."))
            described[name] = ", ".join(shown)
        elif not any(isinstance(value, bool | str) for value in values):
            described[name] = f"{min(values):.6g} to {max(values):.6g}"
    return described


def columns_of_written_numbers(columns: Columns) -> list[str]:
    """Return the columns of texts that are all numbers, as CSV stores them; they compare by their characters."""
    names = []
    for name, values in columns.items():
        texts = [value for value in values if value != ""]
        if texts and all(isinstance(text, str) and _NUMBER.fullmatch(text.strip()) for text in texts):
            names.append(name)
    return names


def condition_of(name: str, values: Sequence[Any]) -> tuple[str, str, Any]:
    """Return a condition on a column of `columns_for_where`, as an example: its most frequent or its middle value."""
    ((value, count),) = Counter(sorted(values, key=str)).most_common(1)
    if count > 1:
        return name, "=", value
    return name, ">=", sorted(values)[len(values) // 2]


def fits(value: Any, values: Sequence[Any]) -> bool:
    """Return whether the value of a condition has the type of a column's values, as far as the first rows say."""
    kind = str if isinstance(value, str) else int | float
    return all(isinstance(item, kind) and not isinstance(item, bool) for item in values)


def _has_few(values: Sequence[Any]) -> bool:
    """Return whether values repeat so often that a condition on one of them makes sense."""
    num_values = len(set(values))
    return num_values <= MAX_VALUES and len(values) >= MIN_REPEATS * num_values
