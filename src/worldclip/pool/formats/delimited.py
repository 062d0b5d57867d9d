"""CSV and TSV shards: one row is one pair; every column holds texts.

CSV is that of RFC 4180: a field in double quotes may hold separators, line ends and doubled quotes.  The first line
says the separator: tab, comma, semicolon or vertical bar.  TSV is that of IANA's text/tab-separated-values, which CC12M
has: a field holds no tab and no line end, and a quote is a character like any other.  A row with another number of
fields than the first is a bad pair.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from csv import Error as CsvError
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from worldclip.core import csv_rows
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.unpack import unpack_bytes
from worldclip.kernels.compiled import compiled
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import read_bytes
from worldclip.pool.formats.base import PoolFormat, ShardPairs, WrongColumns
from worldclip.pool.formats.table import columns_to_read, pairs_of_table

HEADER_BYTES = 1 << 16
MAX_BLOCK_BYTES = (1 << 31) - 1  # of pyarrow; a row must lie within a block
_BOM = b"\xef\xbb\xbf"
_QUOTE, _LINE_FEED, _CARRIAGE_RETURN = ord('"'), ord("\n"), ord("\r")


class Delimited(NamedTuple):
    """The contents of a shard, before its fields are separated."""

    content: bytes
    delimiter: str
    is_quoted: bool  # CSV; in TSV a quote is a character
    names: list[str]  # of the columns
    has_header: bool


def read(shard: Shard, config: PoolConfig) -> ShardPairs:
    """Return the pairs of a shard.  Raises BadShard for one that is damaged, or has a quote that is never closed."""
    opened = _open(shard, config)
    table, unreadable = _read_columns(opened, columns_to_read(opened.names, config) or opened.names[:1])
    return pairs_of_table(shard, table, opened.names, config, unreadable=unreadable)


def read_rows(shard: Shard, config: PoolConfig, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return all columns of these rows as texts; None in a row with another number of fields."""
    opened = _open(shard, config)
    table, _ = _read_columns(opened, list(dict.fromkeys(opened.names)))
    records: list[dict[str, Any]] = table.take(pa.array(rows)).to_pylist()
    for record in records:
        for name, value in record.items():
            record[name] = None if value is None else value.decode("utf-8", "backslashreplace")
    return records


CSV = PoolFormat(name="csv", suffixes=(".csv", ".csv.gz"), read=read, read_rows=read_rows)
TSV = PoolFormat(name="tsv", suffixes=(".tsv", ".tsv.gz"), read=read, read_rows=read_rows)


def _open(shard: Shard, config: PoolConfig) -> Delimited:
    content = unpack_bytes(read_bytes(shard.path), shard.name).removeprefix(_BOM)
    is_quoted = shard.name.endswith(CSV.suffixes)
    head = content[:HEADER_BYTES]
    text = head.decode("utf-8", "surrogateescape")
    if not is_quoted and "\t" in text.partition("\n")[0]:
        delimiter = "\t"  # a quote may be in the fields, which misleads find_delimiter
    else:
        delimiter = csv_rows.find_delimiter(text, len(config.columns)) or ("," if is_quoted else "\t")
    if is_quoted:
        at = find_open_quote(np.frombuffer(content, np.uint8), ord(delimiter))
        if at >= 0:
            line = content.count(b"\n", 0, at) + 1
            raise BadShard(f'line {line:,}: a quote opens a field and is not closed; remove it, or write it as ""')
    first_row = [field.decode("utf-8", "backslashreplace") for field in next(_split(head, delimiter, is_quoted), [])]
    names, has_header = _name_columns(first_row, config)
    return Delimited(content, delimiter, is_quoted, names, has_header)


def _name_columns(first_row: list[str], config: PoolConfig) -> tuple[list[str], bool]:
    """Return the names of the columns, and whether the first row holds them."""
    if config.columns:
        return list(config.columns), first_row == list(config.columns)
    if not first_row:
        raise BadShard("is empty; its first line has the names of the columns")
    is_url = ["://" in field for field in first_row]
    if is_url == [True, False]:  # CC12M's order
        return ["url", "caption"], False
    if is_url == [False, True]:  # CC3M's
        return ["caption", "url"], False
    if any(is_url):
        raise WrongColumns(
            f"the first line holds a URL, not the names of columns; name the {len(first_row)} columns in"
            ' pool.columns, such as ["id", "url", "caption"]'
        )
    return first_row, True


