"""Texts and identities that stand in JSON objects: a sample's .json in a tar, a line of a JSONL file.

A record here is a dict, a str that says why it cannot be read, or None where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.pool.texts import PoolTexts, pool_texts, replace_where

Record = dict[str, Any] | str | None
DEFAULT_FIELDS = ("texts", "text", "caption", "TEXT")  # the last is LAION's
TRUTH_FIELD = "lang_truth"


def parse_record(content: bytes) -> Record:
    """A JSON object, or in words why `content` is none."""
    try:
        record = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "its JSON is not UTF-8"
    except ValueError as error:
        return f"its JSON cannot be read: {error}"
    except RecursionError:
        return "its JSON is nested too deeply"
    return record if isinstance(record, dict) else f"its JSON is {type(record).__name__}, not an object"


def keys_of_records(
    records: Sequence[Record], name: str, stand_ins: pa.StringArray
) -> tuple[pa.StringArray, np.ndarray, dict[int, str]]:
    """(identity of each pair from field `name`, bool where it has one, why not by pair).

    stand_ins: what is shown for a pair without an identity.
    """
    found: list[str] = []
    problems = {}
    for pair, record in enumerate(records):
        value = record.get(name) if isinstance(record, dict) else None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value or has_surrogate(value):
            problems[pair] = record if isinstance(record, str) else f"it has no identity: {name} is {value!r:.80}"
        else:
            found.append(value)
    has_key = np.ones(len(records), bool)
    has_key[list(problems)] = False
    return replace_where(stand_ins, has_key, found), has_key, problems


def texts_of_records(
    records: Sequence[Record],
    keys: pa.StringArray,
    has_key: np.ndarray,
    problems: dict[int, str],
    places: tuple[str | None, ...],
    read_txt: Callable[[int], bytes | None],
    lang_field: str | None = None,
) -> PoolTexts:
    """All texts of all records.

    places: fields, or None for read_txt of the pair's position, all of them in this order; empty: the first that a
    pair has of read_txt and DEFAULT_FIELDS.  A place that a pair lacks holds no text, a null in it is an empty one.
    """
    pair_of_text: list[int] = []
    texts: list[str | None] = []
    truth: list[str | None] = []
    langs: list[str | None] = []
    details: dict[int, str] = {}
    for pair, record in enumerate(records):
        start = len(texts)
        found = _texts_of(record, places, read_txt, pair) if has_key[pair] else [(None, problems[pair])]
        for text, problem in found or [(None, None)]:
            if problem is not None:
                details[len(texts)] = problem
            pair_of_text.append(pair)
            texts.append(text)
        truth += _codes_of(record, TRUTH_FIELD, len(texts) - start)
        if lang_field is not None:
            langs += _codes_of(record, lang_field, len(texts) - start)
    stored, is_surrogate = _large_strings(texts)
    details |= dict.fromkeys(is_surrogate, "its text has a lone surrogate")
    known = pa.array(truth, pa.string()) if any(code is not None for code in truth) else None
    lang = None if lang_field is None else pa.array(langs, pa.string())
    return pool_texts(keys, has_key, np.array(pair_of_text, np.int64), stored, details, known, lang)


def _texts_of(
    record: Record, places: tuple[str | None, ...], read_txt: Callable[[int], bytes | None], pair: int
) -> list[tuple[str | None, str | None]]:
    """(text or None, why it is bad or None) of each text of one pair."""
    if not places:
        if (content := read_txt(pair)) is not None:
            return [_decode(content)]
        places = tuple(name for name in DEFAULT_FIELDS if isinstance(record, str) or (record and name in record))[:1]
    found: list[tuple[str | None, str | None]] = []
    for place in places:
        if place is None:
            if (content := read_txt(pair)) is not None:
                found.append(_decode(content))
        elif isinstance(record, str):
            if (None, record) not in found:
                found.append((None, record))
        elif record is not None and place in record:
            value = record[place]
            found += [_check(text, place) for text in (value if isinstance(value, list) else [value])]
    return found


def _decode(content: bytes) -> tuple[str | None, str | None]:
    try:
        return content.decode("utf-8"), None
    except UnicodeDecodeError:
        return None, "its .txt is not UTF-8"


def _check(text: Any, place: str) -> tuple[str | None, str | None]:
    if text is None or isinstance(text, str):
        return text, None
    return None, f"{place} holds {type(text).__name__}, not a text or a list of texts"


def _codes_of(record: Record, name: str, num_texts: int) -> list[str | None]:
    """Languages in a field: one code for all texts of the pair, or a list with one for each."""
    given = record.get(name) if isinstance(record, dict) else None
    codes = given[:num_texts] if isinstance(given, list) else [given] * num_texts
    known = [code if isinstance(code, str) and code.isascii() else None for code in codes]
    return known + [None] * (num_texts - len(known))


def _large_strings(texts: list[str | None]) -> tuple[pa.LargeStringArray, list[int]]:
    """Arrow texts, null for None and for a text with a lone surrogate; and the rows of the latter."""
    try:
        return pa.array(texts, pa.large_string()), []
    except (UnicodeEncodeError, pa.ArrowInvalid):
        rows = [row for row, text in enumerate(texts) if text is not None and has_surrogate(text)]
        without = list(texts)
        for row in rows:
            without[row] = None
        return pa.array(without, pa.large_string()), rows


def has_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # surrogates are all that UTF-8 cannot hold
        return True
    return False
