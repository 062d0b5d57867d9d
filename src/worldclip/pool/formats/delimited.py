"""CSV and TSV shards: one row is one pair; every column holds texts.

CSV is that of RFC 4180: a field in double quotes may hold separators, line ends and doubled quotes.  The first line
says the separator: tab, comma, semicolon or vertical bar.  TSV is that of IANA's text/tab-separated-values, which CC12M
has: a field holds no tab and no line end, and a quote is a character like any other.  A row with another number of
fields than the first is a bad pair.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from csv import Error as CsvError
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from worldclip.core.csv_rows import find_delimiter, read_rows
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.unpack import unpack_bytes
from worldclip.kernels.compiled import compiled
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import read_bytes
from worldclip.pool.formats.base import PoolFormat, ShardPairs, WrongColumns
from worldclip.pool.formats.table import columns_to_read, pairs_of_table, position_of_rows
from worldclip.pool.texts import is_utf8

HEADER_BYTES = 1 << 16
MAX_BLOCK_BYTES = (1 << 31) - 1  # of pyarrow; a row must lie within a block
_BOM = b"\xef\xbb\xbf"
_QUOTE, _LINE_FEED, _CARRIAGE_RETURN = ord('"'), ord("\n"), ord("\r")


class Dialect(NamedTuple):
    """How fields are separated."""

    suffix: str
    delimiter: str  # where the first line does not say it
    is_quoted: bool


CSV_DIALECT, TSV_DIALECT = Dialect(".csv", ",", True), Dialect(".tsv", "\t", False)


class Delimited(NamedTuple):
    """The contents of a shard, before its fields are separated."""

    content: bytes
    delimiter: str
    names: list[str]  # of the columns
    has_header: bool


def read(dialect: Dialect, shard: Shard, config: PoolConfig) -> ShardPairs:
    """Return the pairs of a shard.  Raises BadShard for one that is damaged, or has a quote that is never closed."""
    opened = _open(dialect, shard, config)
    table, unreadable = _read_columns(dialect, opened, columns_to_read(opened.names, config) or opened.names[:1])
    return pairs_of_table(shard, table, opened.names, config, unreadable=unreadable)


def read_all_columns(dialect: Dialect, shard: Shard, config: PoolConfig, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return all columns of these rows as texts."""
    opened = _open(dialect, shard, config)
    table, unreadable = _read_columns(dialect, opened, list(dict.fromkeys(opened.names)))
    position = position_of_rows(unreadable, table.num_rows + len(unreadable))
    fields = table.take(position.take(pa.array(rows))).to_pylist()
    return [{name: value.decode("utf-8", "backslashreplace") for name, value in row.items()} for row in fields]


def _open(dialect: Dialect, shard: Shard, config: PoolConfig) -> Delimited:
    content = unpack_bytes(read_bytes(shard.path), shard.name).removeprefix(_BOM)
    delimiter = _delimiter_of(dialect, content, config)
    if dialect.is_quoted and (at := find_open_quote(np.frombuffer(content, np.uint8), ord(delimiter))) >= 0:
        line = content.count(b"\n", 0, at) + 1
        raise BadShard(f'line {line:,}: a quote opens a field and is not closed; remove it, or write it as ""')
    names, has_header = _columns(dialect, content[:HEADER_BYTES], config)
    return Delimited(content, delimiter, names, has_header)


@compiled
def find_open_quote(content: np.ndarray, delimiter: int) -> int:
    """Return where a quoted field begins that has no end, -1 if there is none.

    A field ends at a quote before a delimiter or the end of a line.  Within one line a reader bears with other text
    there; a field of several lines that ends so has swallowed rows.
    """
    at, begins_field = 0, True
    while at < len(content):
        if not (begins_field and content[at] == _QUOTE):
            begins_field = content[at] == delimiter or content[at] == _LINE_FEED or content[at] == _CARRIAGE_RETURN
            at += 1
            continue
        start, has_lines, is_closed = at, False, False
        at += 1
        while at < len(content) and not is_closed:
            has_lines |= content[at] == _LINE_FEED
            if content[at] == _QUOTE:
                is_closed = at + 1 == len(content) or content[at + 1] != _QUOTE
                at += 0 if is_closed else 1
            at += 1
        is_end = at == len(content)
        if not is_end:
            is_end = content[at] == delimiter or content[at] == _LINE_FEED or content[at] == _CARRIAGE_RETURN
        if not is_closed or (has_lines and not is_end):
            return start
        begins_field = False
    return -1


def _read_columns(dialect: Dialect, opened: Delimited, names: Sequence[str]) -> tuple[pa.Table, dict[int, str]]:
    """Return (the columns `names`, why each of the rows that are missing from them cannot be read, by number)."""
    places = [opened.names.index(name) for name in names]
    options = (opened.content, opened.delimiter, len(opened.names), places)
    by_arrow = _read_by_arrow(*options, is_quoted=dialect.is_quoted)
    table, unreadable = by_arrow or _read_by_python(dialect, *options)
    first = int(opened.has_header)
    num_columns = len(opened.names)
    by_number = {row - first: f"row {row - first} has {fields} fields, not {num_columns}" for row, fields in unreadable}
    return table.rename_columns(list(names)).slice(first), by_number


