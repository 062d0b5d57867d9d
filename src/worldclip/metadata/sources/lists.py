"""Plain lists of entries: one entry per line with an optional score after a tab, or a JSON array of strings.

The JSON form is that of the reference's metadata.json.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

from worldclip.core.errors import BadShard


def read_list(path: Path) -> Iterator[tuple[str, float | None]]:
    """Yield (entry, score or None) of a plain list, or of a JSON array (.json); either may be gzipped (.gz).

    Raises BadShard with the line for invalid UTF-8 and invalid scores, and for JSON that is not an array of strings.
    """
    if path.name.removesuffix(".gz").endswith(".json"):
        yield from _read_json(path)
        return
    for number, line in enumerate(iter_lines(path), 1):
        entry, separator, score = line.partition("\t")
        if not entry.strip():
            continue
        try:
            yield entry, _to_score(score) if separator else None
        except ValueError:
            raise BadShard(f"{path}, line {number}: score {score!r} after the tab is not a number") from None


def _to_score(text: str) -> float:
    score = float(text)
    if math.isnan(score):
        raise ValueError(text)
    return score


def _read_json(path: Path) -> Iterator[tuple[str, None]]:
    try:
        entries = json.loads("\n".join(iter_lines(path)))
    except ValueError as error:
        raise BadShard(f"{path}: invalid JSON ({error})") from error
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise BadShard(f"{path}: not a JSON array of strings")
    yield from ((entry, None) for entry in entries)


def iter_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, plain or .gz, without line ends and without a byte order mark."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8").rstrip("\r\n")
                yield text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        raise BadShard(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise BadShard(f"{path}: cannot be read after line {number} ({error})") from error
