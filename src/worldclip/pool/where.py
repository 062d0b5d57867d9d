"""Which rows or samples of a shard are pairs: those that fulfil pool.where.

Legend: P pairs as formats/base.py, in order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.arrow import one_array
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats.base import Images, ShardPairs, Values, WrongColumns
from worldclip.pool.texts import find_bad_utf8, large_strings, text_buffers

COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def choose_rows(found: ShardPairs, config: PoolConfig) -> tuple[ShardPairs, int]:
    """Return the pairs that fulfil pool.where, and the number of those that do not; unreadable ones stay bad pairs.

    Unset, of img2dataset's tables, which list failed downloads too, those that succeeded.
    """
    where = _conditions(found, config)
    if not where or not len(found.row):
        return found, 0
    is_chosen = np.ones(len(found.row), bool)
    for condition in where:
        is_chosen &= _fulfils(found.fields[bare(str(condition[0]))], condition)
    is_chosen[list(found.problems)] = True
    if is_chosen.all():
        return found, 0
    return _take_pairs(found, np.flatnonzero(is_chosen)), int((~is_chosen).sum())


def _conditions(found: ShardPairs, config: PoolConfig) -> Sequence[Sequence[Any]]:
    if config.where is None and "status" in found.fields:
        return (("status", "=", "success"),)
    return config.where or ()


def left_out_because(found: ShardPairs, config: PoolConfig, row: int) -> str | None:
    """Return the condition of pool.where by which pair `row` of a shard is none; None if it fulfils all."""
    for condition in _conditions(found, config):
        name = bare(str(condition[0]))
        if not _fulfils(found.fields[name], condition)[row]:
            value = _comparable(found.fields[name])[row].as_py()
            return f"{name} is {value!r}, not {condition[1]} {condition[2]!r}"
    return None


def _fulfils(values: pa.Array | pa.ChunkedArray, condition: Sequence[Any]) -> np.ndarray:
    """Return which values fulfil a condition [name, comparison, value]: (P,) bool; a null fulfils none.

    Raises WrongColumns that names the column for values of another type.
    """
    name, comparison, operand = condition
    if pa.types.is_null(values.type):
        return np.zeros(len(values), bool)
    try:
        values = _comparable(values)
        if comparison in COMPARE:
            is_met = COMPARE[comparison](values, pa.scalar(operand))
        else:
            is_met = pc.and_(_is_in(values, operand, is_inverted=comparison == "not in"), pc.is_valid(values))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise WrongColumns(
            f"pool.where: {bare(str(name))} holds {values.type}, which is not comparable with {operand!r}; compare "
            "numbers with numbers, texts with texts (CSV and TSV hold only texts)"
        ) from error
    return np.asarray(pc.fill_null(is_met, False)).astype(bool)


def _comparable(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return values as Arrow compares them: bytes of CSV as texts, categories as their values."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_large_binary(values.type) or pa.types.is_binary(values.type):
        array = one_array(values.cast(pa.large_binary()))
        content, offsets = text_buffers(array)
        is_null = np.asarray(array.is_null()) | find_bad_utf8(content, offsets)
        return large_strings(content, offsets, is_null)
    return values


def _is_in(values: pa.Array | pa.ChunkedArray, operands: Sequence[Any], *, is_inverted: bool) -> pa.Array:
    """Return which values are among the operands, or are not.  Raises ArrowException for operands of another type."""
    for operand in {type(operand): operand for operand in operands}.values():
        pc.equal(values, pa.scalar(operand))  # a cast to the values' type would take 1 for "1"
    listed = pa.array(operands)
    if pa.types.is_floating(listed.type):
        values = values.cast(pa.float64())
    is_in = pc.is_in(values, value_set=listed.cast(values.type))
    return pc.invert(is_in) if is_inverted else is_in


def _take_pairs(found: ShardPairs, chosen: np.ndarray) -> ShardPairs:
    """Return only these pairs, numbered anew."""
    number = np.full(len(found.row), -1, np.int64)  # new number of each pair, -1 if it is left out
    number[chosen] = np.arange(len(chosen))
    rows = pa.array(chosen)
    is_taken = number[found.images.pair] >= 0
    images = found.images
    return dataclasses.replace(
        found,
        row=found.row[chosen],
        keys=None if found.keys is None else found.keys.take(rows),
        stems=None if found.stems is None else found.stems.take(rows),
        texts=[None if values is None else _take_values(values, number, chosen) for values in found.texts],
        labels=None if found.labels is None else _take_values(found.labels, number, chosen),
        fields={},
        images=Images(
            number[images.pair[is_taken]],
            images.member.filter(pa.array(is_taken)),
            images.offset[is_taken],
            images.size[is_taken],
        ),
        problems=renumber(found.problems, number),
        picture_problems=renumber(found.picture_problems, number),
        key_problems=renumber(found.key_problems, number),
    )


def _take_values(values: Values, number: np.ndarray, chosen: np.ndarray) -> Values:
    """Return the values of pairs that have a new number."""
    is_taken = number[values.pair] >= 0
    position = np.where(is_taken, np.cumsum(is_taken) - 1, -1)
    problems = renumber(values.problems, position)
    taken = values.value.filter(pa.array(is_taken))
    return Values(number[values.pair[is_taken]], taken, values.is_list[chosen], problems)


def renumber(problems: Mapping[int, str], number: np.ndarray) -> dict[int, str]:
    return {int(number[old]): problem for old, problem in problems.items() if number[old] >= 0}
