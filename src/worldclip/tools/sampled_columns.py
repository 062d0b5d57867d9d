"""What the first rows of a table say about its columns: which hold texts, and which are worth a condition."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from worldclip.core.printable import one_line
from worldclip.tools.known_pools import is_text_name

MAX_VALUES = 12  # different values of a column that are worth a condition
MIN_REPEATS = 4  # rows per value, on average: among fewer rows any column has few values
MAX_CHARS = 30  # of a value in a comment
MIN_TEXTS = 0.5  # of the values: texts of several words
_ADDRESS = re.compile(r"\w+://\S+$|\S*$")  # one word: an address, a path, a key, a number
Row = Mapping[str, Any]


def columns_of_texts(rows: Sequence[Row]) -> list[str]:
    """Return the columns of texts: those with a usual name, and those whose values are many and of several words."""
    columns = []
    for name, values in _values(rows).items():
        texts = []
        for value in values:
            texts += value if isinstance(value, list) else [value]
        texts = [text for text in texts if text is not None]
        if not texts or not all(isinstance(text, str) for text in texts):
            continue
        num_sentences = sum(_ADDRESS.match(text) is None for text in texts)
        is_free = num_sentences > MIN_TEXTS * len(texts) and not _has_few(texts)
        if is_text_name(name) or is_free:
            columns.append(name)
    return columns


def columns_for_where(rows: Sequence[Row], used: Sequence[str]) -> dict[str, str]:
    """Return {column: its values, in words} of numbers, and of columns with few different values; used: left out."""
    described = {}
    for name, values in _values(rows).items():
        present = [value for value in values if value is not None]
        is_plain = all(isinstance(value, bool | int | float | str) for value in present)
        if name in used or not present or not is_plain:
            continue
        counts = Counter(present)
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
        if _has_few(present) and len(counts) > 1:
            described[name] = ", ".join(_short(value) for value, _ in counts.most_common())
        elif is_number and len(counts) > 1:
            described[name] = f"{min(present):.6g} to {max(present):.6g}"
    return described


def condition_of(name: str, rows: Sequence[Row]) -> tuple[str, str, Any]:
    """Return a condition on a column of `columns_for_where`, as an example: its most frequent or its middle value."""
    present = sorted((row[name] for row in rows if row.get(name) is not None), key=str)
    (value, count), *_ = Counter(present).most_common(1)
    if count > 1:
        return name, "=", value
    return name, ">=", sorted(present)[len(present) // 2]


def _has_few(values: Sequence[Any]) -> bool:
    """Return whether values repeat so often that a condition on one of them makes sense."""
    num_values = len(set(values))
    return num_values <= MAX_VALUES and len(values) >= MIN_REPEATS * num_values


def fits(condition: tuple[str, str, Any], rows: Sequence[Row]) -> bool:
    """Return whether a condition compares a column with a value of its own type, as far as the rows say."""
    name, _, value = condition
    kind = str if isinstance(value, str) else int | float
    present = [row[name] for row in rows if row.get(name) is not None]
    return all(isinstance(item, kind) and not isinstance(item, bool) for item in present)


def _values(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the values of each field, None where a row lacks it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return one_line(text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}...")
