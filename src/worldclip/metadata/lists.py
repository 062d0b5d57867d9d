"""Whole lists of languages (metadata.lists): of a run (.parquet), a JSON array of strings (.json), or plain lines.

A line is an entry, optionally with a score after a tab.  A list of a run is taken as it is; of the others the rules of
all lists drop what is no entry.  Files are local, or at any address that fsspec knows (hf://, s3://).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts.schemas import METADATA
from worldclip.core import unpack
from worldclip.core.artifacts import MANIFEST, read_table, whole_file, write_table
from worldclip.core.errors import BadShard, UserError, is_no_memory
from worldclip.core.hub_errors import explain, explain_answer
from worldclip.core.inputs import is_remote
from worldclip.core.job_files import DONE
from worldclip.core.parquet_size import check_parquet
from worldclip.core.regular_file import read_regular
from worldclip.core.remote import patiently, read_whole
from worldclip.match.config import MERGED
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import Candidates
from worldclip.metadata.entry_list import EntryList

OF_A_RUN = ".parquet"
Rules = dict[str, dict[str, int]]


def find_lists(config: MetadataConfig) -> Mapping[str, str]:
    """Return the file of each language's whole list: those that the recipe names, or all of a folder RUN/metadata.

    Raises UserError for a folder that cannot be listed, or holds no list.
    """
    if not isinstance(config.lists, str):
        return config.lists
    folder = config.lists.rstrip("/")
    setting = f"metadata.lists = {folder!r}"
    try:
        files, place = fsspec.url_to_fs(folder)
        paths = patiently(lambda: files.ls(place, detail=False))
    except Exception as error:  # those of a store's library, without a network for example, have no common class
        raise UserError(f"{setting}: cannot be listed ({explain(error)}); check the address and your access") from error
    names = sorted(path.rstrip("/").rpartition("/")[2] for path in paths)
    if DONE in names and MANIFEST not in names:
        raise UserError(f"{setting}: its run has not finished the stage metadata, so lists may be missing; finish it")
    lists = {}
    for name in names:
        code = name.removesuffix(OF_A_RUN)
        if name.endswith(OF_A_RUN) and code != MERGED:
            lists[code] = f"{folder}/{name}"
    if not lists:
        raise UserError(f"{setting}: holds no list <language>.parquet; set it to the folder metadata of a run")
    return lists


def write_whole_list(file: str, path: Path) -> tuple[pa.Table, Rules]:
    """Write a whole list as the table `path` (METADATA); return it, and what became of its entries by source.

    Raises BadShard if the file cannot be read or is not a list.
    """
    if file.endswith(OF_A_RUN):
        with whole_file(path) as aside:
            aside.write_bytes(_read(file))
            table = _read_list_of_a_run(file, aside)
        return table, {source: {"in": number, "kept": number} for source, number in count_sources(table).items()}
    entries = EntryList()
    entries.add("list", read_list(file))
    table = entries.table()
    write_table(path, table, METADATA)
    return table, entries.rules


def count_sources(table: pa.Table) -> dict[str, int]:
    """Return the number of entries (METADATA) of each source."""
    counts = table["source"].cast(pa.string()).combine_chunks().value_counts()
    return {row["values"]: row["counts"] for row in counts.to_pylist()}


def _read_list_of_a_run(file: str, copy: Path) -> pa.Table:
    """Return a list that others may have written: its entries are numbered in order, and each occurs once."""
    try:
        check_parquet(copy, copy.stat().st_size)
        table = read_table(copy, METADATA)
        table.validate(full=True)
        entries = table["entry"]
        is_list = (
            table.schema.equals(METADATA)
            and table["source"].null_count == entries.null_count == 0
            and np.array_equal(table["entry_id"].to_numpy(), np.arange(len(entries)))
            and pc.count_distinct(entries).as_py() == len(entries)
        )
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        if is_no_memory(error):
            raise
        raise BadShard(f"{file}: not a readable list of a run ({error})") from error
    except BadShard as error:
        raise BadShard(f"{file}: {str(error).removeprefix(f'{copy}: ')}") from error
    if not is_list:
        raise BadShard(f"{file}: not a list of a run, whose entries are numbered in order and occur once")
    return table


def read_list(file: str) -> Candidates:
    """Yield (entry, score or None) of a plain list, or of a JSON array (.json); either may be gzipped (.gz).

    Raises BadShard with the line for invalid UTF-8 and invalid scores, and for JSON that is not an array of strings.
    """
    if file.removesuffix(".gz").endswith(".json"):
        try:
            entries = json.loads("\n".join(iter_lines(file)))
        except (ValueError, RecursionError) as error:
            raise BadShard(f"{file}: invalid JSON ({error})") from error
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise BadShard(f"{file}: not a JSON array of strings")
        for entry in entries:
            yield entry, None
        return
    for number, line in enumerate(iter_lines(file), 1):
        entry, separator, text = line.partition("\t")
        if not entry.strip():
            continue
        try:
            score = float(text) if separator else None
        except ValueError:
            score = math.nan
        if score is not None and math.isnan(score):
            raise BadShard(f"{file}, line {number}: score {text!r} after the tab is not a number")
        yield entry, score


def iter_lines(file: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, plain or .gz, without line ends and without a byte order mark."""
    data = _read(file)
    number = 0
    try:
        lines = unpack.as_file(unpack.unpack(io.BytesIO(data), file, len(data)))
        for number, line in enumerate(lines, 1):
            text = line.decode("utf-8").rstrip("\r\n")
            if number == 1:
                text = text.removeprefix("\ufeff")
            yield text
    except UnicodeDecodeError as error:
        raise BadShard(f"{file}, line {number}: not UTF-8 ({error.reason})") from error
    except BadShard as error:
        raise BadShard(f"{file}: cannot be read after line {number} ({error})") from error


def _read(file: str) -> bytes:
    try:
        if not is_remote(file):
            return read_regular(file)
        return read_whole(file)
    except Exception as error:  # as in find_lists
        if not isinstance(error, OSError) and explain_answer(error) is None:
            raise
        raise BadShard(f"{file}: cannot be read ({explain(error)})") from error
