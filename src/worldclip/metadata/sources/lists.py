"""Lists of entries: one a line, optionally a tab and a score; or a JSON array of strings, as the reference's lists."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from worldclip.core.errors import BadShard


def read_list(path: Path) -> Iterator[tuple[str, float | None]]:
    """(entry, score or None) of a plain list or, by its suffix, of a JSON array; gzip by its suffix.

    Raises BadShard, with the line, for what is not UTF-8, has a score that is no number, or is no array of strings.
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
            raise BadShard(f"{path}, line {number}: {score!r} behind the tab is no number, the entry's score") from None


def _to_score(text: str) -> float:
    score = float(text)
    if math.isnan(score):
        raise ValueError(text)
    return score


def _read_json(path: Path) -> Iterator[tuple[str, None]]:
    try:
        entries = json.loads("\n".join(iter_lines(path)))
    except ValueError as error:
        raise BadShard(f"{path} is not JSON ({error})") from error
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise BadShard(f"{path} is no JSON array of strings")
    yield from ((entry, None) for entry in entries)


def iter_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, plain or .gz, without their ends; a byte order mark is left out."""
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8").rstrip("\r\n")
                yield text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        raise BadShard(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise BadShard(f"{path} cannot be read behind line {number}: {error}") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")
