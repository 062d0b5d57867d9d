"""One shard of a pool: its texts, each with the reason why it is bad, and the places of its images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.errors import BadShard
from worldclip.execute import Report, Shard
from worldclip.formats import POOL_INDEX, read_table, write_table
from worldclip.pool import tar
from worldclip.pool.config import PoolConfig
from worldclip.pool.webdataset import (
    NO_MEMBER,
    Samples,
    find_bad_utf8,
    gather,
    large_strings,
    map_file,
    read_samples,
    replace_where,
)

REASONS = ("ok", "bad_pair", "duplicate", "no_text")  # in the order in which they apply
GOOD, BAD_PAIR, DUPLICATE, NO_TEXT = range(4)
NUM_BAD_SAMPLES = 20
TRUTH_FIELD = "lang_truth"
# What a text may consist of and still be empty: what str.strip() removes, and NUL.
BLANKS = "".join(chr(code) for code in range(0x3001) if chr(code).isspace()) + "\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolTexts:
    """The texts of one shard, one row a text; a sample without any text is one row, `no_text`."""

    key: pa.StringArray
    """Identity of the text's pair."""
    text_idx: pa.Int32Array
    """Position in the sample's stored list of texts, empty texts included."""
    text: pa.LargeStringArray
    """As stored; null where the reason is not ok."""
    reason: np.ndarray
    """(num_rows,) int8, position in REASONS."""
    truth: pa.StringArray | None
    """What the pool's field `lang_truth` says of a text's language, for reports alone; None where no sample has it."""
    bad: list[dict[str, Any]]
    """At most 20 bad pairs, chosen by hash: key, text_idx, reason."""


@dataclass(slots=True)
class _Rows:
    """Rows gathered sample by sample, for samples whose texts or identity stand in .json."""

    sample: list[int] = field(default_factory=list)
    text: list[str | None] = field(default_factory=list)
    is_bad: list[bool] = field(default_factory=list)
    truth: list[str | None] = field(default_factory=list)
    details: dict[int, str] = field(default_factory=dict)

    def add(self, sample: int, text: str | None, problem: str | None = None) -> None:
        if problem is not None:
            self.details[len(self.sample)] = problem
        self.sample.append(sample)
        self.text.append(text)
        self.is_bad.append(problem is not None)
        self.truth.append(None)


def read_texts(shard: Shard, config: PoolConfig) -> PoolTexts:
    """All texts of one tar.  Raises BadShard where it is cut, damaged or unreadable."""
    samples = read_samples(shard, map_file(shard.path))
    if config.key == "member" and _needs_no_json(samples, config.texts):
        return _texts_of_txt(samples)
    return _texts_of_json(samples, config)


def write_index(shard: Shard, config: PoolConfig, path: Path) -> Report:
    """Write where each pair's image is in the tar.  Report: pairs (samples), images, ignored_members."""
    samples = read_samples(shard, map_file(shard.path))
    keys, has_key, _ = _keys(samples, config, list(samples.iter_records()) if config.key != "member" else [])
    chosen = np.flatnonzero(has_key & ~_find_duplicates(keys, has_key) & (samples.image != NO_MEMBER))
    members = samples.image[chosen]
    index = {
        "key": keys.take(pa.array(chosen)),
        "member": pa.array([samples.member_name(member) for member in members], pa.string()),
        "offset": samples.members[members, tar.AT],
        "size": samples.members[members, tar.SIZE],
    }
    write_table(path, pa.table(index), POOL_INDEX)
    return {"pairs": len(samples), "images": len(chosen), "ignored_members": samples.num_ignored}


def index_path(run_dir: Path, shard: Shard) -> Path:
    return run_dir / "pool" / "index" / f"{shard.name}.parquet"


def read_index(run_dir: Path, shard: Shard) -> pa.Table:
    """Rows of key, member, offset, size (bytes in the tar at `shard.path`): the first image of each sample."""
    return read_table(index_path(run_dir, shard), POOL_INDEX)


def read_member(path: str | Path, offset: int, size: int) -> bytes:
    """`size` bytes of a tar from `offset` on.  Raises BadShard where the file has become shorter."""
    with open(path, "rb") as file:
        content = os.pread(file.fileno(), size, offset)
    if len(content) != size:
        raise BadShard(f"{path}: member at byte {offset:,} is cut off; the tar changed since it was indexed")
    return content


