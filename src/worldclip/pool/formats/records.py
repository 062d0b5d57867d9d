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
from worldclip.pool.formats.base import DEFAULT_PLACES, ROW, ShardPairs, Values, WrongColumns

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
    if not isinstance(record, dict):
        return f"its JSON is {type(record).__name__}, not an object"
    return record


def field_names(records: Sequence[Record]) -> list[str]:
    """Return the fields of all records, in the order in which they first occur."""
    names: dict[str, None] = {}
    for record in records:
        if isinstance(record, dict):
            names |= dict.fromkeys(record)
    return list(names)


def pairs_of_records(records: Sequence[Record], config: PoolConfig, has_txt: np.ndarray | None = None) -> ShardPairs:
    """Return the pairs of a shard that consists of JSON objects.

    has_txt: (P,) bool, of a tar: the samples with a .txt.  It has the texts of the place `txt`, or of the pair if
    pool.texts is not set.  None: a record is the whole pair, so that one which cannot be read is a bad pair.
    """
    names = field_names(records)
    unreadable = {pair: record for pair, record in enumerate(records) if isinstance(record, str)}
    keys, problems = _keys(records, bare(config.key))
    if config.key == "member" or (config.key == ROW and ROW not in names):
        problems = {}
    texts = []
    if not config.texts:
        of_json = list(records)
        if has_txt is not None:
            for pair in np.flatnonzero(has_txt).tolist():
                of_json[pair] = None
        texts.append(_values(of_json, DEFAULT_PLACES, reports_unreadable=True))
    for place, name in enumerate(config.texts):
        if name == "txt" and has_txt is not None:
            continue
        is_first = not texts
        if bare(name) in names or (is_first and unreadable):
            texts.append(_values(records, [bare(name)], reports_unreadable=is_first)._replace(place=place))
    lang = bare(config.lang or "")
    labels = _values(records, [lang]) if lang in names else None
    return ShardPairs(
        names=names,
        num_pairs=len(records),
        keys=keys if bare(config.key) in names else None,
        texts=texts,
        labels=labels,
        fields={name: _column(records, name) for name in config.compared if name in names},
        unreadable=unreadable if has_txt is None else {},
        problems=problems,
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


def _values(records: Sequence[Record], fields: Sequence[str], *, reports_unreadable: bool = False) -> Values:
    """Return the texts, or the labels, in the first of some fields that each record has.

    reports_unreadable: a record that cannot be read is one bad text.
    """
    pairs: list[int] = []
    texts: list[bytes | None] = []
    problems: list[str | None] = []
    is_list = np.zeros(len(records), bool)
    for pair, record in enumerate(records):
        if isinstance(record, str) and reports_unreadable:
            pairs.append(pair)
            texts.append(None)
            problems.append(record)
        if not isinstance(record, dict):
            continue
        name = next((name for name in fields if name in record), None)
        if name is None:
            continue
        is_list[pair] = isinstance(record[name], list)
        for value in record[name] if is_list[pair] else [record[name]]:
            problem = None
            if value is not None and not isinstance(value, str):
                problem = f"{name} holds {type(value).__name__}, not a text or a list of texts"
            elif value is not None and has_surrogate(value):
                problem = "its text has a lone surrogate"
            pairs.append(pair)
            texts.append(value.encode() if value is not None and problem is None else None)
            problems.append(problem)
    problem_array = pa.array(problems, pa.string())
    return Values(np.array(pairs, np.int64), pa.array(texts, pa.large_binary()), is_list, problem=problem_array)


def _column(records: Sequence[Record], name: str) -> pa.Array:
    """Return the values of a field, null where a record lacks it or it is a text that is not UTF-8.

    Raises WrongColumns for values of several types.
    """
    values = []
    for record in records:
        value = record.get(name) if isinstance(record, dict) else None
        is_bad = isinstance(value, str) and has_surrogate(value)
        values.append(None if is_bad else value)
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise WrongColumns(
            f"pool.where: field {name!r} holds values of several types ({error}); write all as one type"
        ) from error
