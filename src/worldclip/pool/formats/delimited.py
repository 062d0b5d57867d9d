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
from typing import Any

import pyarrow as pa
from pyarrow import csv

from worldclip.core.csv_rows import find_delimiter, read_rows
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.unpack import as_file, unpack, unpack_bytes
from worldclip.pool.columns import WrongColumns
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import open_file, read_bytes
from worldclip.pool.formats.columns_format import ColumnsFormat
from worldclip.pool.texts import is_utf8

HEADER_BYTES = 1 << 16
MAX_BLOCK_BYTES = (1 << 31) - 1  # of pyarrow; a row must lie within a block
_BOM = b"\xef\xbb\xbf"


class DelimitedFormat(ColumnsFormat):
    """Rows of fields between delimiters."""

    def __init__(self, name: str, delimiter: str, *, is_quoted: bool) -> None:
        self.name = name
        self.suffixes = (f".{name}", f".{name}.gz")
        self.delimiter, self.is_quoted = delimiter, is_quoted

    def read_columns(self, shard: Shard, config: PoolConfig, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
        content = unpack_bytes(read_bytes(shard.path), shard.name).removeprefix(_BOM)
        columns, has_header = self._columns(content[:HEADER_BYTES], config)
        delimiter = self._delimiter_of(content, config)
        places = [columns.index(name) for name in names]
        read = _read_by_arrow(content, delimiter, len(columns), places, is_quoted=self.is_quoted)
        table, bad = read or self._read_by_python(content, delimiter, len(columns), places)
        return table.rename_columns(list(names)).slice(int(has_header)), bad

    def _read_by_python(
        self, content: bytes, delimiter: str, num_columns: int, places: Sequence[int]
    ) -> tuple[pa.Table, list[str]]:
        values: list[list[bytes]] = [[] for _ in places]
        bad: list[str] = []
        for number, row in enumerate(self._split(content, delimiter), 1):
            if len(row) != num_columns:
                bad.append(f"row {number} has {len(row)} fields, not {num_columns}")
                continue
            for column, place in zip(values, places, strict=True):
                column.append(row[place])
        columns = [pa.array(column, pa.large_binary()) for column in values]
        return pa.table(columns, [str(place) for place in places]), bad

    def _split(self, content: bytes, delimiter: str) -> Iterator[list[bytes]]:
        """Yield the fields of each row that is not empty, by Python's reader."""
        if not self.is_quoted:
            lines = (line.removesuffix(b"\r") for line in content.split(b"\n"))
            yield from (line.split(delimiter.encode()) for line in lines if line)
            return
        file = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
        try:
            for _, row in read_rows(file, delimiter):
                yield [field.encode("utf-8", "surrogateescape") for field in row]
        except CsvError as error:
            raise BadShard(f"cannot be read as CSV ({error})") from error

    def _delimiter_of(self, content: bytes, config: PoolConfig) -> str:
        head = content[:HEADER_BYTES].decode("utf-8", "surrogateescape")
        if not self.is_quoted and "\t" in head.partition("\n")[0]:
            return "\t"  # a quote may be in the fields, which misleads find_delimiter
        return find_delimiter(head, len(config.columns)) or self.delimiter

    def field_names(self, shard: Shard, config: PoolConfig) -> list[str]:
        with open_file(shard.path) as file:
            head = as_file(unpack(file, shard.name)).read(HEADER_BYTES)
        return self._columns(head.removeprefix(_BOM), config)[0]

    def _columns(self, head: bytes, config: PoolConfig) -> tuple[list[str], bool]:
        """Return the names of the columns, and whether the first row holds them."""
        fields = next(self._split(head, self._delimiter_of(head, config)), [])
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
) -> tuple[pa.Table, list[str]] | None:
    """Return (the columns at `places` as large_binary; why rows with another number of fields are bad).

    25 times as fast as Python's reader.  None where Arrow would read something else or nothing: it takes a lone
    carriage return for the end of a row, and fails a file for one bad row that is not UTF-8.
    """
    if content.count(b"\r") != content.count(b"\r\n") or not is_utf8(content):
        return None
    bad: list[str] = []

    def note(row: Any) -> str:
        bad.append(f"row {row.number} has {row.actual_columns} fields, not {num_columns}")
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


CSV = DelimitedFormat("csv", ",", is_quoted=True)
TSV = DelimitedFormat("tsv", "\t", is_quoted=False)
