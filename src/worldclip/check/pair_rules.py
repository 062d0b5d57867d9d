"""The verdict on each pair of a shard that needs no other pair: the first rule that removes it, in a fixed order.

Order: what cannot be used (bad_pair, no_text), deny lists, text rules, image rules, classifiers, decontamination.
Duplicates come later, among what is left, so that the pair that stays for a group is not one that another rule removes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool as pools
from worldclip.check.config import CheckConfig, ImageRules
from worldclip.check.deny import denied
from worldclip.check.images import HashKind, read_hashes
from worldclip.check.neighbours import NearestIndex
from worldclip.check.text_rules import UNKNOWN, languages_of, reject
from worldclip.core.artifacts import REMOVED, REMOVED_TEXTS, SCORES, read_table, write_table
from worldclip.core.execute import Report, Shard
from worldclip.core.reasons import Reason
from worldclip.pool.config import PoolConfig
from worldclip.pool.texts import PoolTexts

ELSEWHERE = "removed_elsewhere"  # the same key is removed in another shard


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeWork:
    """What decides a shard's verdicts besides the shard."""

    pool: PoolConfig
    config: CheckConfig
    folder: Path
    kind: HashKind
    lid_model: str
    references: str
    """Digest of what the evaluation sets hold."""
    has_images: bool
    """False where the whole pool has no image, or no rule looks at one."""


class Verdicts:
    """The verdict of each of n keys; the first rule to remove one is its reason."""

    def __init__(self, keys: pa.Array, shard_name: str) -> None:
        self.keys, self.shard_name, num_keys = keys, shard_name, len(keys)
        self.rule, self.detail = np.full(num_keys, None, object), np.full(num_keys, None, object)
        self.other, self.distance = np.full(num_keys, None, object), np.full(num_keys, -1, np.int16)
        self.lang = np.full(num_keys, UNKNOWN, object)

    @property
    def is_valid(self) -> np.ndarray:
        return self.rule == None  # noqa: E711  element by element

    def remove(self, removed: np.ndarray, rule: Any, detail: Any = None, other: Any = None, distance: Any = -1) -> None:
        """removed: (n,) bool.  The others: a value for all, or (n,) of them."""
        new = removed & self.is_valid
        for column, values in (
            (self.rule, rule), (self.detail, detail), (self.other, other), (self.distance, distance)
        ):  # fmt: skip
            column[new] = values[new] if isinstance(values, np.ndarray) else values

    def table(self) -> pa.Table:
        distance = pa.array(self.distance, pa.int16(), mask=self.distance < 0)
        return pa.table(
            {
                "key": self.keys,
                "shard": pa.array([self.shard_name] * len(self.keys), pa.string()),
                "rule": pa.array(self.rule, pa.string()),
                "detail": pa.array(self.detail, pa.string()),
                "other_key": pa.array(self.other, pa.string()),
                "distance": distance,
                "lang": pa.array(self.lang, pa.string()),
            }
        )


def judged_path(folder: Path, shard: Shard) -> Path:
    return folder / "judged" / f"{shard.name}.parquet"


def judge_shard(shard: Shard, *, work: JudgeWork) -> Report:
    """Write judged/<shard>.parquet (a row a key, rule null where it is valid) and removed_texts/<shard>.parquet."""
    texts = pools.read_texts(shard, work.pool)
    first, key_of_row = _keys_of(texts)
    verdicts = Verdicts(texts.key.take(pa.array(first)), shard.name)
    reason = _latest_reason(texts, key_of_row, len(first))
    for unusable in (Reason.BAD_PAIR, Reason.NO_TEXT):
        verdicts.remove(reason == unusable, unusable.label)
    rule, detail = denied(verdicts.keys, shard, work.pool, work.config.deny)
    verdicts.remove(rule != None, rule, detail)  # noqa: E711
    rejected = _judge_texts(texts, key_of_row, verdicts, work)
    if work.has_images:
        _judge_images(shard, verdicts, work)
    write_table(judged_path(work.folder, shard), verdicts.table(), REMOVED)
    write_table(work.folder / "removed_texts" / f"{shard.name}.parquet", rejected, REMOVED_TEXTS)
    by_rule = pc.value_counts(rejected["rule"]).to_pylist()
    return {
        "pairs": len(first),
        "rejected_texts": {item["values"]: item["counts"] for item in by_rule},
        "texts": int((texts.reason == Reason.KEPT).sum()),
    }


