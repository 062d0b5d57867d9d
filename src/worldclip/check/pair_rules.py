"""Apply the rules that need only the pair itself; the first rule that removes a pair is its reason.

Order: unusable pairs (bad_pair, no_text), text rules with similarity last, image rules, classifiers,
decontamination.  Duplicates follow among the remaining pairs, so the pair that stays of a group is never one that
another rule removes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool as pools
from worldclip.check.config import ImageRules
from worldclip.check.context import CheckContext
from worldclip.check.hashing import HashKind
from worldclip.check.images import read_hashes
from worldclip.check.neighbours import NearestIndex
from worldclip.check.similarity import LOW_SIMILARITY, find_low, read_similarities
from worldclip.check.text_rules import UNKNOWN, languages_of, reject
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import REMOVED, REMOVED_TEXTS, SCORES
from worldclip.core.artifacts import read_table, write_table
from worldclip.core.execute import Report, Shard, reads_input
from worldclip.pool.texts import PoolTexts

ELSEWHERE = "removed_elsewhere"  # the same key is removed in another shard


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRules:
    """The inputs of a shard's verdicts other than the shard."""

    context: CheckContext
    references: str
    """Digest of the evaluation sets' contents."""
    has_images: bool
    """False if the pool has no image or no rule needs one."""
    min_similarity: Mapping[str, float] | None = None
    """Threshold by language; None if similarity is not measured."""


class Verdicts:
    """The verdict on each of n keys: the first rule that removes it, with its detail."""

    def __init__(self, keys: pa.Array, shard_name: str) -> None:
        n = len(keys)
        self.keys = keys
        self.shard_name = shard_name
        self.rule = np.full(n, None, object)
        self.detail = np.full(n, None, object)
        self.other = np.full(n, None, object)
        self.distance = np.full(n, -1, np.int16)
        self.lang = np.full(n, UNKNOWN, object)

    def remove(self, mask: np.ndarray, rule: Any, detail: Any = None, other: Any = None, distance: Any = -1) -> None:
        """Remove the keys under `mask`, (n,) bool, that are still valid.

        The other arguments are one value for all keys, or (n,) values.
        """
        new = mask & (self.rule == None)  # noqa: E711  element by element
        for column, values in (
            (self.rule, rule),
            (self.detail, detail),
            (self.other, other),
            (self.distance, distance),
        ):
            column[new] = values[new] if isinstance(values, np.ndarray) else values

    def table(self) -> pa.Table:
        """Return a row per key with the columns of REMOVED; `rule` is null for a valid key."""
        return pa.table(
            {
                "key": self.keys,
                "shard": pa.array([self.shard_name] * len(self.keys), pa.string()),
                "rule": pa.array(self.rule, pa.string()),
                "detail": pa.array(self.detail, pa.string()),
                "other_key": pa.array(self.other, pa.string()),
                "distance": pa.array(self.distance, pa.int16(), mask=self.distance < 0),
                "lang": pa.array(self.lang, pa.string()),
            }
        )


@reads_input
def apply_pair_rules(shard: Shard, *, rules: PairRules) -> Report:
    """Write judged/<shard>.parquet (REMOVED, one row per key, rule null if valid) and removed_texts/<shard>.parquet."""
    context = rules.context
    texts = pools.read_texts(shard, context.pool)
    first_rows, key_of_row = _number_keys(texts)
    verdicts = Verdicts(texts.key.take(pa.array(first_rows)), shard.name)
    reason = _latest_reason(texts, key_of_row, len(first_rows))
    for unusable in (Reason.BAD_PAIR, Reason.NO_TEXT):
        verdicts.remove(reason == unusable, unusable.label)
    rejected = _apply_text_rules(shard, texts, key_of_row, verdicts, rules)
    if rules.has_images:
        _apply_rules_with_images(shard, verdicts, rules)
    write_table(context.table_path("judged", shard), verdicts.table(), REMOVED)
    write_table(context.table_path("removed_texts", shard), rejected, REMOVED_TEXTS)
    by_rule = pc.value_counts(rejected["rule"]).to_pylist()
    return {
        "pairs": len(first_rows),
        "rejected_texts": {item["values"]: item["counts"] for item in by_rule},
        "texts": int((texts.reason == Reason.KEPT).sum()),
    }


