"""The pairs of a shard, settled once for all formats: their keys, their texts, and why some are dropped.

A row or sample of the shard that pool.where leaves out is no pair.  Each text has the first reason that applies:
bad_pair, duplicate, no_text, or kept.
Legend: P pairs as formats/base.py, in order, those that pool.where leaves out included; T texts of the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import POOL_IMAGES
from worldclip.contracts.summary import OF_POOL
from worldclip.core.arrow import one_array
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Report, Shard
from worldclip.core.execute.shard_list import InputFile
from worldclip.pool.conditions import comparable, fulfils
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats import format_of
from worldclip.pool.formats.base import DEFAULT_PLACES, ROW, ShardPairs, Values, WrongColumns, missing_column
from worldclip.pool.listing import options_of, shards_by_place
from worldclip.pool.texts import (
    BLANKS,
    NO_PLACE,
    PoolTexts,
    decode,
    find_duplicates,
    null_where,
    readable,
    replace_where,
)

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
    shard_pairs = format_of(shard.name).read(shard, config)
    missing = _missing_fields(shard_pairs, config, needs_texts=needs_texts)
    is_chosen = np.ones(shard_pairs.num_pairs, bool)
    for name, comparison, operand in _conditions(shard_pairs, config):
        is_chosen &= fulfils(shard_pairs.fields[bare(name)], name, comparison, operand)
    is_chosen[list(shard_pairs.unreadable)] = True  # they are bad pairs
    keys, problems = _keys_of(shard.name, shard_pairs, config)
    problems = {pair: problem for pair, problem in problems.items() if is_chosen[pair]}
    has_key = is_chosen.copy()
    has_key[list(problems)] = False
    is_duplicate = find_duplicates(keys, has_key)
    texts = _texts_of(shard_pairs, keys, is_chosen, has_key, is_duplicate, problems)
    if config.lang is not None and texts.lang is None:  # no record of this shard has the field
        texts = dataclasses.replace(texts, lang=pa.repeat(pa.scalar("", pa.large_string()), len(texts.text)))
    images = POOL_IMAGES.empty_table()
    if shard_pairs.images is not None:
        has_first_key = has_key & ~is_duplicate
        stored = shard_pairs.images.filter(pa.array(has_first_key[shard_pairs.images["row"].to_numpy()]))
        offset = stored["offset"].to_numpy()
        offset = np.where(offset < 0, -1 - np.arange(len(offset)), offset)  # an image file has no place in a shard
        columns = dict(zip(stored.column_names, stored.columns, strict=True))
        images = pa.table({"key": keys.take(one_array(stored["row"])), **columns, "offset": offset})
    counts = {
        "rows": shard_pairs.num_pairs,
        "left_out": int(np.count_nonzero(~is_chosen)),
        "samples": int(np.count_nonzero(is_chosen)),
        "images": len(images),
        "ignored_members": shard_pairs.num_ignored,
        "pairs": len(texts.reason),
        **{reason.label: int(np.count_nonzero(texts.reason == reason)) for reason in OF_POOL},
        "texts": texts.num_kept,
    }
    return Settled(texts, images, counts, shard_pairs.names, missing, shard_pairs.images is not None)


def read_columns(shard: Shard, config: PoolConfig, names: Sequence[str], setting: str) -> pa.Table:
    """Return columns or fields of a shard, a row per pair as in `row` of POOL_IMAGES; a pair may lack a field.

    config: the options of the shard's place.  setting: what names the columns, for errors.  Bytes are texts, null where
    they are not UTF-8.  Raises WrongColumns for a column that the shard lacks, or that holds lists or records.
    """
    asked = dataclasses.replace(config, where=tuple((name, "=", "") for name in names))
    shard_pairs = format_of(shard.name).read(shard, asked)
    wrong = []
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in map(bare, names):
        values = shard_pairs.fields.get(name)
        if values is None and shard_pairs.has_schema:
            wrong.append(missing_column(setting, name, shard_pairs.names))
            continue
        columns[name] = pa.nulls(shard_pairs.num_pairs) if values is None else comparable(values)
        if pa.types.is_nested(columns[name].type):
            wrong.append(f"{setting}: {name} holds {columns[name].type}; name columns of numbers, texts or dates")
    if wrong:
        raise WrongColumns(wrong)
    return pa.table(columns)


def left_out_by(shard: Shard, config: PoolConfig, key: str) -> str | None:
    """Return the condition of pool.where by which a shard's first pair with this key is no pair.

    key: one of no pair of the index.  None where the shard does not have it.
    """
    shard_pairs = format_of(shard.name).read(shard, config)
    keys, _ = _keys_of(shard.name, shard_pairs, config)
    rows = np.flatnonzero(np.asarray(pc.equal(keys, key)))
    if not len(rows):
        return None
    for name, comparison, operand in _conditions(shard_pairs, config):
        values = shard_pairs.fields[bare(name)]
        if not fulfils(values, name, comparison, operand)[rows[0]]:
            return f"{bare(name)} is {comparable(values)[rows[0]].as_py()!r}, not {comparison} {operand!r}"
    return None


# --- what the recipe names --------------------------------------------------------------------------------------------


def _missing_fields(shard_pairs: ShardPairs, config: PoolConfig, *, needs_texts: bool) -> list[str]:
    """Return what the recipe names and no pair of the shard has.

    Raises WrongColumns with it for a table, and for any shard that pool.where cannot be asked of.  Records may differ
    in their fields, so those of a shard may lack a key, texts or languages that others have.
    """
    if not shard_pairs.num_pairs:
        return []  # nothing to ask
    names = shard_pairs.names
    wrong = [missing_column("pool.where", name, names) for name in config.compared if name not in shard_pairs.fields]
    if config.image_field is not None and not shard_pairs.has_schema:
        wrong.append("pool.image_field: only Parquet, CSV and TSV have columns of images or of paths; remove it")
    elif config.image_field is not None and config.image_field not in names:
        wrong.append(missing_column("pool.image_field", config.image_field, names))
    if config.key == "member" and shard_pairs.stems is None:
        common = [name for name in COMMON_KEYS if name in names] or names
        wrong.append(f'pool.key = "member" is for tars only; set it to the column of the key: {", ".join(common)}')
    missing = []
    if config.key not in ("member", ROW) and shard_pairs.keys is None:
        missing.append(missing_column("pool.key", bare(config.key), names))
    places = {values.place for values in shard_pairs.texts}
    absent = [bare(name) for place, name in enumerate(config.texts) if place not in places]
    if shard_pairs.has_schema or len(absent) == len(config.texts):  # records need only one place
        missing += [missing_column("pool.texts", name, names) for name in absent]
    has_texts = any(shard_pairs.has_schema or len(values.pair) for values in shard_pairs.texts)
    has_texts |= not set(DEFAULT_PLACES).isdisjoint(names)  # fields of empty lists hold no value
    if needs_texts and not config.texts and not has_texts:
        defaults = ", ".join(DEFAULT_PLACES)
        there_is = ", ".join(names) or "nothing"
        missing.append(f"pool.texts is not set and there is no column {defaults}; set it to one or more of: {there_is}")
    if config.lang is not None and shard_pairs.labels is None:
        missing.append(missing_column("pool.lang", bare(config.lang), names))
    if wrong or (missing and shard_pairs.has_schema):
        raise WrongColumns([*missing, *wrong])
    return missing


def refuse_wrong_columns(shards: Sequence[Shard], config: PoolConfig, *, needs_texts: bool = True) -> None:
    """Raise UserError for a column that no shard of a place has: the recipe is wrong.  If some have it, others are bad.

    Stops at the first shard of a place that has it, so it reads one shard per place of a right recipe.
    """
    problems: list[str] = []
    for options, of_place in shards_by_place(shards, config):
        wrong = _wrong_columns(of_place, options, needs_texts=needs_texts)
        if len(config.places) > 1:
            wrong = [f"{options.path}: {problem}" for problem in wrong]
        problems += wrong
    if problems:
        raise UserError(problems)


def _wrong_columns(shards: Sequence[Shard], options: PoolConfig, *, needs_texts: bool) -> Sequence[str]:
    problems: Sequence[str] = ()
    for shard in shards:
        try:
            settled = read_shard(shard, options, needs_texts=needs_texts)
        except WrongColumns as error:
            problems = problems or error.problems
        except BadShard:  # reported when the stage reads the shard
            continue
        else:
            if settled.counts["rows"] and not settled.missing:
                return ()
            problems = problems or settled.missing
    return problems


def may_hold_images(files: Sequence[InputFile], config: PoolConfig) -> bool:
    """Return whether a pool may hold images: in tars, or in tables like the first readable one of their place.

    For checks before the stage reads the shards, here `files`.
    """
    places_without = set()
    for file in files:
        options = options_of(config, file.name)
        if options.path in places_without:
            continue
        if not format_of(file.name).is_table:
            return True
        try:
            settled = read_shard(Shard.of_file(*file), options, needs_texts=False)
        except BadShard:  # reported when the stage reads the shard
            continue
        if settled.holds_images:
            return True
        places_without.add(options.path)
    return len(places_without) < len(config.places)


# --- pool.where -------------------------------------------------------------------------------------------------------


def _conditions(shard_pairs: ShardPairs, config: PoolConfig) -> Sequence[Sequence[Any]]:
    """Return the conditions of pool.where; unset, of img2dataset's tables, which list failed downloads too."""
    if not shard_pairs.num_pairs:
        return ()
    if config.where is None and "status" in shard_pairs.fields:
        return (("status", "=", "success"),)
    return config.where or ()