def _keys_of(texts: PoolTexts) -> tuple[np.ndarray, np.ndarray]:
    """(first row of each key in order, (num_rows,) position of each row's key, -1 for duplicates in the shard)."""
    rows = np.flatnonzero(texts.reason != Reason.DUPLICATE)
    encoded = texts.key.take(pa.array(rows)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = rows[np.unique(encoded, return_index=True)[1]]
    key_of_row = np.full(len(texts.reason), -1, np.int64)
    key_of_row[rows] = encoded
    return first, key_of_row


def _latest_reason(texts: PoolTexts, key_of_row: np.ndarray, num_keys: int) -> np.ndarray:
    """Return (num_keys,) int8: the latest reason that any text of a key reached; `kept` if any text is usable."""
    has_key = key_of_row >= 0
    latest = np.zeros(num_keys, np.int8)
    np.maximum.at(latest, key_of_row[has_key], texts.reason[has_key])
    return latest


def _judge_texts(texts: PoolTexts, key_of_row: np.ndarray, verdicts: Verdicts, work: JudgeWork) -> pa.Table:
    """Reject texts, and pairs by their texts; returns the rejected texts."""
    rules = work.config.texts
    rows = np.flatnonzero(texts.reason == Reason.KEPT)
    owner = key_of_row[rows]
    owners, first_of_owner = np.unique(owner, return_index=True)
    good = texts.text.take(pa.array(rows))
    asked = np.arange(len(rows)) if rules.languages else first_of_owner
    langs = np.full(len(rows), UNKNOWN, object)
    langs[asked] = languages_of(good.take(pa.array(asked)), work.lid_model)
    verdicts.lang[owners] = langs[first_of_owner]

    reason, detail = reject(good, langs, rules)
    is_rejected = reason != None  # noqa: E711
    num_texts = np.bincount(owner, minlength=len(verdicts.rule))
    num_rejected = np.bincount(owner[is_rejected], minlength=len(verdicts.rule))
    goes = num_rejected > 0 if rules.drop_pair_when == "any" else (num_rejected == num_texts) & (num_texts > 0)
    first_rejected = np.full(len(verdicts.rule), 0)
    first_rejected[owner[is_rejected][::-1]] = np.flatnonzero(is_rejected)[::-1]
    if goes.any():
        verdicts.remove(goes, reason[first_rejected], detail[first_rejected])
    at = np.flatnonzero(is_rejected)
    taken = pa.array(rows[at])
    return pa.table(
        {
            "key": texts.key.take(taken),
            "text_idx": texts.text_idx.take(taken),
            "rule": pa.array(reason[at], pa.string()),
            "detail": pa.array(detail[at], pa.string()),
        }
    )


def _judge_images(shard: Shard, verdicts: Verdicts, work: JudgeWork) -> None:
    facts = read_hashes(work.folder / "images" / f"{shard.name}.parquet", work.kind)
    row_of_key = pc.index_in(verdicts.keys, facts["name"].combine_chunks())
    verdicts.remove(row_of_key.is_null().to_numpy(zero_copy_only=False), "no_image")
    of_key = facts.take(row_of_key)  # nulls where there is no image: such keys are removed already
    error = of_key["error"].to_pylist()
    verdicts.remove(np.array([text is not None for text in error], bool), "undecodable", np.array(error, object))
    _apply_image_rules(of_key, verdicts, work.config.images)
    for name, rule in work.config.classifiers.items():
        scores = read_table(work.folder / "scores" / name / f"{shard.name}.parquet", SCORES)
        at = pc.index_in(verdicts.keys, scores["key"].combine_chunks())
        score = scores["score"].take(at).to_numpy()
        verdicts.remove(score > rule.above, f"classifier:{name}", np.array([f"{x:.4f}" for x in score], object))
    if work.config.reference_sets:
        _decontaminate(of_key, verdicts, work)


def _apply_image_rules(of_key: pa.Table, verdicts: Verdicts, rules: ImageRules) -> None:
    width, height = (of_key[name].to_numpy().astype(float) for name in ("width", "height"))
    size = np.array([f"{w:.0f} x {h:.0f} pixels" for w, h in zip(width, height, strict=True)], object)
    if rules.min_side_px is not None:
        verdicts.remove(np.minimum(width, height) < rules.min_side_px, "min_side_px", size)
    if rules.max_aspect_ratio is not None:
        ratio = np.maximum(width, height) / np.maximum(np.minimum(width, height), 1)
        verdicts.remove(ratio > rules.max_aspect_ratio, "max_aspect_ratio", size)
    if rules.animated:
        frames = of_key["num_frames"].to_numpy()
        verdicts.remove(frames > 1, "animated", np.array([f"{n:.0f} frames" for n in frames], object))
    if rules.min_contrast is not None:
        contrast = of_key["contrast"].to_numpy()
        detail = np.array([f"contrast {c:.2f}" for c in contrast], object)
        verdicts.remove(contrast < rules.min_contrast, "min_contrast", detail)


# --- decontamination --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class References:
    """The evaluation images of all sets, and the way to the nearest."""

    names: list[tuple[str, str]]
    """(set, image) in sorted order."""
    index: NearestIndex | None
    name_of_value: dict[int, int]
    """Position in names of the first image with a hash."""
    name_of_bytes: dict[bytes, int]
    """The same by file; it alone finds nearly blank images."""


@functools.cache
def read_references(folder: Path, sets: tuple[str, ...], radius: int, kind: HashKind, contents: str) -> References:
    """The sets below `folder`, read once a process; contents: the digest by which changed sets are told apart."""
    names: list[tuple[str, str]] = []
    name_of_value: dict[int, int] = {}
    name_of_bytes: dict[bytes, int] = {}
    for one in sorted(sets):
        table = read_hashes(folder / f"{one}.parquet", kind, ["name", "sha256", "hash", "error"]).sort_by("name")
        for name, sha256, value, error in zip(
            *(table[column].to_pylist() for column in table.column_names), strict=True
        ):
            if error is not None:
                continue
            name_of_bytes.setdefault(sha256, len(names))
            if value is not None:
                name_of_value.setdefault(value, len(names))
            names.append((one, name))
    values = np.fromiter(name_of_value, np.uint64, len(name_of_value))
    return References(names, NearestIndex.build(values, radius) if len(values) else None, name_of_value, name_of_bytes)


def _decontaminate(of_key: pa.Table, verdicts: Verdicts, work: JudgeWork) -> None:
    config = work.config
    references = read_references(
        work.folder / "against", config.reference_sets, config.decontamination_radius, work.kind, work.references
    )
    distance, position = _nearest(of_key["hash"], references)
    if config.mirrored:
        mirrored_distance, mirrored_position = _nearest(of_key["mirrored_hash"], references)
        nearer = (mirrored_distance >= 0) & ((distance < 0) | (mirrored_distance < distance))
        distance[nearer], position[nearer] = mirrored_distance[nearer], mirrored_position[nearer]
    for row, sha256 in enumerate(of_key["sha256"].to_pylist()):
        if (same := references.name_of_bytes.get(sha256)) is not None:
            distance[row], position[row] = 0, same
    near = distance >= 0
    rule, other = np.full(len(near), None, object), np.full(len(near), None, object)
    rule[near] = [f"against:{references.names[at][0]}" for at in position[near]]
    other[near] = [references.names[at][1] for at in position[near]]
    verdicts.remove(near, rule, None, other, distance)


def _nearest(hashes: pa.ChunkedArray, references: References) -> tuple[np.ndarray, np.ndarray]:
    """(distance int16, -1 where none is near; position in references.names)."""
    distance, position = np.full(len(hashes), -1, np.int16), np.zeros(len(hashes), np.int64)
    rows = np.flatnonzero(hashes.is_valid().to_numpy())
    if references.index is not None and len(rows):
        distance[rows], values = references.index.nearest(hashes.drop_null().to_numpy())
        near = rows[distance[rows] >= 0]
        position[near] = [references.name_of_value[value] for value in values[distance[rows] >= 0].tolist()]
    return distance, position
