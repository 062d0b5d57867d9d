"""Text files of datasets: lines, JSON and CSV, checked as they are read, and their language codes.

Each function raises UserError with the file, the line or the record if something is not as it must be.
"""

from __future__ import annotations

import ast
import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from worldclip.core import csv_rows
from worldclip.core.artifacts import Json
from worldclip.core.errors import UserError
from worldclip.core.regular_file import NotRegular, read_regular
from worldclip.language.table import OTHER, Languages, scheme_of

# Codes of Crossmodal-3600, XTD-10 and others that differ from ours.
OUR_CODES = {"fil": "tl", "quz": "qu", "iw": "he", "in": "id", "nb": "no", "jp": "ja"}


def decode(content: bytes, where: str) -> str:
    """Return a caption as text."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 ({error}); it must hold the image's captions") from error


def read_lines(path: Path, what: str) -> list[str]:
    """Return the lines of a UTF-8 file, at least one; a newline at its end is optional.  what: what the file holds."""
    content = _read(path, f"; it must hold {what}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); it must hold {what}") from error
    lines = text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{path} is empty; it must hold {what}")
    return lines


def _read(path: Path, remedy: str = "") -> bytes:
    try:
        return read_regular(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing{remedy}") from None
    except NotRegular as error:
        raise UserError(f"{path} {error.strerror}{remedy}") from None


def parse_record(content: str | bytes, fields: Sequence[str], texts: Sequence[str], where: str) -> Json:
    """Return a JSON object with `fields`, of which those of `texts` are strings that are not blank."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    check_fields(record, fields, texts, where)
    return dict(record)


def read_records(path: Path, what: str, fields: Sequence[str], texts: Sequence[str]) -> list[Json]:
    """Return the objects of a JSONL file, each as parse_record checks it."""
    lines = read_lines(path, what)
    return [parse_record(line, fields, texts, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def read_json_object(path: Path) -> Json:
    """Return the JSON object that a file holds."""
    return parse_record(_read(path), (), (), str(path))


def check_fields(record: Any, fields: Sequence[str], texts: Sequence[str], where: str) -> None:
    """Check that `record` is a dict with `fields`, of which those of `texts` are strings that are not blank."""
    if not isinstance(record, dict):
        with_fields = f" with {', '.join(fields)}" if fields else ""
        raise UserError(f"{where} is {record!r:.200}; it must be a JSON object{with_fields}")
    if missing := [name for name in fields if name not in record]:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    for name in texts:
        if not isinstance(record[name], str) or not record[name].strip():
            raise UserError(f"{where}: {name} is {record[name]!r}; it must be a text")


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file whose header has `columns`, at least one."""
    read_lines(path, f"columns {', '.join(columns)}")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv_rows.read_rows(file, ","))
    except csv.Error as error:
        raise UserError(f"{path} is not CSV ({error})") from error
    _, header = rows.pop(0) if rows else (1, [])
    if missing := [name for name in columns if name not in header]:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header)}")
    if not rows:
        raise UserError(f"{path} has no rows after its header")
    records = [dict(zip(header, fields, strict=False)) for _, fields in rows]
    for (line, _), record in zip(rows, records, strict=True):
        if any(name not in record for name in columns):  # a quote without its end takes the rest of the file
            raise UserError(f"{path}:{line} has fewer fields than the header")
    return records


def check_distinct(keys: Iterable[str], what: str) -> None:
    """Raise UserError if a key occurs twice.  what: the file and what each of its lines names."""
    for key, times in Counter(keys).items():
        if times > 1:
            raise UserError(f"{what} {key!r} occurs twice; each image has one line")


def is_texts(value: Any) -> bool:
    """Return whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def parse_index(text: str, num_classes: int, where: str) -> int:
    """Return the class index that a text holds."""
    text = text.strip()
    if not text.isdecimal() or int(text) >= num_classes:
        raise UserError(f"{where} says {text!r}; it must be a class index, 0 to {num_classes - 1}")
    return int(text)


def parse_list(text: str, where: str, expected: str) -> list[Any]:
    """Return a list that a table cell holds in Python's notation.  expected: what it must be, with an example."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        values = None
    if not isinstance(values, list | tuple):
        raise UserError(f"{where} is {text!r}; it must be {expected}")
    return list(values)


# --- language codes


def one_per_language(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return {language code of the dataset: file}.  Raises UserError for two files of one language."""
    by_lang: dict[str, Path] = {}
    for lang, path in files:
        if lang in by_lang:
            raise UserError(f"{path} and {by_lang[lang]} are both captions in {lang}; remove one")
        by_lang[lang] = path
    return by_lang


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
        is_flores = scheme_of(code) == "glotlid"
        ours[code] = languages.from_lid(code, scheme="glotlid") if is_flores else our_code(code, languages)
    times_used = Counter(ours.values())
    return {code: code if times_used[our] > 1 or our == OTHER else our for code, our in ours.items()}