# --- keys, texts, images ----------------------------------------------------------------------------------------------


def _keys_of(
    shard_name: str, shard_pairs: ShardPairs, config: PoolConfig
) -> tuple[pa.LargeStringArray, dict[int, str]]:
    """Return the key of each pair, and in order why some pairs have none.

    A pair without a key is shown by its name in the tar, or by its row.
    """
    problems: dict[int, str] = {}
    if config.key == ROW and shard_pairs.keys is None:
        keys = _row_names(shard_name, range(shard_pairs.num_pairs))
    else:
        stored = shard_pairs.stems if config.key == "member" else shard_pairs.keys
        if stored is None:  # a shard whose records lack the field, or without pairs
            stored = pa.nulls(shard_pairs.num_pairs, pa.large_binary())
        keys = decode(stored)
        is_null = np.asarray(stored.is_null())
        is_empty = np.asarray(pc.equal(pc.binary_length(stored).fill_null(1), 0))
        is_bad = np.asarray(keys.is_null()) & ~is_null
        for is_so, reason in ((is_null, "null"), (is_empty, "empty"), (is_bad, "not UTF-8")):
            problems |= dict.fromkeys(np.flatnonzero(is_so).tolist(), f"no key: {bare(config.key)} is {reason}")
        if is_bad.any():
            keys = readable(stored)
    if problems and config.key != "member":
        pairs = sorted(problems)
        is_shown = np.zeros(shard_pairs.num_pairs, bool)
        is_shown[pairs] = True
        if shard_pairs.stems is None:
            names = _row_names(shard_name, pairs)
        else:
            names = readable(shard_pairs.stems.take(pa.array(pairs)))
        keys = replace_where(keys, is_shown, names.to_pylist())
    problems |= {**shard_pairs.problems, **shard_pairs.unreadable}
    return keys, dict(sorted(problems.items()))