@compiled
def find_open_quote(content: np.ndarray, delimiter: int) -> int:
    """Return where a quoted field begins that has no end, -1 if there is none.

    A field ends at a quote before a delimiter or the end of a line.  Within one line a reader bears with other text
    there; a field of several lines that ends so has swallowed rows.
    """
    at = 0
    begins_field = True
    while at < len(content):
        if not (begins_field and content[at] == _QUOTE):
            begins_field = content[at] == delimiter or content[at] == _LINE_FEED or content[at] == _CARRIAGE_RETURN
            at += 1
            continue
        start = at
        has_lines = False
        is_closed = False
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


def _read_columns(opened: Delimited, names: Sequence[str]) -> tuple[pa.Table, dict[int, str]]:
    """Return (the columns `names`, why each of the rows of nulls cannot be read, by number)."""
    places = [opened.names.index(name) for name in names]
    table, num_fields = _read_by_arrow(opened, places) or _read_by_python(opened, places)
    is_whole = np.ones(table.num_rows + len(num_fields), bool)
    is_whole[list(num_fields)] = False
    position = pa.array(np.cumsum(is_whole) - 1, mask=~is_whole)
    first = int(opened.has_header)
    unreadable = {}
    for row, number in num_fields.items():
        unreadable[row - first] = f"row {row - first} has {number} fields, not {len(opened.names)}"
    whole = table.take(position) if num_fields else table
    return whole.rename_columns(list(names)).slice(first), unreadable


def _read_by_python(opened: Delimited, places: Sequence[int]) -> tuple[pa.Table, dict[int, int]]:
    """Return (the columns at `places`; how many fields each row of another number of fields has, by number)."""
    values: list[list[bytes]] = [[] for _ in places]
    num_fields: dict[int, int] = {}
    for number, row in enumerate(_split(opened.content, opened.delimiter, opened.is_quoted)):
        if len(row) != len(opened.names):
            num_fields[number] = len(row)
            continue
        for column, place in zip(values, places, strict=True):
            column.append(row[place])
    columns = [pa.array(column, pa.large_binary()) for column in values]
    return pa.table(columns, list(map(str, places))), num_fields


def _split(content: bytes, delimiter: str, is_quoted: bool) -> Iterator[list[bytes]]:
    """Yield the fields of each row that is not empty, by Python's reader."""
    if not is_quoted:
        lines = (line.removesuffix(b"\r") for line in content.split(b"\n"))
        yield from (line.split(delimiter.encode()) for line in lines if line)
        return
    file = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
    try:
        for row in csv_rows.read_rows(file, delimiter):
            yield [field.encode("utf-8", "surrogateescape") for field in row]
    except CsvError as error:
        raise BadShard(f"cannot be read as CSV ({error})") from error


def _read_by_arrow(opened: Delimited, places: Sequence[int]) -> tuple[pa.Table, dict[int, int]] | None:
    """Return what `_read_by_python` returns.

    25 times as fast as Python's reader.  None where Arrow would read something else or nothing: it takes a lone
    carriage return for the end of a row, and fails a file for one bad row that is not UTF-8.
    """
    content = opened.content
    if content.count(b"\r") != content.count(b"\r\n") or not _is_utf8(content):
        return None
    num_fields: dict[int, int] = {}

    def note(row: Any) -> str:
        num_fields[row.number - 1] = row.actual_columns
        return "skip"

    # Rows have numbers in one thread only.  As binary, 007 stays 007; without quotes, TSV keeps them.
    reading = csv.ReadOptions(
        use_threads=False,
        block_size=min(len(content) + 1, MAX_BLOCK_BYTES),
        column_names=list(map(str, range(len(opened.names)))),
    )
    parsing = csv.ParseOptions(
        delimiter=opened.delimiter,
        quote_char='"' if opened.is_quoted else False,
        newlines_in_values=opened.is_quoted,
        invalid_row_handler=note,
    )
    included = list(map(str, places))
    converting = csv.ConvertOptions(
        column_types=dict.fromkeys(included, pa.large_binary()), include_columns=included, strings_can_be_null=False
    )
    try:
        return csv.read_csv(pa.BufferReader(content), reading, parsing, converting), num_fields
    except pa.ArrowInvalid:
        return None


def _is_utf8(content: bytes) -> bool:
    # Arrow checks in place; bytes.decode() writes all characters as a str, which takes 3 (Czech) to 30 times as long.
    offsets = pa.py_buffer(np.array([0, len(content)]))
    try:
        pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(content)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
