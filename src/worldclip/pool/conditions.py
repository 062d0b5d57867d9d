"""`pool.where`: which rows, lines or samples are pairs, by conditions on their columns or fields.

A value that is missing, or of another kind than the condition's, fulfils no condition.  A text that is a number
compares as one, since CSV and TSV hold only texts.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.arrow import one_array
from worldclip.pool.columns import WrongColumns
from worldclip.pool.config import PoolConfig, bare

_NUMBER = r"^-?\d+(\.\d+)?([eE][-+]?\d+)?$"
_IS_NUMBER = re.compile(_NUMBER, re.ASCII)  # Arrow's rule in `_numbers`: tars and tables must agree
_COMPARE: dict[str, tuple[Callable[[Any, Any], bool], Callable[[Any, Any], pa.Array]]] = {
    "=": (operator.eq, pc.equal),
    "!=": (operator.ne, pc.not_equal),
    "<": (operator.lt, pc.less),
    "<=": (operator.le, pc.less_equal),
    ">": (operator.gt, pc.greater),
    ">=": (operator.ge, pc.greater_equal),
}
# img2dataset's tables list downloads that failed, too; these two columns tell its tables from others.
IMG2DATASET_COLUMNS = ("status", "error_message")


class Condition(NamedTuple):
    """One comparison of a field: it is fulfilled if it holds for any of `values`."""

    field: str
    compare: str
    values: tuple[Any, ...]


def conditions(config: PoolConfig, columns: Sequence[str] = ()) -> list[Condition]:
    """Return the conditions of `pool.where`; unset: for img2dataset's tables, that the download succeeded."""
    where: Mapping[str, Any] | None = config.where
    if where is None:
        where = {"status": "success"} if set(IMG2DATASET_COLUMNS) <= set(columns) else {}
    found = []
    for name, value in where.items():
        comparisons = value if isinstance(value, Mapping) else {"=": value}
        for compare, operand in comparisons.items():
            found.append(Condition(bare(name), compare, operand if isinstance(operand, tuple) else (operand,)))
    return found


def fulfils(record: Mapping[str, Any] | None, wanted: Sequence[Condition]) -> bool:
    """Return whether a JSON object fulfils all conditions."""
    return all(_is_fulfilled(None if record is None else record.get(one.field), one) for one in wanted)


def unfulfilled(record: Mapping[str, Any] | str | None, config: PoolConfig) -> list[str]:
    """Return the conditions that a record does not fulfil, each with its value: `width is 150, must be >= 200`."""
    fields = record if isinstance(record, dict) else {}
    texts = []
    for one in conditions(config, list(fields)):
        value = fields.get(one.field)
        if not _is_fulfilled(value, one):
            wanted = " or ".join(repr(operand) for operand in one.values)
            texts.append(f"{one.field} is {value!r:.80}, must be {one.compare} {wanted}")
    return texts


def _is_fulfilled(value: Any, condition: Condition) -> bool:
    compare = _COMPARE[condition.compare][0]
    return any(_same_kind(value, operand) and compare(_as(value, operand), operand) for operand in condition.values)


def _same_kind(value: Any, operand: Any) -> bool:
    if isinstance(operand, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(operand, bool)
    if isinstance(operand, str):
        return isinstance(value, str)
    return isinstance(value, int | float) or (isinstance(value, str) and bool(_IS_NUMBER.fullmatch(value)))


def _as(value: Any, operand: Any) -> Any:
    return float(value) if isinstance(value, str) and not isinstance(operand, str) else value


def rows_of(table: pa.Table, wanted: Sequence[Condition]) -> np.ndarray:
    """Return the rows of a table that fulfil all conditions, (n,) int64.  Raises WrongColumns for another kind."""
    is_pair = np.ones(table.num_rows, bool)
    for condition in wanted:
        column = one_array(table.column(condition.field))
        masks = [_mask(column, condition, operand) for operand in condition.values]
        is_pair &= np.any(masks, axis=0) if masks else False
    return np.flatnonzero(is_pair)


def _mask(column: pa.Array, condition: Condition, operand: Any) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_text |= pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if pa.types.is_null(kind):
        return np.zeros(len(column), bool)
    if isinstance(operand, bool):
        fits = pa.types.is_boolean(kind)
    elif isinstance(operand, str):
        fits = is_text
        column, operand = (column.cast(pa.large_binary()), operand.encode()) if is_text else (column, operand)
    else:
        fits = is_text or is_number
        column = _numbers(column.cast(pa.large_binary())) if is_text else column
    if not fits:
        raise WrongColumns(f"pool.where.{condition.field}: the column is {kind}, compared with {operand!r}")
    mask = _COMPARE[condition.compare][1](column, pa.scalar(operand))
    return np.asarray(pc.fill_null(mask, False).to_numpy(zero_copy_only=False), bool)


def _numbers(texts: pa.Array) -> pa.Array:
    """Return the texts that are numbers as float64, null for the others."""
    is_number = pc.match_substring_regex(texts, _NUMBER)
    return pc.if_else(is_number, texts, None).cast(pa.large_string()).cast(pa.float64())
