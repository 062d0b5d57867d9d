"""CSV and TSV shards: one row is one pair; every column holds texts.

CSV is that of RFC 4180: a field in double quotes may hold commas, line ends and doubled quotes.  TSV is that of IANA's
text/tab-separated-values, which CC12M has: a field holds no tab and no line end, and a quote is a character like any
other.  A .csv whose first line has tabs, or semicolons and no comma, is separated by these: open_clip's tables, and
spreadsheets of many countries.  A row with another number of fields than the first counts as a bad pair.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

import pyarrow as pa

from worldclip.core.csv_rows import find_delimiter, read_rows
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.unpack import as_file, unpack, unpack_bytes
from worldclip.pool.columns import WrongColumns
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import open_file, read_bytes
from worldclip.pool.formats.columns_format import ColumnsFormat

HEADER_BYTES = 1 << 16


class DelimitedFormat(ColumnsFormat):
    """Rows of fields between delimiters."""

    def __init__(self, name: str, delimiter: str, *, is_quoted: bool) -> None:
        self.name = name
        self.suffixes = (f".{name}", f".{name}.gz")
        self.delimiter, self.is_quoted = delimiter, is_quoted

    def read_columns(self, shard: Shard, config: PoolConfig, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
        columns = self.field_names(shard, config)
        places = [columns.index(name) for name in names]
        values: list[list[bytes]] = [[] for _ in names]
        bad: list[str] = []
        rows = self._split(unpack_bytes(read_bytes(shard.path), shard.name), len(config.columns))
        for number, (line, row) in enumerate(rows):
            if number == 0 and (not config.columns or row == [name.encode() for name in columns]):
                continue  # the names of the columns
            if len(row) != len(columns):
                bad.append(f"line {line} has {len(row)} fields, not {len(columns)}")
                continue
            for column, place in zip(values, places, strict=True):
                column.append(row[place])
        arrays = [pa.array(column, pa.large_binary()) for column in values]
        return pa.Table.from_arrays(arrays, names=list(names)), bad

    def _split(self, content: bytes, num_columns: int) -> Iterator[tuple[int, list[bytes]]]:
        """Yield (line, fields) of each row that is not empty; num_columns: of a file without a header, else 0.

        By Python's reader: Arrow's fails a file for one row that has another number of fields and is not UTF-8.
        """
        content = content.removeprefix(b"\xef\xbb\xbf")
        if not self.is_quoted:
            for number, text in enumerate(content.split(b"\n"), 1):
                if text := text.removesuffix(b"\r"):
                    yield number, text.split(self.delimiter.encode())
            return
        head = content[:HEADER_BYTES].decode("utf-8", "surrogateescape")
        file = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
        try:
            for line, row in read_rows(file, find_delimiter(head, num_columns) or self.delimiter):
                yield line, [field.encode("utf-8", "surrogateescape") for field in row]
        except csv.Error as error:
            raise BadShard(f"cannot be read as CSV ({error})") from error

    def field_names(self, shard: Shard, config: PoolConfig) -> list[str]:
        if config.columns:
            return list(config.columns)
        names = self.first_line(shard)
        if any("://" in name for name in names):
            raise WrongColumns(
                f"the first line holds a URL, not the names of columns; name the {len(names)} columns in pool.columns,"
                ' such as ["url", "caption"]'
            )
        return names

    def first_line(self, shard: Shard) -> list[str]:
        """Return the fields of the first row, the names of the columns where the file has them."""
        with open_file(shard.path) as file:
            rows = self._split(as_file(unpack(file, shard.name)).read(HEADER_BYTES), 0)
        for _, row in rows:
            return [name.decode("utf-8", "backslashreplace") for name in row]
        raise BadShard("is empty; its first line has the names of the columns")


CSV = DelimitedFormat("csv", ",", is_quoted=True)
TSV = DelimitedFormat("tsv", "\t", is_quoted=False)
