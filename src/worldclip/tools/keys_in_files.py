"""The keys that stand in files made from a pool: Parquet, tars, JSON, pages of a report or an explorer."""

from __future__ import annotations

import html
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.arrow import Strings
from worldclip.core.errors import BadShard
from worldclip.core.keys import BATCH_KEYS, HEX_PAIR, KeyTable, hex_strings
from worldclip.core.parquet_size import check_parquet
from worldclip.core.regular_file import open_regular, read_regular

CHUNK = "receiveChunk("  # beginning of the data of an explorer
CHUNKS = ("examples/", "pairs", "dropped")  # those with keys; others have entries
_DAMAGE = (BadShard, OSError, RecursionError, ValueError, tarfile.TarError)  # pa.ArrowInvalid is a ValueError
_OF_PAGE = re.compile('<code>([^<]*)</code>|alt="([^"]*)"|<p>([^<]*): ')  # how a report shows keys


def rows_in(path: Path, lookup: KeyTable, column: str, unread: dict[str, str]) -> list[int]:
    """Return the rows of the keys that a file, or a file in a folder, has.

    column: of the pool's keys, in tables with the columns of the pool.  unread: gets why a file cannot be read.
    """
    rows_of_files: set[int] = set()
    files = [path]
    if path.is_dir():
        files = sorted(filter(Path.is_file, path.rglob("*")))
    for file in files:
        try:
            for candidates in _read_strings(file, column):
                rows = np.unique(lookup.find(candidates))
                rows_of_files.update(rows[rows >= 0].tolist())
        except _DAMAGE as error:
            unread[str(file)] = str(error)
    return sorted(rows_of_files)


def _read_strings(path: Path, column: str) -> Iterator[Strings]:
    """Yield strings of a file that may be keys."""
    if path.suffix == ".parquet":
        with open_regular(path), pq.ParquetFile(path) as file:
            check_parquet(path, path.stat().st_size, file.metadata, held_rows=BATCH_KEYS)
            for name in {"key", "other_key", column}.intersection(file.schema_arrow.names):
                for batch in file.iter_batches(BATCH_KEYS, columns=[name]):
                    yield batch[0].drop_null().cast(pa.large_string())
    elif path.name == "keys.npy":
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(mapped) if mapped.dtype == HEX_PAIR else 0, BATCH_KEYS):
            yield hex_strings(mapped[start : start + BATCH_KEYS])
    elif path.suffix == ".tar":
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.name.endswith(".json") else None
                if content is not None:
                    yield _utf8(_keys_of_json(json.loads(content.read())))
    elif path.suffix == ".html":
        matches = _OF_PAGE.finditer(read_regular(path).decode("utf-8", "replace"))
        yield _utf8(html.unescape(match[match.lastindex or 0]) for match in matches)
    elif path.suffix in (".js", ".json", ".jsonl"):
        yield _utf8(_keys_of_records(read_regular(path).decode("utf-8", "replace"), path.suffix))


def _keys_of_records(text: str, suffix: str) -> Iterator[str]:
    """Yield the keys in JSON, JSON lines, or a chunk of an explorer; other scripts are programs."""
    if suffix == ".jsonl":
        for line in text.splitlines():
            yield from _keys_of_json(json.loads(line))
    elif suffix == ".json":
        yield from _keys_of_json(json.loads(text))
    elif text.startswith(tuple(f'{CHUNK}"{name}' for name in CHUNKS)):
        yield from _keys_of_json(json.loads(text.partition(",")[2].rpartition(")")[0]))


def _keys_of_json(value: Any) -> Iterator[str]:
    """Yield what may be a key: a value named so, and the first two texts of a row, which has a picture's file first.

    Entries of a list are no keys, though a number may be both.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            if name in ("key", "other_key") and isinstance(item, str):
                yield item
            elif name != "entries":
                yield from _keys_of_json(item)
    elif isinstance(value, list):
        yield from (item for item in value[:2] if isinstance(item, str))
        for item in value:
            yield from _keys_of_json(item)


def _utf8(strings: Iterable[str]) -> pa.Array:
    """Return strings without those that hold half of a surrogate pair, which no key does."""
    return pa.array([text for text in strings if not re.search("[\ud800-\udfff]", text)], pa.large_string())
