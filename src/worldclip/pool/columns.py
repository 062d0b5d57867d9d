"""Columns and fields that a recipe names, checked against those of a shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.errors import BadShard
from worldclip.core.suggest import nearest
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.records import DEFAULT_FIELDS

ROW = "row"  # pool.key: the shard's name and the number of the row, unless a column has this name
NO_PAIR = "it holds no pair"
COMMON_KEYS = ("key", "uid", "id", "hash", "url", "URL")  # suggested for a table when pool.key is not set


class WrongColumns(BadShard):
    """A shard lacks what pool.key or pool.texts names.  If no shard has it, the recipe is wrong."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))


def choose_columns(names: Sequence[str], config: PoolConfig) -> tuple[str, tuple[str, ...]]:
    """Return (key column, text columns) of a table with the columns `names`.  Raises WrongColumns with suggestions."""
    key = bare(config.key)
    columns = tuple(bare(name) for name in config.texts)
    named = [("pool.texts", name) for name in columns]
    named += [("pool.lang", bare(config.lang))] if config.lang is not None else []
    named += [("pool.where", name) for name, *_ in conditions(names, config)]
    problems = [*key_problems(names, key), *_missing(named, names)]
    if not columns:
        columns = tuple(name for name in DEFAULT_FIELDS if name in names)[:1]
        if not columns:
            problems.append(
                f"pool.texts is not set and there is no column {_join(DEFAULT_FIELDS)}; set it to one or more of:"
                f" {_join(names)}"
            )
    if problems:
        raise WrongColumns(problems)
    return key, columns


def check_key(names: Sequence[str], config: PoolConfig) -> None:
    """Raise WrongColumns if a table with the columns `names` does not have what pool.key names."""
    if problems := key_problems(names, bare(config.key)):
        raise WrongColumns(problems)


def check_fields(names: Sequence[str], config: PoolConfig, *, is_key_only: bool, has_txt: bool = False) -> None:
    """Raise WrongColumns if no record at the head of a shard has the key or the language, or none has any text.

    names: fields of these records.  Records may differ in their fields, so one text field that occurs is enough.
    has_txt: some of them have a .txt, the place `txt`.
    """
    problems = [] if config.key == "member" else key_problems(names, bare(config.key), has_rows=False)
    named: list[tuple[str, str]] = []
    if not is_key_only:
        fields = [bare(name) for name in config.texts if name != "txt"]
        if not any(name in names for name in fields) and not (has_txt and "txt" in config.texts):
            named += [("pool.texts", name) for name in fields]
        named += [("pool.lang", bare(config.lang))] if config.lang is not None else []
    problems += _missing(named, names)
    if problems:
        raise WrongColumns(problems)


def _missing(named: Sequence[tuple[str, str]], names: Sequence[str]) -> list[str]:
    """Return what is wrong with (key of the recipe, column) for a shard with the columns `names`."""
    return [missing_column(setting, name, names) for setting, name in named if name not in names]


def key_problems(names: Sequence[str], key: str, *, has_rows: bool = True) -> list[str]:
    """Return what is wrong with pool.key for a shard with the columns `names`; empty if nothing is.

    has_rows: a table, whose rows have numbers.
    """
    if key == "member":
        common = [name for name in COMMON_KEYS if name in names]
        return [f'pool.key = "member" is for tars only; set it to the column of the key: {_join(common or names)}']
    return [] if key in names or (key == ROW and has_rows) else [missing_column("pool.key", key, names)]


def conditions(names: Sequence[str], config: PoolConfig) -> Sequence[Any]:
    """Return pool.where; unset: for img2dataset's tables, which list failed downloads too, that it succeeded."""
    if config.where is None and {"status", "error_message"} <= set(names):
        return [("status", "=", "success")]
    return config.where or ()


def rows_where(table: pa.Table, where: Sequence[Any]) -> np.ndarray:
    """Return the numbers of the rows that fulfil all conditions, (n,) int64.  Raises WrongColumns for another type."""
    try:
        wanted = pq.filters_to_expression(list(where))
        numbered = table.append_column("", pa.array(np.arange(table.num_rows)))
        return np.asarray(numbered.filter(wanted)[""])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise WrongColumns(
            f"pool.where: {error}; compare numbers with numbers, texts with texts (CSV and TSV hold only texts)"
        ) from error


def missing_column(setting: str, name: str, names: Sequence[str]) -> str:
    """Say that a table lacks the column that a key of the recipe names, and which name is near."""
    near = nearest(name, names)
    remedy = f"did you mean {near[0]!r}?" if near else f"there is: {_join(names)}"
    return f"{setting}: no column or field {name!r}; {remedy}"


def _join(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