def _row_names(shard_name: str, rows: Sequence[int]) -> pa.LargeStringArray:
    return pa.array([f"{shard_name}#{row}" for row in rows], pa.large_string())


def _texts_of(
    shard_pairs: ShardPairs,
    keys: pa.LargeStringArray,
    is_chosen: np.ndarray,
    has_key: np.ndarray,
    is_duplicate: np.ndarray,
    problems: Mapping[int, str],
) -> PoolTexts:
    """Return all texts with the first reason that applies; those of a pair are adjacent, its places in order.

    A pair without any text has one null, and so has one without a key.  problems: why it has none, by pair.
    """
    texts = _sort_by_pair(shard_pairs.texts, is_chosen, has_key)
    pair = texts["pair"].to_numpy()
    text_idx = np.arange(len(pair)) - np.searchsorted(pair, pair)
    details: dict[int, str] = {}
    lang = None
    if shard_pairs.labels is not None:
        lang, details = _labels_of_texts(shard_pairs.labels, pair, text_idx, shard_pairs.num_pairs)
    is_no_text = np.asarray(texts["problem"].is_valid())
    details |= dict(zip(np.flatnonzero(is_no_text).tolist(), texts["problem"].drop_null().to_pylist(), strict=True))
    value = one_array(texts["value"])
    text = decode(value)
    is_bad_utf8 = np.asarray(text.is_null()) & np.asarray(value.is_valid())
    details |= dict.fromkeys(np.flatnonzero(is_bad_utf8).tolist(), "its text is not UTF-8")
    first_text = np.searchsorted(pair, list(problems))
    details |= dict(zip(first_text.tolist(), problems.values(), strict=True))
    is_bad = np.zeros(len(pair), bool)
    is_bad[list(details)] = True
    length = pc.binary_length(pc.utf8_trim(text, BLANKS))
    is_empty = np.asarray(pc.equal(pc.fill_null(length, 0), 0))
    reasons = [Reason.BAD_PAIR, Reason.DUPLICATE, Reason.NO_TEXT]
    reason = np.select([is_bad, is_duplicate[pair], is_empty], reasons, Reason.KEPT).astype(np.int8)
    return PoolTexts(
        key=keys.take(pa.array(pair)),
        row=pair,
        text_idx=pa.array(text_idx, pa.int32()),
        place=np.where(has_key[pair], texts["place"], NO_PLACE).astype(np.int16),
        text=null_where(text, reason != Reason.KEPT),
        reason=reason,
        lang=lang,
        details=details,
    )


