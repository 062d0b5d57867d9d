"""The pairs of a shard, settled once for all formats: their keys, their texts, and why some are dropped.

A row or sample of the shard that pool.where leaves out is no pair.  Each text has the first reason that applies:
bad_pair, duplicate, no_text, or kept.
Legend: P pairs as formats/base.py, in order; T texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts.summary import OF_POOL
from worldclip.core.execute import Report, Shard
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats import format_of
from worldclip.pool.formats.base import DEFAULT_PLACES, ROW, ShardPairs, Values, WrongColumns, missing_column
from worldclip.pool.texts import (
    PairKeys,
    PoolTexts,
    find_bad_utf8,
    find_duplicates,
    large_strings,
    pool_texts,
    readable,
    replace_where,
    text_buffers,
)
from worldclip.pool.where import choose_rows, left_out_because, renumber

COMMON_KEYS = ("key", "uid", "id", "hash", "url", "URL")  # suggested for a table when pool.key is not set
COUNTS = (
    *("rows", "left_out", "samples", "images", "ignored_members", "pairs"),
    *(reason.label for reason in OF_POOL),
    "texts",
)
"""rows = left_out by pool.where + samples; images of different keys; members of a tar in no sample;
pairs = bad_pair + duplicate + no_text + texts."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A shard as the stage pool writes it."""

    texts: PoolTexts
    images: pa.Table
    """key, row, member, offset, size: schema POOL_IMAGES."""
    counts: Report
    """COUNTS."""
    names: Sequence[str]
    """Columns or fields that the shard has."""
    missing: Sequence[str]
    """What the recipe names and no record of the shard has, in words."""
    holds_images: bool


def read_shard(shard: Shard, config: PoolConfig, *, needs_texts: bool = True) -> Settled:
    """Read a shard of any format.  config: the options of its place.

    needs_texts: refuse a table without a column of texts.  Raises WrongColumns for what the recipe names and the table
    lacks, another BadShard for a damaged shard.
    """
    found = format_of(shard.name).read(shard, config)
    num_rows = len(found.row)
    missing = _missing_fields(found, config, needs_texts=needs_texts)
    found, num_left_out = choose_rows(found, config)
    pairs = _keys_of(shard.name, found, config)
    texts = _texts_of(found, pairs)
    is_pair = pairs.has_key & ~find_duplicates(pairs.keys, pairs.has_key)
    images = _images_of(found, pairs.keys, is_pair)
    counts = {
        "rows": num_rows,
        "left_out": num_left_out,
        "samples": len(found.row),
        "images": len(images),
        "ignored_members": found.num_ignored,
        "pairs": len(texts.reason),
        **{reason.label: int(np.count_nonzero(texts.reason == reason)) for reason in OF_POOL},
        "texts": texts.num_kept,
    }
    return Settled(texts, images, counts, found.names, missing, found.holds_images)


def left_out_by(shard: Shard, config: PoolConfig, key: str) -> str | None:
    """Return the condition of pool.where by which a shard's pair with this key is no pair; None without such a pair."""
    found = format_of(shard.name).read(shard, config)
    keys = _keys_of(shard.name, found, config).keys
    rows = np.flatnonzero(np.asarray(pc.equal(keys, key))).tolist()
    reasons = [left_out_because(found, config, row) for row in rows]
    return reasons[0] if reasons and all(reasons) else None


# --- what the recipe names --------------------------------------------------------------------------------------------


def _missing_fields(found: ShardPairs, config: PoolConfig, *, needs_texts: bool) -> list[str]:
    """Return what the recipe names and no pair of the shard has.

    Raises WrongColumns with it for a table, and for any shard that pool.where cannot be asked of.  Records may differ
    in their fields, so those of a shard may lack a key, texts or languages that others have.
    """
    if not len(found.row):
        return []  # nothing to ask
    names = found.names
    wrong = [missing_column("pool.where", name, names) for name in config.compared if name not in found.fields]
    if config.image_field is not None and not found.has_schema:
        wrong.append("pool.image_field: only Parquet, CSV and TSV have columns of images or of paths; remove it")
    elif config.image_field is not None and config.image_field not in names:
        wrong.append(missing_column("pool.image_field", config.image_field, names))
    if config.key == "member" and found.stems is None:
        common = [name for name in COMMON_KEYS if name in names] or names
        wrong.append(f'pool.key = "member" is for tars only; set it to the column of the key: {", ".join(common)}')
    missing = []
    if config.key not in ("member", ROW) and found.keys is None:
        missing.append(missing_column("pool.key", bare(config.key), names))
    missing += _missing_texts(found, config, needs_texts=needs_texts)
    if config.lang is not None and found.labels is None:
        missing.append(missing_column("pool.lang", bare(config.lang), names))
    if wrong or (missing and found.has_schema):
        raise WrongColumns([*missing, *wrong])
    return missing


