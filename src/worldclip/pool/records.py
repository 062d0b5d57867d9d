"""Texts and keys in JSON objects: the .json of a sample in a tar, or a line of a JSONL file.

A record is a dict, a str with the reason why it cannot be read, or None if there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.core.local_path import has_surrogate
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.texts import PairKeys, PoolTexts, pool_texts, replace_where

Record = dict[str, Any] | str | None
KeyedRecords = tuple[list[str], Sequence[Record]]  # the key and the record of each pair
Text = tuple[str | None, str | None, int]  # (text or None, why it is bad or None, position of its place)

DEFAULT_FIELDS = ("texts", "text", "caption", "TEXT")  # img2dataset writes `caption`, LAION's tables have `TEXT`
NUM_PROBED = 100  # records at the head of a shard; a field that pool.key or pool.texts names must occur in one of them


def without_texts(record: Record, config: PoolConfig) -> dict[str, Any]:
    """Return a record without the fields that texts come from, where dropped texts would survive.

    Downloaders write a sample's .txt into its .json as well, so a pool of .txt has no field of DEFAULT_FIELDS either.
    """
    fields = {bare(place) for place in config.texts}
    if not fields or "txt" in fields:
        fields |= set(DEFAULT_FIELDS)
    return {name: value for name, value in record.items() if name not in fields} if isinstance(record, dict) else {}


def encode_record(record: dict[str, Any]) -> bytes:
    """Return a record as JSON in UTF-8; with escapes if it holds a lone surrogate, which UTF-8 cannot express."""
    try:
        return json.dumps(record, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return json.dumps(record, default=str).encode()


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


def keys_of_records(records: Sequence[Record], name: str, stand_ins: pa.LargeStringArray) -> PairKeys:
    """Return the key of each pair, from field `name`: a string, or an integer written as one.

    stand_ins: (num_pairs,) what is shown for a pair without a key.
    """
    keys: list[str] = []
    problems: dict[int, str] = {}
    for pair, record in enumerate(records):
        value = record.get(name) if isinstance(record, dict) else None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and value and not has_surrogate(value):
            keys.append(value)
        else:
            problems[pair] = record if isinstance(record, str) else f"no key: {name} is {value!r:.80}"
    has_key = np.ones(len(records), bool)
    has_key[list(problems)] = False
    return PairKeys(replace_where(stand_ins, has_key, keys), has_key, problems)


def texts_of_records(
    records: Sequence[Record],
    keys: PairKeys,
    places: tuple[str | None, ...],
    read_txt: Callable[[int], bytes | None],
    lang_field: str | None = None,
) -> PoolTexts:
    """Return all texts of all records.

    places: fields, or None for `read_txt` of the pair's position; all of them are read, in this order.  Empty: the
    first that a pair has of `read_txt` and DEFAULT_FIELDS.  A place that a pair lacks gives no text, a null in it an
    empty text.
    """
    pair_of_text: list[int] = []
    texts: list[str | None] = []
    langs: list[str | None] = []
    place_of_text: list[int] = []
    details: dict[int, str] = {}
    for pair, record in enumerate(records):
        if keys.has_key[pair]:
            pair_texts = _texts_of(record, places, read_txt, pair) or [(None, None, 0)]
        else:
            pair_texts = [(None, keys.problems[pair], 0)]
        for text, problem, place in pair_texts:
            if problem is not None:
                details[len(texts)] = problem
            pair_of_text.append(pair)
            texts.append(text)
            place_of_text.append(place)
        if lang_field is not None:
            langs += _codes_of(record, lang_field, len(pair_texts))
    stored, surrogate_rows = _large_strings(texts)
    details |= dict.fromkeys(surrogate_rows, "its text has a lone surrogate")
    return pool_texts(
        keys,
        np.array(pair_of_text, np.int64),
        stored,
        details,
        lang=None if lang_field is None else pa.array(langs, pa.string()),
        place=np.array(place_of_text, np.int16),
    )


def _texts_of(
    record: Record, places: tuple[str | None, ...], read_txt: Callable[[int], bytes | None], pair: int
) -> list[Text]:
    if not places:
        if (content := read_txt(pair)) is not None:
            return [(*_decode(content), 0)]
        places = tuple(name for name in DEFAULT_FIELDS if isinstance(record, str) or (record and name in record))[:1]
    texts: list[Text] = []
    for position, place in enumerate(places):
        if place is None:
            if (content := read_txt(pair)) is not None:
                texts.append((*_decode(content), position))
        elif isinstance(record, str):
            # an unreadable record is one bad text, however many fields are read
            if not any(problem == record for _, problem, _ in texts):
                texts.append((None, record, position))
        elif record is not None and place in record:
            value = record[place]
            values = value if isinstance(value, list) else [value]
            texts += [(*_check(text, place), position) for text in values]
    return texts


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
    """Return one language code per text; the field holds one code for all texts of the pair, or a list."""
    value = record.get(name) if isinstance(record, dict) else None
    codes = value[:num_texts] if isinstance(value, list) else [value] * num_texts
    valid = [code if isinstance(code, str) and code.isascii() else None for code in codes]
    return valid + [None] * (num_texts - len(valid))


def _large_strings(texts: list[str | None]) -> tuple[pa.LargeStringArray, list[int]]:
    """Return (the texts as Arrow strings, rows with a lone surrogate); null for None and for these rows."""
    try:
        return pa.array(texts, pa.large_string()), []
    except (UnicodeEncodeError, pa.ArrowInvalid):
        rows = [row for row, text in enumerate(texts) if text is not None and has_surrogate(text)]
        encodable = list(texts)
        for row in rows:
            encodable[row] = None
        return pa.array(encodable, pa.large_string()), rows