def _sort_by_pair(places: Sequence[Values], is_chosen: np.ndarray, has_key: np.ndarray) -> pa.Table:
    """Return pair, place, value and problem of the texts of pairs with a key, by pair, then by place.

    A chosen pair without any such text has one null.
    """
    has_text = np.zeros(len(has_key), bool)
    for values in places:
        has_text[values.pair] = True
    without_text = np.flatnonzero(is_chosen & ~(has_text & has_key))
    nulls = Values(without_text, pa.nulls(len(without_text), pa.large_binary()), np.zeros(0, bool))
    parts = []
    for values in (*places, nulls):
        num_texts = len(values.pair)
        problem = pa.nulls(num_texts, pa.string()) if values.problem is None else values.problem
        place = np.full(num_texts, values.place, np.int16)
        part = pa.table({"pair": values.pair, "place": place, "value": values.value, "problem": problem})
        is_taken = has_key[values.pair] | (values is nulls)
        if not is_taken.all():
            part = part.filter(pa.array(is_taken))
        parts.append(part)
    filled = [part for part in parts if len(part)] or parts[:1]
    texts = pa.concat_tables(filled)
    if len(filled) == 1:  # sorted already
        return texts
    return texts.sort_by([("pair", "ascending"), ("place", "ascending")])


def _labels_of_texts(
    labels: Values, pair: np.ndarray, text_idx: np.ndarray, num_pairs: int
) -> tuple[pa.LargeStringArray, dict[int, str]]:
    """Return the label of each text, "" for none, and by text why the labels of a pair are not those of its texts.

    A pair has one label for all its texts, or a list with one per text.
    """
    num_texts = np.bincount(pair, minlength=num_pairs)
    num_labels = np.bincount(labels.pair, minlength=num_pairs)
    is_wrong = labels.is_list & (num_labels != num_texts)
    is_wrong &= ~((num_labels == 0) & (num_texts == 1))  # a pair without a text has one null
    number = np.where(labels.is_list[pair], text_idx, 0)
    has_label = (number < num_labels[pair]) & ~is_wrong[pair]
    position = (np.cumsum(num_labels) - num_labels)[pair] + number
    label = labels.value.take(pa.array(position, mask=~has_label))
    problems = {
        row: f"its list of languages has {num_labels[pair[row]]} labels for {num_texts[pair[row]]} texts"
        for row in np.flatnonzero(is_wrong[pair]).tolist()
    }
    return pc.fill_null(decode(label), ""), problems