def _needs_no_json(samples: Samples, places: tuple[str, ...]) -> bool:
    if places:
        return set(places) == {"txt"}
    return bool(((samples.txt != NO_MEMBER) | (samples.json == NO_MEMBER)).all())


def _texts_of_txt(samples: Samples) -> PoolTexts:
    """One row a sample: its .txt, without a Python object per text."""
    has_txt = samples.txt != NO_MEMBER
    starts = samples.members[samples.txt, tar.AT]  # NO_MEMBER takes the last row: nothing of it
    ends = starts + np.where(has_txt, samples.members[samples.txt, tar.SIZE], 0)
    values, offsets = gather(samples.data, starts, ends)
    is_bad = find_bad_utf8(values, offsets)
    text = large_strings(values, offsets, is_bad | ~has_txt)
    details = {int(row): "its .txt is not UTF-8" for row in np.flatnonzero(is_bad)}
    keys, has_key, _ = _keys(samples, PoolConfig(), [])
    details |= {int(row): "its name in the tar is not UTF-8" for row in np.flatnonzero(~has_key)}
    is_duplicate = _find_duplicates(keys, has_key)
    return _finish(keys, np.zeros(len(samples), np.int32), text, is_bad | ~has_key, is_duplicate, None, details)


def _texts_of_json(samples: Samples, config: PoolConfig) -> PoolTexts:
    records = list(samples.iter_records())
    keys, has_key, problems = _keys(samples, config, records)
    rows = _Rows()
    for sample, record in enumerate(records):
        if not has_key[sample]:
            rows.add(sample, None, problems[sample])
            continue
        start = len(rows.sample)
        for place in config.texts or _first_place(samples, sample, record):
            _add_place(rows, samples, sample, record, place)
        if len(rows.sample) == start:
            rows.add(sample, None)
        if isinstance(record, dict) and TRUTH_FIELD in record:
            _add_truth(rows, start, record[TRUTH_FIELD])
    text, is_surrogate = _large_strings(rows.text)
    details = rows.details | dict.fromkeys(is_surrogate, "its text has a lone surrogate")
    is_bad = np.array(rows.is_bad, bool)
    is_bad[is_surrogate] = True
    of_sample = np.array(rows.sample, np.int64)
    is_duplicate = _find_duplicates(keys, has_key)[of_sample]
    text_idx = (np.arange(len(of_sample)) - np.searchsorted(of_sample, of_sample)).astype(np.int32)
    truth = pa.array(rows.truth, pa.string()) if any(name is not None for name in rows.truth) else None
    return _finish(keys.take(pa.array(of_sample)), text_idx, text, is_bad, is_duplicate, truth, details)


def _first_place(samples: Samples, sample: int, record: dict[str, Any] | str | None) -> tuple[str, ...]:
    """Where a sample's texts are when the recipe does not say: the first of .txt, texts, text, caption that it has."""
    if samples.txt[sample] != NO_MEMBER:
        return ("txt",)
    if isinstance(record, dict):
        return tuple(f"json:{name}" for name in ("texts", "text", "caption") if name in record)[:1]
    return () if record is None else ("json:texts",)


def _add_place(rows: _Rows, samples: Samples, sample: int, record: dict[str, Any] | str | None, place: str) -> None:
    """Rows of one place of texts; a place that the sample lacks adds none, a null in it is an empty text."""
    if place == "txt":
        if samples.txt[sample] != NO_MEMBER:
            try:
                rows.add(sample, samples.content(samples.txt[sample]).decode("utf-8"))
            except UnicodeDecodeError:
                rows.add(sample, None, "its .txt is not UTF-8")
        return
    name = place.removeprefix("json:")
    if isinstance(record, str):
        rows.add(sample, None, record)
    elif record is not None and name in record:
        value = record[name]
        for text in value if isinstance(value, list) else [value]:
            if text is None or isinstance(text, str):
                rows.add(sample, text)
            else:
                rows.add(sample, None, f"{name} holds {type(text).__name__}, not a text or a list of texts")