def _missing_texts(found: ShardPairs, config: PoolConfig, *, needs_texts: bool) -> list[str]:
    """Return the places of texts that are missing; of records one place is enough."""
    missing = [bare(place) for place, values in zip(config.texts, found.texts, strict=False) if values is None]
    if missing and (found.has_schema or len(missing) == len(config.texts)):
        return [missing_column("pool.texts", name, found.names) for name in missing]
    has_texts = any(values is not None and len(values.pair) for values in found.texts)
    if config.texts or has_texts or not needs_texts or (found.has_schema and found.texts):
        return []
    return [
        f"pool.texts is not set and there is no column {', '.join(DEFAULT_PLACES)}; set it to one or more of: "
        + (", ".join(found.names) or "nothing")
    ]


# --- keys, texts, images ----------------------------------------------------------------------------------------------


def _keys_of(shard_name: str, found: ShardPairs, config: PoolConfig) -> PairKeys:
    """Return the identity of each pair, or why it has none; a pair without a key is shown by its name or its row."""
    num_pairs = len(found.row)
    problems: dict[int, str] = {}
    if config.key == ROW and found.keys is None:
        keys = _row_names(shard_name, found.row)
    else:
        is_stem = config.key == "member"
        stored = found.stems if is_stem else found.keys
        if stored is None:  # a shard without pairs
            stored = pa.nulls(num_pairs, pa.large_binary())
        keys, problems = _readable_keys(stored, bare(config.key))
        if not is_stem:
            problems |= found.key_problems
            keys = _show_other_names(shard_name, keys, found, sorted(problems))
    problems |= {**found.picture_problems, **found.problems}
    has_key = np.ones(num_pairs, bool)
    has_key[list(problems)] = False
    return PairKeys(keys, has_key, dict(sorted(problems.items())))


def _readable_keys(stored: pa.LargeBinaryArray, name: str) -> tuple[pa.LargeStringArray, dict[int, str]]:
    """Return keys as texts, bad UTF-8 as escapes, and why some are no keys."""
    values, offsets = text_buffers(stored)
    is_null = np.asarray(stored.is_null())
    is_bad = find_bad_utf8(values, offsets)
    is_empty = (np.diff(offsets) == 0) & ~is_null
    problems: dict[int, str] = {}
    for is_so, reason in ((is_null, "null"), (is_empty, "empty"), (is_bad, "not UTF-8")):
        problems |= dict.fromkeys(np.flatnonzero(is_so).tolist(), f"no key: {name} is {reason}")
    return readable(values, offsets, is_bad), problems


def _show_other_names(shard_name: str, keys: pa.Array, found: ShardPairs, pairs: Sequence[int]) -> pa.Array:
    """Return the keys with those of `pairs`, which have none, replaced by their names in the tar, or by their rows."""
    if not pairs:
        return keys
    if found.stems is None:
        names = _row_names(shard_name, found.row[pairs])
    else:
        names, _ = _readable_keys(found.stems.take(pa.array(pairs)), "")
    is_replaced = np.zeros(len(keys), bool)
    is_replaced[pairs] = True
    return replace_where(keys, is_replaced, names.to_pylist())


def _row_names(shard_name: str, rows: np.ndarray) -> pa.Array:
    """Return `<shard>#<row>` of rows."""
    return pa.array([f"{shard_name}#{row}" for row in rows.tolist()], pa.large_string())


def _texts_of(found: ShardPairs, pairs: PairKeys) -> PoolTexts:
    """Return all texts, those of a pair adjacent, its places in order; a pair that cannot be used has one null."""
    pair, place, value, problems = _concatenate(found.texts, pairs.has_key)
    label, label_problems = _labels(found.labels, pair, len(found.row))
    problems = label_problems | problems
    values, offsets = text_buffers(value)
    is_null = np.asarray(value.is_null())
    is_bad = find_bad_utf8(values, offsets) & ~is_null
    problems |= dict.fromkeys(np.flatnonzero(is_bad).tolist(), "its text is not UTF-8")
    first_text = np.searchsorted(pair, list(pairs.problems))
    problems |= dict(zip(first_text.tolist(), pairs.problems.values(), strict=True))
    text = large_strings(values, offsets, is_bad | is_null)
    return pool_texts(pairs, found.row, pair, text, problems, lang=label, place=place)


