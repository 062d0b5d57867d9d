"""Pairs that are JSON objects: the .json of a sample in a tar, a line of a JSONL file.

A record is a dict, a str with the reason why it cannot be read, or None if there is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.core.local_path import has_surrogate
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats.base import DEFAULT_PLACES, ShardPairs, Values, WrongColumns

Record = dict[str, Any] | str | None


def parse_record(content: bytes) -> Record:
    """Return a JSON object, or the reason why `content` is not one."""
    try:
        record = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "its JSON is not UTF-8"
    except ValueError as error:
        return f"its JSON cannot be read: {error}"
    except RecursionError:
        return "its JSON is nested too deeply"
    return record if isinstance(record, dict) else f"its JSON is {type(record).__name__}, not an object"


def field_names(records: Sequence[Record]) -> list[str]:
    """Return the fields of all records, in the order in which they first occur."""
    return list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))


def pairs_of_records(records: Sequence[Record], config: PoolConfig, *, is_line: bool = True) -> ShardPairs:
    """Return the pairs of a shard that consists of JSON objects.

    is_line: the record is the whole pair, so that one which cannot be read is a bad pair; False: it lies next to a .txt
    and an image.
    """
    key = bare(config.key)
    keys, key_problems = _keys(records, key)
    names = field_names(records)
    problems = {pair: record for pair, record in enumerate(records) if isinstance(record, str)} if is_line else {}
    return ShardPairs(
        names=names,
        row=np.arange(len(records)),
        keys=keys if key in names else None,
        texts=texts_of_records(records, config.texts, names),
        labels=None if config.lang is None else _labels(records, bare(config.lang), names),
        fields={name: _column(records, name) for name in config.compared if name in names},
        problems=problems,
        key_problems=key_problems,
    )


def _keys(records: Sequence[Record], name: str) -> tuple[pa.LargeBinaryArray, dict[int, str]]:
    """Return the value of a field, a string or an integer, and why other values are no keys."""
    keys: list[bytes | None] = []
    problems: dict[int, str] = {}
    for pair, record in enumerate(records):
        value: Any = record.get(name) if isinstance(record, dict) else None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        is_key = isinstance(value, str) and not has_surrogate(value)
        keys.append(value.encode() if is_key else None)
        if isinstance(record, str):
            problems[pair] = record
        elif value is not None and not is_key:
            problems[pair] = f"no key: {name} is {value!r:.80}"
    return pa.array(keys, pa.large_binary()), problems


def texts_of_records(records: Sequence[Record], places: Sequence[str], names: Sequence[str]) -> list[Values | None]:
    """Return the texts of each field; without places those of the first default field that each record has.

    An unreadable record is one bad text, of the first field.  A place `txt` without a field of that name is left to the
    caller.
    """
    if not places:
        return [_texts(records, DEFAULT_PLACES)]
    texts: list[Values | None] = []
    is_first = True
    for place in map(bare, places):
        has_field = place in names or (is_first and any(isinstance(record, str) for record in records))
        texts.append(_texts(records, (place,), reports_unreadable=is_first) if has_field else None)
        is_first = is_first and (place == "txt" and place not in names)
    return texts


def _texts(records: Sequence[Record], fields: Sequence[str], *, reports_unreadable: bool = True) -> Values:
    pairs: list[int] = []
    texts: list[bytes | None] = []
    problems: dict[int, str] = {}
    is_list = np.zeros(len(records), bool)
    for pair, record in enumerate(records):
        if isinstance(record, str) and reports_unreadable:
            problems[len(texts)] = record
            pairs.append(pair)
            texts.append(None)
        name = next((name for name in fields if isinstance(record, dict) and name in record), None)
        if name is None:
            continue
        assert isinstance(record, dict)
        is_list[pair] = isinstance(record[name], list)
        for value in record[name] if is_list[pair] else [record[name]]:
            text, problem = _encode(value, name)
            if problem is not None:
                problems[len(texts)] = problem
            pairs.append(pair)
            texts.append(text)
    return Values(np.array(pairs, np.int64), pa.array(texts, pa.large_binary()), is_list, problems)


def _encode(value: Any, name: str) -> tuple[bytes | None, str | None]:
    """Return the UTF-8 of a text, None for a null; or why it is no text."""
    if value is None:
        return None, None
    if not isinstance(value, str):
        return None, f"{name} holds {type(value).__name__}, not a text or a list of texts"
    if has_surrogate(value):
        return None, "its text has a lone surrogate"
    return value.encode(), None


def _labels(records: Sequence[Record], name: str, names: Sequence[str]) -> Values | None:
    """Return the labels of language; a value that is no text is none."""
    if name not in names:
        return None
    pairs: list[int] = []
    labels: list[bytes | None] = []
    is_list = np.zeros(len(records), bool)
    for pair, record in enumerate(records):
        value: Any = record.get(name) if isinstance(record, dict) else None
        is_list[pair] = isinstance(value, list)
        for label in value if isinstance(value, list) else [value]:
            is_text = isinstance(label, str) and not has_surrogate(label)
            pairs.append(pair)
            labels.append(label.encode() if is_text else None)
    return Values(np.array(pairs, np.int64), pa.array(labels, pa.large_binary()), is_list)


def _column(records: Sequence[Record], name: str) -> pa.Array:
    """Return the values of a field, null where a record lacks it.  Raises WrongColumns for values of several types."""
    values = [record.get(name) if isinstance(record, dict) else None for record in records]
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise WrongColumns(f"pool.where: field {name!r} holds values of several types ({error})") from error
