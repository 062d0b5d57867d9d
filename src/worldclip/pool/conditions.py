"""Ask conditions of the values of columns: those of pool.where, and the filters of a search.

A condition is (column or field, comparison, value); P values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.arrow import one_array
from worldclip.pool.config import bare
from worldclip.pool.formats.base import WrongColumns
from worldclip.pool.texts import decode

COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def fulfils(
    values: pa.Array | pa.ChunkedArray, name: str, comparison: str, operand: Any, setting: str = "pool.where"
) -> np.ndarray:
    """Return which values fulfil a condition: (P,) bool; a null fulfils none.  setting: names it in errors.

    Raises WrongColumns that names the column for values of another type.
    """
    if pa.types.is_null(values.type):
        return np.zeros(len(values), bool)
    try:
        values = comparable(values)
        is_met = _compare(values, comparison, operand)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        held = str(values.type)
        remedy = (
            "compare numbers with numbers, texts with texts, dates with texts like 2026-01-31 (times with a zone: "
            "2026-01-31T12:00:00Z); where only some files differ, rewrite the column there"
        )
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            held = "texts"
            remedy += (
                "; for numbers of CSV and TSV, which hold only texts, write Parquet (docs/pool.md, Numbers in CSV)"
            )
        raise WrongColumns(
            f"{setting}: {bare(name)} holds {held}, not comparable with {operand!r}; {remedy}"
        ) from error
    return np.asarray(pc.fill_null(is_met, False)).astype(bool)


def comparable(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return values as Arrow compares them: bytes of CSV as texts, categories as their values, no half precision."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_large_binary(values.type) or pa.types.is_binary(values.type):
        return decode(one_array(values.cast(pa.large_binary())))
    if pa.types.is_float16(values.type):
        return values.cast(pa.float32())
    return values


def _compare(values: pa.Array | pa.ChunkedArray, comparison: str, operand: Any) -> pa.Array | pa.ChunkedArray:
    """Return which values fulfil a condition, false or null for a null.  Raises ArrowException for another type.

    Dates and times are compared with their text: JSON and TOML on a command line have no others.
    """
    listed = pa.array(operand if isinstance(operand, list | tuple) else [operand])
    if pa.types.is_temporal(values.type) and pa.types.is_string(listed.type):
        listed = listed.cast(values.type)
    if comparison in COMPARE:
        return COMPARE[comparison](values, listed[0])
    for item in listed[:1]:
        pc.equal(values, item)  # a cast to the values' type would take 1 for "1"
    if pa.types.is_floating(listed.type):
        values = values.cast(pa.float64())
    is_met = pc.is_in(values, value_set=listed.cast(values.type))
    if comparison == "not in":
        is_met = pc.invert(is_met)
    return pc.and_(is_met, pc.is_valid(values))