def _concatenate(
    places: Sequence[Values | None], has_key: np.ndarray
) -> tuple[np.ndarray, np.ndarray, pa.Array, dict[int, str]]:
    """Return (pair (T,) ascending, position of its place (T,), text (T,) large_binary, why a text is bad by row).

    Texts of pairs without a key are left out.  A pair without any text has one null.
    """
    given = [values for values in places if values is not None]
    if len(places) == len(given) == 1 and has_key.all() and np.array_equal(given[0].pair, np.arange(len(has_key))):
        return given[0].pair, np.zeros(len(has_key), np.int16), given[0].value, dict(given[0].problems)
    pairs: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    values: list[pa.Array] = []
    problems: dict[int, str] = {}
    num_texts = 0
    for position, of_place in enumerate(places):
        if of_place is None:
            continue
        rows = np.flatnonzero(has_key[of_place.pair])
        new_row = np.full(len(of_place.pair), -1, np.int64)
        new_row[rows] = np.arange(num_texts, num_texts + len(rows))
        problems |= renumber(of_place.problems, new_row)
        pairs.append(of_place.pair[rows])
        positions.append(np.full(len(rows), position, np.int16))
        values.append(of_place.value.take(pa.array(rows)))
        num_texts += len(rows)
    has_text = np.zeros(len(has_key), bool)
    has_text[np.concatenate([np.zeros(0, np.int64), *pairs])] = True
    without_text = np.flatnonzero(~has_text)
    pair = np.concatenate([*pairs, without_text])
    place = np.concatenate([*positions, np.zeros(len(without_text), np.int16)])
    value = pa.concat_arrays([*values, pa.nulls(len(without_text), pa.large_binary())])
    order = np.argsort(pair, kind="stable")  # stable: the places of a pair stay in order
    row = np.empty(len(order), np.int64)  # of each text among the sorted ones
    row[order] = np.arange(len(order))
    return pair[order], place[order], value.take(pa.array(order)), renumber(problems, row)


def _labels(labels: Values | None, pair: np.ndarray, num_pairs: int) -> tuple[pa.Array | None, dict[int, str]]:
    """Return the label of each text, "" for none, and by row why the labels of a pair are not those of its texts.

    A pair has one label for all its texts, or a list with one per text.
    """
    if labels is None:
        return None, {}
    num_texts = np.bincount(pair, minlength=num_pairs)
    num_labels = np.bincount(labels.pair, minlength=num_pairs)
    starts = np.concatenate([[0], np.cumsum(num_labels)])
    number = np.arange(len(pair)) - np.searchsorted(pair, pair)  # of each text in its pair
    number[~labels.is_list[pair]] = 0
    is_wrong = labels.is_list & (num_labels != num_texts)
    is_wrong &= ~((num_labels == 0) & (num_texts == 1))  # a pair without a text has one null
    has_label = (number < num_labels[pair]) & ~is_wrong[pair]
    position = np.where(has_label, starts[pair] + number, 0)
    padded = pa.concat_arrays([labels.value, pa.nulls(1, pa.large_binary())])  # there may be no label at all
    values, offsets = text_buffers(padded.take(pa.array(position)))
    is_null = ~has_label | find_bad_utf8(values, offsets)
    strings = pc.fill_null(large_strings(values, offsets, is_null), "")
    problems = {
        row: f"its list of languages has {num_labels[pair[row]]} labels for {num_texts[pair[row]]} texts"
        for row in np.flatnonzero(is_wrong[pair]).tolist()
    }
    return strings, problems


def _images_of(found: ShardPairs, keys: pa.Array, is_pair: np.ndarray) -> pa.Table:
    """Return the images of pairs with a key that no earlier pair has."""
    images = found.images
    is_taken = is_pair[images.pair]
    pair = images.pair[is_taken]
    offset = images.offset[is_taken]
    offset = np.where(offset < 0, -1 - np.arange(len(pair)), offset)  # of a file of its own: row of this table
    return pa.table(
        {
            "key": keys.take(pa.array(pair)),
            "row": found.row[pair],
            "member": images.member.filter(pa.array(is_taken)),
            "offset": offset,
            "size": images.size[is_taken],
        }
    )
