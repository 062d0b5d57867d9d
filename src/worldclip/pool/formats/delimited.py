"""CSV and TSV shards: one row is one pair; every column holds texts.

CSV is that of RFC 4180: a field in double quotes may hold commas, line ends and doubled quotes.  TSV is that of IANA's
text/tab-separated-values, which CC12M has: a field holds no tab and no line end, and a quote is a character like any
other.  A row with another number of fields than the first counts as a bad pair.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.csv as pa_csv

from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.pool.columns import WrongColumns
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import open_file
from worldclip.pool.formats.columns_format import ColumnsFormat

BLOCK_BYTES = 16 << 20  # read at once; a row has fewer
HEADER_BYTES = 1 << 16


class DelimitedFormat(ColumnsFormat):
    """Rows of fields between delimiters."""

    def __init__(self, name: str, delimiter: str, *, is_quoted: bool) -> None:
        self.name = name
        self.suffixes = (f".{name}", f".{name}.gz")
        self.delimiter, self.is_quoted = delimiter, is_quoted

    def read_columns(self, shard: Shard, config: PoolConfig, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
        columns = self.field_names(shard, config)
        bad: list[str] = []

        def note(row: pa_csv.InvalidRow) -> str:
            bad.append(f"line {row.number} has {row.actual_columns} fields, not {row.expected_columns}")
            return "skip"

        reading = pa_csv.ReadOptions(
            use_threads=False,  # rows have numbers only then
            block_size=BLOCK_BYTES,
            column_names=columns,
            skip_rows=0 if self._first_line(shard) != columns else 1,
        )
        parsing = pa_csv.ParseOptions(
            delimiter=self.delimiter,
            quote_char='"' if self.is_quoted else False,
            newlines_in_values=self.is_quoted,
            invalid_row_handler=note,
        )
        converting = pa_csv.ConvertOptions(
            check_utf8=False,  # the texts are checked one by one
            include_columns=list(names),
            column_types={name: pa.large_binary() for name in columns},
            strings_can_be_null=False,
        )
        with _open(shard) as file:
            try:
                return pa_csv.read_csv(file, reading, parsing, converting), bad
            except (pa.ArrowException, ValueError, KeyError) as error:
                raise BadShard(f"cannot be read as {self.name.upper()} ({error})") from error

    def field_names(self, shard: Shard, config: PoolConfig) -> list[str]:
        if config.columns:
            return list(config.columns)
        names = self._first_line(shard)
        if any("://" in name for name in names):
            raise WrongColumns(
                f"the first line holds a URL, not the names of columns; name the {len(names)} columns in pool.columns,"
                ' such as ["url", "caption"]'
            )
        return names

    def count_rows(self, shard: Shard, config: PoolConfig) -> int:
        names = self.field_names(shard, config)
        table, bad = self.read_columns(shard, config, names[:1])
        return table.num_rows + len(bad)

    def _first_line(self, shard: Shard) -> list[str]:
        with _open(shard) as file:
            head = file.read(HEADER_BYTES)
        line = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r")
        text = line.decode("utf-8", "backslashreplace")
        if not text:
            raise BadShard("is empty; its first line has the names of the columns")
        if not self.is_quoted:
            return text.split(self.delimiter)
        try:
            return next(csv.reader([text], delimiter=self.delimiter))
        except csv.Error as error:
            raise BadShard(f"its first line cannot be read ({error})") from error


CSV = DelimitedFormat("csv", ",", is_quoted=True)
TSV = DelimitedFormat("tsv", "\t", is_quoted=False)


@contextmanager
def _open(shard: Shard) -> Iterator[BinaryIO]:
    """Open a shard, unpacked if it is .gz.  Raises BadShard for a .gz that is cut or damaged."""
    with open_file(shard.path) as file:
        if not shard.name.endswith(".gz"):
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, unpacked)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadShard(f"gzip data cut off or damaged ({error})") from error