def _number_keys(texts: PoolTexts) -> tuple[np.ndarray, np.ndarray]:
    """Return (first row of each key in order, (num_rows,) number of each row's key, -1 for duplicates in the shard)."""
    rows = np.flatnonzero(texts.reason != Reason.DUPLICATE)
    numbers = texts.key.take(pa.array(rows)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first_rows = rows[np.unique(numbers, return_index=True)[1]]
    key_of_row = np.full(len(texts.reason), -1, np.int64)
    key_of_row[rows] = numbers
    return first_rows, key_of_row


def _latest_reason(texts: PoolTexts, key_of_row: np.ndarray, num_keys: int) -> np.ndarray:
    """Return (num_keys,) int8: the latest reason that any text of a key reached; `kept` if any text is usable."""
    has_key = key_of_row >= 0
    latest = np.zeros(num_keys, np.int8)
    np.maximum.at(latest, key_of_row[has_key], texts.reason[has_key])
    return latest


def _apply_text_rules(
    shard: Shard, texts: PoolTexts, key_of_row: np.ndarray, verdicts: Verdicts, pair_rules: PairRules
) -> pa.Table:
    """Reject texts, remove pairs by their texts, and set each pair's language; return the rejected texts."""
    context, rules = pair_rules.context, pair_rules.context.config.texts
    rows = np.flatnonzero(texts.reason == Reason.KEPT)
    key = key_of_row[rows]
    keys, first_text = np.unique(key, return_index=True)
    usable = texts.text.take(pa.array(rows))
    if pair_rules.min_similarity is not None:
        langs, similarities = read_similarities(context, shard, len(rows))
    else:
        # Identifying languages costs most here.  Without a language rule, only a pair's first text is identified.
        labelled = np.arange(len(rows)) if rules.languages else first_text
        stated = None if texts.lang is None else texts.lang.take(pa.array(rows[labelled]))
        langs = np.full(len(rows), UNKNOWN, object)
        usable_labelled = usable.take(pa.array(labelled))
        langs[labelled] = languages_of(usable_labelled, stated, context.lid_model, context.languages)
    verdicts.lang[keys] = langs[first_text]

    reason, detail = reject(usable, langs, rules)
    if pair_rules.min_similarity is not None:
        is_low, low_details = find_low(langs, similarities, pair_rules.min_similarity)
        is_low &= reason == None  # noqa: E711
        reason[is_low], detail[is_low] = LOW_SIMILARITY, low_details[is_low]
    rejected = np.flatnonzero(reason != None)  # noqa: E711
    if len(rejected):
        num_keys = len(verdicts.rule)
        num_texts = np.bincount(key, minlength=num_keys)
        num_rejected = np.bincount(key[rejected], minlength=num_keys)
        needed = 1 if rules.drop_pair_when == "any" else num_texts
        # The pair's reason is that of its first rejected text: assigned last, because the last write to a key wins.
        first_rejected = np.zeros(num_keys, np.int64)
        first_rejected[key[rejected][::-1]] = rejected[::-1]
        is_removed = (num_rejected > 0) & (num_rejected >= needed)
        verdicts.remove(is_removed, reason[first_rejected], detail[first_rejected])
    rejected_rows = pa.array(rows[rejected])
    return pa.table(
        {
            "key": texts.key.take(rejected_rows),
            "text_idx": texts.text_idx.take(rejected_rows),
            "rule": pa.array(reason[rejected], pa.string()),
            "detail": pa.array(detail[rejected], pa.string()),
        }
    )


def _apply_rules_with_images(shard: Shard, verdicts: Verdicts, rules: PairRules) -> None:
    context = rules.context
    facts = read_hashes(context.table_path("images", shard), context.kind)
    row_of_key = pc.index_in(verdicts.keys, facts["name"].combine_chunks())
    verdicts.remove(row_of_key.is_null().to_numpy(zero_copy_only=False), "no_image")
    by_key = facts.take(row_of_key)  # null rows for keys without an image, which are removed already
    error = np.array(by_key["error"].to_pylist(), object)
    verdicts.remove(error != None, "undecodable", error)  # noqa: E711
    _apply_image_rules(by_key, verdicts, context.config.images)
    for name, classifier in context.config.classifiers.items():
        scores = read_table(context.table_path(f"scores/{name}", shard), SCORES)
        row_of_key = pc.index_in(verdicts.keys, scores["key"].combine_chunks())
        score = scores["score"].take(row_of_key).to_numpy()
        verdicts.remove(score > classifier.above, f"classifier:{name}", _details(score, "{:.4f}"))
    if context.config.reference_sets:
        _decontaminate(by_key, verdicts, rules)


def _apply_image_rules(by_key: pa.Table, verdicts: Verdicts, rules: ImageRules) -> None:
    """Apply the rules to a row of IMAGE_HASHES per key; a null row becomes NaN, which no comparison removes."""
    width, height = (by_key[name].to_numpy().astype(float) for name in ("width", "height"))
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    if rules.min_side_px is not None:
        verdicts.remove(shorter < rules.min_side_px, "min_side_px", _sizes(width, height))
    if rules.max_aspect_ratio is not None:
        is_long = longer / np.maximum(shorter, 1) > rules.max_aspect_ratio
        verdicts.remove(is_long, "max_aspect_ratio", _sizes(width, height))
    if rules.animated:
        num_frames = by_key["num_frames"].to_numpy()
        verdicts.remove(num_frames > 1, "animated", _details(num_frames, "{:.0f} frames"))
    if rules.min_contrast is not None:
        contrast = by_key["contrast"].to_numpy()
        verdicts.remove(contrast < rules.min_contrast, "min_contrast", _details(contrast, "contrast {:.2f}"))


def _sizes(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    return np.array([f"{w:.0f} x {h:.0f} pixels" for w, h in zip(width, height, strict=True)], object)


def _details(values: np.ndarray, form: str) -> np.ndarray:
    return np.array([form.format(value) for value in values], object)


# --- decontamination --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class References:
    """The evaluation images of all sets, and an index of their hashes."""

    names: list[tuple[str, str]]
    """(set, image), sorted."""
    index: NearestIndex | None
    position_of_hash: dict[int, int]
    """Position in `names` of the first image with a hash."""
    position_of_bytes: dict[bytes, int]
    """The same by the hash of the file's bytes, which finds nearly blank images as well."""


@functools.cache
def read_references(folder: Path, sets: tuple[str, ...], radius: int, kind: HashKind, contents: str) -> References:
    """Read the sets' hashes from `folder`, once per process; contents: their digest, so that changed sets are read."""
    names: list[tuple[str, str]] = []
    position_of_hash: dict[int, int] = {}
    position_of_bytes: dict[bytes, int] = {}
    for set_name in sorted(sets):
        columns = ["name", "sha256", "hash", "error"]
        table = read_hashes(folder / f"{set_name}.parquet", kind, columns).sort_by("name")
        for name, sha256, value, error in zip(*(table[column].to_pylist() for column in columns), strict=True):
            if error is not None:
                continue
            position_of_bytes.setdefault(sha256, len(names))
            if value is not None:
                position_of_hash.setdefault(value, len(names))
            names.append((set_name, name))
    values = np.fromiter(position_of_hash, np.uint64, len(position_of_hash))
    index = NearestIndex.build(values, radius) if len(values) else None
    return References(names, index, position_of_hash, position_of_bytes)


def _decontaminate(by_key: pa.Table, verdicts: Verdicts, rules: PairRules) -> None:
    """Remove pairs whose image is near an evaluation image, or has the same bytes."""
    context, config = rules.context, rules.context.config
    references = read_references(
        context.folder / "against",
        config.reference_sets,
        config.decontamination_radius,
        context.kind,
        rules.references,
    )
    distance, position = _nearest(by_key["hash"], references)
    if config.mirrored:
        mirrored_distance, mirrored_position = _nearest(by_key["mirrored_hash"], references)
        is_nearer = (mirrored_distance >= 0) & ((distance < 0) | (mirrored_distance < distance))
        distance[is_nearer] = mirrored_distance[is_nearer]
        position[is_nearer] = mirrored_position[is_nearer]
    for row, sha256 in enumerate(by_key["sha256"].to_pylist()):
        same_bytes = references.position_of_bytes.get(sha256)
        if same_bytes is not None:
            distance[row], position[row] = 0, same_bytes
    is_near = distance >= 0
    rule, other = np.full(len(is_near), None, object), np.full(len(is_near), None, object)
    rule[is_near] = [f"against:{references.names[at][0]}" for at in position[is_near]]
    other[is_near] = [references.names[at][1] for at in position[is_near]]
    verdicts.remove(is_near, rule, None, other, distance)


def _nearest(hashes: pa.ChunkedArray, references: References) -> tuple[np.ndarray, np.ndarray]:
    """Return (distance (n,) int16, -1 if no reference is near; position (n,) in references.names)."""
    distance, position = np.full(len(hashes), -1, np.int16), np.zeros(len(hashes), np.int64)
    rows = np.flatnonzero(hashes.is_valid().to_numpy())
    if references.index is not None and len(rows):
        distance[rows], values = references.index.nearest(hashes.drop_null().to_numpy())
        is_near = distance[rows] >= 0
        position[rows[is_near]] = [references.position_of_hash[value] for value in values[is_near].tolist()]
    return distance, position