def _add_truth(rows: _Rows, start: int, truth: Any) -> None:
    """lang_truth: one code for all texts of the sample, or a list with one for each."""
    num_texts = len(rows.sample) - start
    codes = truth if isinstance(truth, list) else [truth] * num_texts
    for row, code in zip(range(start, start + num_texts), codes, strict=False):
        rows.truth[row] = code if isinstance(code, str) and code.isascii() else None


def _large_strings(texts: list[str | None]) -> tuple[pa.Array, list[int]]:
    """Arrow texts, null for None and for a text with a lone surrogate; and the rows of the latter."""
    try:
        return pa.array(texts, pa.large_string()), []
    except (UnicodeEncodeError, pa.ArrowInvalid):
        rows = [row for row, text in enumerate(texts) if text is not None and _has_surrogate(text)]
        without = list(texts)
        for row in rows:
            without[row] = None
        return pa.array(without, pa.large_string()), rows


def _has_surrogate(text: str) -> bool:
    return any(0xD800 <= ord(char) <= 0xDFFF for char in text)


def _keys(
    samples: Samples, config: PoolConfig, records: Iterable[dict[str, Any] | str | None]
) -> tuple[pa.StringArray, np.ndarray, dict[int, str]]:
    """(identity of each sample, bool where it has one, why not by sample); without one, the member's name stands in."""
    problems = {int(row): "its name in the tar is not UTF-8" for row in np.flatnonzero(samples.has_bad_name)}
    if config.key == "member":
        return samples.stem_keys, ~samples.has_bad_name, problems
    name = config.key.removeprefix("json:")
    found: list[str] = []
    problems = {}
    for sample, record in enumerate(records):
        value = record.get(name) if isinstance(record, dict) else None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value or _has_surrogate(value):
            problems[sample] = record if isinstance(record, str) else f"it has no identity: {name} is {value!r}"
        else:
            found.append(value)
    has_key = np.ones(len(samples), bool)
    has_key[list(problems)] = False
    return replace_where(samples.stem_keys, has_key, found), has_key, problems


def _find_duplicates(keys: pa.StringArray, has_key: np.ndarray) -> np.ndarray:
    """bool: samples whose key an earlier sample has; a sample without an identity is nobody's duplicate."""
    rows = np.flatnonzero(has_key)
    codes = keys.take(pa.array(rows)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    is_duplicate = np.ones(len(rows), bool)
    is_duplicate[np.unique(codes, return_index=True)[1]] = False
    found = np.zeros(len(keys), bool)
    found[rows] = is_duplicate
    return found


def _finish(
    key: pa.StringArray,
    text_idx: np.ndarray,
    text: pa.LargeStringArray,
    is_bad: np.ndarray,
    is_duplicate: np.ndarray,
    truth: pa.StringArray | None,
    details: dict[int, str],
) -> PoolTexts:
    """Each row's first reason in the order of REASONS; texts of bad rows become null."""
    length = pc.binary_length(pc.utf8_trim(text, BLANKS))
    is_empty = pc.equal(pc.fill_null(length, 0), 0).to_numpy(zero_copy_only=False)
    reason = np.select([is_bad, is_duplicate, is_empty], [BAD_PAIR, DUPLICATE, NO_TEXT], GOOD).astype(np.int8)
    return PoolTexts(
        key=key,
        text_idx=pa.array(text_idx, pa.int32()),
        text=pc.if_else(pa.array(reason == GOOD), text, pa.scalar(None, pa.large_string())),
        reason=reason,
        truth=truth,
        bad=_choose_bad(key, text_idx, np.flatnonzero(reason == BAD_PAIR), details),
    )


def _choose_bad(
    key: pa.StringArray, text_idx: np.ndarray, rows: np.ndarray, details: dict[int, str]
) -> list[dict[str, Any]]:
    names = key.take(pa.array(rows)).to_pylist()
    found = [
        {"key": name, "text_idx": int(text_idx[row]), "reason": details[int(row)]}
        for name, row in zip(names, rows, strict=True)
    ]
    return sorted(found, key=lambda item: hashlib.sha256(f"{item['key']} {item['text_idx']}".encode()).digest())[
        :NUM_BAD_SAMPLES
    ]
