"""Decide which pairs a check removes: the first rule that applies to a pair is its reason.

Order: the rules of one pair (bad_pair, no_text, no_image, undecodable), the recipe's lists of keys (not_valid),
decontamination, keys that another shard loses, duplicates.  Duplicates come last, among the remaining pairs, so the
pair that stays of a group is never one that another rule removes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.check.config import CheckConfig
from worldclip.check.images import hashes_path
from worldclip.check.neighbours import all_roots, cluster, nearest, unique, unite
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import IMAGE_HASHES
from worldclip.core.artifacts import read_table
from worldclip.core.coin import hash_keys
from worldclip.core.execute import Shard
from worldclip.core.keys import KeyList, is_valid

BYTE_DUPLICATE = "byte_duplicate"
NEAR_DUPLICATE = "near_duplicate"
ELSEWHERE = "removed_elsewhere"  # the same key is removed in another shard
# Rules that remove the key only from its own shard: the recipe drops these pairs itself, with or without a check.
NOT_ELSEWHERE = (Reason.BAD_PAIR.label, Reason.NO_TEXT.label, Reason.NOT_VALID.label)
_COLUMNS = ["key", "rule", "sha256", "hash", "pixels"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """All pairs of a pool, n rows in the order of shards, and the rule that removes each."""

    shard_names: Sequence[str]
    starts: np.ndarray
    """(num_shards + 1,) int64: the first row of each shard."""
    key: pa.LargeStringArray
    sha256: pa.FixedSizeBinaryArray
    has_hash: np.ndarray
    """(n,) bool: False for nearly blank images, and for pairs without an image that decodes."""
    hash: np.ndarray
    """(n,) uint64, 0 without a hash."""
    pixels: np.ndarray
    """(n,) int64."""
    rule: np.ndarray
    """(n,) object: None for a valid pair."""
    other_key: np.ndarray
    """(n,) object: the pair that stays, or the evaluation image."""
    distance: np.ndarray
    """(n,) int16: differing bits between the two, -1 without another image."""

    @classmethod
    def read(cls, folder: Path, shards: Sequence[Shard]) -> Pairs:
        """Read the rows of all shards from `folder`."""
        tables = [read_table(hashes_path(folder, shard), IMAGE_HASHES, _COLUMNS) for shard in shards]
        table = pa.concat_tables(tables).unify_dictionaries()
        return cls(
            shard_names=[shard.name for shard in shards],
            starts=np.cumsum([0, *map(len, tables)]),
            key=table["key"].cast(pa.large_string()).combine_chunks(),
            sha256=table["sha256"].combine_chunks(),
            has_hash=table["hash"].is_valid().to_numpy(),
            hash=pc.fill_null(table["hash"], 0).to_numpy(),
            pixels=pc.fill_null(table["pixels"], 0).to_numpy(),
            rule=np.array(table["rule"].to_pylist(), object),
            other_key=np.full(len(table), None, object),
            distance=np.full(len(table), -1, np.int16),
        )

    @property
    def valid_rows(self) -> np.ndarray:
        """The rows that no rule has removed so far."""
        rows: np.ndarray = np.flatnonzero(self.rule == None)  # noqa: E711  element by element
        return rows

    def remove(self, rows: np.ndarray, rule: Any, other_key: Any = None, distance: Any = -1) -> None:
        """Remove rows; the other arguments are one value for all of them, or one each."""
        self.rule[rows] = rule
        self.other_key[rows] = other_key
        self.distance[rows] = distance

    def shards(self) -> Iterator[tuple[str, slice]]:
        """Yield the name and the rows of each shard."""
        for name, start, end in zip(self.shard_names, self.starts[:-1], self.starts[1:], strict=True):
            yield name, slice(start, end)

    def tables(self, *, is_valid: bool) -> Iterator[pa.Table]:
        """Yield the valid or the removed pairs of each shard, with the columns of REMOVED."""
        for name, rows in self.shards():
            columns = {
                "key": self.key[rows],
                "shard": pa.array([name] * (rows.stop - rows.start), pa.string()),
                "rule": pa.array(self.rule[rows], pa.string()),
                "other_key": pa.array(self.other_key[rows], pa.string()),
                "distance": pa.array(self.distance[rows], mask=self.distance[rows] < 0),
            }
            table = pa.table(columns)
            yield table.filter(pc.equal(table["rule"].is_null(), is_valid))


# --- lists of keys ----------------------------------------------------------------------------------------------------


def remove_excluded(pairs: Pairs, key_lists: Sequence[KeyList]) -> np.ndarray:
    """Remove pairs that the recipe's lists of keys exclude, so that no other pair goes for one of them.

    Return (n,) bool: the pairs that the lists leave, those that a rule removes included.
    """
    is_listed = np.ones(len(pairs.rule), bool)
    for name, rows in pairs.shards():
        is_listed[rows] = is_valid(pairs.key[rows], key_lists, name)
    valid_rows = pairs.valid_rows
    pairs.remove(valid_rows[~is_listed[valid_rows]], Reason.NOT_VALID.label)
    return is_listed


# --- decontamination --------------------------------------------------------------------------------------------------


def decontaminate(pairs: Pairs, references: pa.Table, radius: int) -> None:
    """Remove pairs whose image is near an evaluation image, or has the same bytes.

    references: set, key, sha256, hash, in the order in which equally near ones are named.
    """
    rows = pairs.valid_rows
    position = np.full(len(rows), -1, np.int64)  # position of the nearest evaluation image, -1 for none
    distance = np.zeros(len(rows), np.int16)
    with_hash = np.flatnonzero(pairs.has_hash[rows])
    positions = np.flatnonzero(references["hash"].is_valid().to_numpy())
    values, first = np.unique(references["hash"].drop_null().to_numpy(), return_index=True)
    distances, nearest_hashes = nearest(pairs.hash[rows[with_hash]], values, radius)
    distance[with_hash] = distances
    is_near = distances >= 0
    position[with_hash[is_near]] = positions[first[np.searchsorted(values, nearest_hashes[is_near])]]
    # The same bytes are the same image even if it is nearly blank.
    same = pc.index_in(pairs.sha256.take(pa.array(rows)), references["sha256"].combine_chunks())
    same_bytes = same.fill_null(-1).to_numpy()
    is_same = same_bytes >= 0
    position[is_same] = same_bytes[is_same]
    is_removed = position >= 0
    named = references.take(pa.array(position[is_removed]))
    rules = np.array([f"against:{name}" for name in named["set"].to_pylist()], object)
    other_keys = np.array(named["key"].to_pylist(), object)
    pairs.remove(rows[is_removed], rules, other_keys, distance[is_removed])


# --- keys in several shards -------------------------------------------------------------------------------------------


def remove_elsewhere(pairs: Pairs, is_listed: np.ndarray) -> int:
    """Remove a key from every shard if a rule removes it in one, because a list of valid keys does not name shards.

    is_listed: see remove_excluded; of the others the recipe drops the pair in its own shard.  Return the number of keys
    that several shards have.
    """
    hashes = hash_keys(pairs.key)
    values, counts = np.unique(hashes[is_listed], return_counts=True)
    repeated = values[counts > 1]
    is_removed = is_listed & (pairs.rule != None) & ~np.isin(pairs.rule, NOT_ELSEWHERE)  # noqa: E711
    removed = np.intersect1d(repeated, hashes[is_removed])
    rows = pairs.valid_rows
    pairs.remove(rows[np.isin(hashes[rows], removed)], ELSEWHERE)
    return len(repeated)


# --- duplicates -------------------------------------------------------------------------------------------------------


def remove_duplicates(pairs: Pairs, config: CheckConfig) -> None:
    """Remove all but one pair of each group of duplicates.

    The largest image of each group stays; among equally large ones, that with the smallest key.
    """
    rows = pairs.valid_rows
    if not len(rows):
        return
    digests = np.frombuffer(pairs.sha256.buffers()[1], np.uint64).reshape(-1, 2)[rows]
    parent = np.arange(len(rows), dtype=np.int64)
    _unite_equal(parent, np.arange(len(rows)), digests)
    if config.duplicates == "near":
        with_hash = np.flatnonzero(pairs.has_hash[rows])
        hashes = pairs.hash[rows[with_hash]]
        values = unique(hashes)
        clusters = cluster(values, config.radius)[np.searchsorted(values, hashes)]
        _unite_equal(parent, with_hash, clusters[:, None])
    root = all_roots(parent)
    members = np.flatnonzero(np.bincount(root, minlength=len(root))[root] > 1)
    if not len(members):
        return
    # Rows 4, 7 and 9 are a group, 9 is the largest: order is [2, 0, 1], stays [2, 2, 2], copies [0, 1], removed [4, 7].
    keys = pairs.key.take(pa.array(rows[members]))
    groups = pa.table({"root": root[members], "pixels": pairs.pixels[rows[members]], "key": keys, "row": members})
    order = pc.sort_indices(
        groups, [("root", "ascending"), ("pixels", "descending"), ("key", "ascending"), ("row", "ascending")]
    ).to_numpy()
    stays = order[np.searchsorted(root[members][order], root[members], side="left")]  # position in `members`
    copies = np.flatnonzero(stays != np.arange(len(members)))
    removed = members[copies]  # row of each in `rows`, and of the one that stays for it
    originals = members[stays[copies]]
    distance = np.bitwise_count(pairs.hash[rows[removed]] ^ pairs.hash[rows[originals]]).astype(np.int16)
    is_same_file = (digests[removed] == digests[originals]).all(axis=1)
    rules = np.where(is_same_file, BYTE_DUPLICATE, NEAR_DUPLICATE)
    other_keys = np.array(keys.take(pa.array(stays[copies])).to_pylist(), object)
    pairs.remove(rows[removed], rules, other_keys, distance)


def _unite_equal(parent: np.ndarray, members: np.ndarray, values: np.ndarray) -> None:
    """Unite the members with equal rows of `values`."""
    order = np.lexsort(values.T)
    is_same = (values[order[1:]] == values[order[:-1]]).all(axis=1)
    unite(parent, members[order[:-1][is_same]], members[order[1:][is_same]])