def _read_by_python(
    dialect: Dialect, content: bytes, delimiter: str, num_columns: int, places: Sequence[int]
) -> tuple[pa.Table, list[tuple[int, int]]]:
    """Return (the columns at `places`; number of each row of another number of fields, and how many it has)."""
    values: list[list[bytes]] = [[] for _ in places]
    bad: list[tuple[int, int]] = []
    for number, row in enumerate(_split(dialect, content, delimiter)):
        if len(row) != num_columns:
            bad.append((number, len(row)))
            continue
        for column, place in zip(values, places, strict=True):
            column.append(row[place])
    columns = [pa.array(column, pa.large_binary()) for column in values]
    return pa.table(columns, [str(place) for place in places]), bad


def _split(dialect: Dialect, content: bytes, delimiter: str) -> Iterator[list[bytes]]:
    """Yield the fields of each row that is not empty, by Python's reader."""
    if not dialect.is_quoted:
        lines = (line.removesuffix(b"\r") for line in content.split(b"\n"))
        yield from (line.split(delimiter.encode()) for line in lines if line)
        return
    file = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
    try:
        for row in read_rows(file, delimiter):
            yield [field.encode("utf-8", "surrogateescape") for field in row]
    except CsvError as error:
        raise BadShard(f"cannot be read as CSV ({error})") from error


def _delimiter_of(dialect: Dialect, content: bytes, config: PoolConfig) -> str:
    head = content[:HEADER_BYTES].decode("utf-8", "surrogateescape")
    if not dialect.is_quoted and "\t" in head.partition("\n")[0]:
        return "\t"  # a quote may be in the fields, which misleads find_delimiter
    return find_delimiter(head, len(config.columns)) or dialect.delimiter


def _columns(dialect: Dialect, head: bytes, config: PoolConfig) -> tuple[list[str], bool]:
    """Return the names of the columns, and whether the first row holds them."""
    fields = next(_split(dialect, head, _delimiter_of(dialect, head, config)), [])
    first_row = [field.decode("utf-8", "backslashreplace") for field in fields]
    if config.columns:
        return list(config.columns), first_row == list(config.columns)
    if not first_row:
        raise BadShard("is empty; its first line has the names of the columns")
    is_url = ["://" in field for field in first_row]
    if len(first_row) == 2 and sum(is_url) == 1:  # CC12M's order, or CC3M's
        return ["url", "caption"] if is_url[0] else ["caption", "url"], False
    if any(is_url):
        raise WrongColumns(
            f"the first line holds a URL, not the names of columns; name the {len(first_row)} columns in"
            ' pool.columns, such as ["id", "url", "caption"]'
        )
    return first_row, True


def _read_by_arrow(
    content: bytes, delimiter: str, num_columns: int, places: Sequence[int], *, is_quoted: bool
) -> tuple[pa.Table, list[tuple[int, int]]] | None:
    """Return what `_read_by_python` returns.

    25 times as fast as Python's reader.  None where Arrow would read something else or nothing: it takes a lone
    carriage return for the end of a row, and fails a file for one bad row that is not UTF-8.
    """
    if content.count(b"\r") != content.count(b"\r\n") or not is_utf8(content):
        return None
    bad: list[tuple[int, int]] = []

    def note(row: Any) -> str:
        bad.append((row.number - 1, row.actual_columns))
        return "skip"

    names = [str(number) for number in range(num_columns)]
    included = [str(place) for place in places]
    # Rows have numbers in one thread only.  As binary, 007 stays 007; without quotes, TSV keeps them.
    reading = csv.ReadOptions(use_threads=False, block_size=min(len(content) + 1, MAX_BLOCK_BYTES), column_names=names)
    parsing = csv.ParseOptions(
        delimiter=delimiter,
        quote_char='"' if is_quoted else False,
        newlines_in_values=is_quoted,
        invalid_row_handler=note,
    )
    converting = csv.ConvertOptions(
        column_types=dict.fromkeys(included, pa.large_binary()), include_columns=included, strings_can_be_null=False
    )
    try:
        return csv.read_csv(pa.BufferReader(content), reading, parsing, converting), bad
    except pa.ArrowInvalid:
        return None


def _format(dialect: Dialect) -> PoolFormat:
    return PoolFormat(
        name=dialect.suffix[1:],
        suffixes=(dialect.suffix, f"{dialect.suffix}.gz"),
        read=functools.partial(read, dialect),
        read_rows=functools.partial(read_all_columns, dialect),
    )


CSV = _format(CSV_DIALECT)
TSV = _format(TSV_DIALECT)
