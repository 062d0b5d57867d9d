"""Groups of duplicates among the pairs that are left, and the one of each group that stays.

The search is a map over units, each a few of the sorted orders of neighbours.py.  More hashes than ROWS_AT_ONCE are
first written to disk, a chunk at a time, in some of the sorted orders; a unit then reads a range of leading bits of all
chunks; then come the next orders.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.check.config import CheckConfig
from worldclip.check.images import HashKind, read_hashes
from worldclip.check.neighbours import (
    HASH_BITS,
    SearchPlan,
    all_roots,
    hamming,
    move_back,
    move_bits,
    plan_search,
    scan,
    sort_leading,
    unique,
    unite,
)
from worldclip.check.pair_rules import judged_path
from worldclip.core.artifacts import REMOVED, read_table, write_array
from worldclip.core.execute import Executor, Report, Shard, are_done
from worldclip.core.job import remove_stale

DUPLICATE_RULES = BYTE_DUPLICATE, NEAR_DUPLICATE = "byte_duplicate", "near_duplicate"

ROWS_AT_ONCE = 1 << 25  # hashes that a search holds at a time: 1 GiB for a unit
ORDERS_ON_DISK = 8  # sorted orders that a shuffle keeps on disk at a time: 64 bytes a hash
WORK_OF_UNIT = 20_000_000  # hashes times sorted orders in one unit; less is not worth a process


@dataclass(frozen=True, slots=True)
class Survivors:
    """What no other rule removed and has an image; one row an image, in order of shards and rows."""

    shard: np.ndarray
    """(n,) int32 position of the shard."""
    row: np.ndarray
    """(n,) int32 row in its table of images."""
    digest: np.ndarray
    """(n, 2) uint64: the file's bytes."""
    has_hash: np.ndarray
    hash: np.ndarray
    mirrored: np.ndarray
    num_pixels: np.ndarray


# The pairs that go because another one stays; shard is a position, rows are sorted by it.
DUPLICATES = pa.schema(
    [
        ("shard", pa.int32()),
        ("key", pa.large_string()),
        ("rule", pa.string()),
        ("other_key", pa.large_string()),
        ("distance", pa.int16()),
    ]
)


def read_survivors(folder: Path, shards: Sequence[Shard], kind: HashKind) -> Survivors:
    parts = [_survivors_of(folder, position, shard, kind) for position, shard in enumerate(shards)]
    return Survivors(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _survivors_of(folder: Path, position: int, shard: Shard, kind: HashKind) -> tuple[np.ndarray, ...]:
    judged = read_table(judged_path(folder, shard), REMOVED, ["key", "rule"])
    valid = judged.filter(pc.is_null(judged["rule"]))["key"]
    names = ["name", "sha256", "hash", "mirrored_hash", "width", "height"]
    facts = read_hashes(folder / "images" / f"{shard.name}.parquet", kind, names)
    rows = np.flatnonzero(pc.is_in(facts["name"], valid.combine_chunks()).to_numpy())
    left = facts.take(pa.array(rows))
    digest = np.frombuffer(b"".join(left["sha256"].to_pylist()), np.uint64).reshape(-1, 2)
    return (
        np.full(len(rows), position, np.int32),
        rows.astype(np.int32),
        digest,
        left["hash"].is_valid().to_numpy(),
        pc.fill_null(left["hash"], 0).to_numpy(),
        pc.fill_null(left["mirrored_hash"], 0).to_numpy(),
        left["width"].to_numpy().astype(np.int64) * left["height"].to_numpy(),
    )


def find_duplicates(
    folder: Path, shards: Sequence[Shard], config: CheckConfig, kind: HashKind, executor: Executor
) -> tuple[pa.Table, list[int]]:
    """(DUPLICATES, pairs of different hashes by distance)."""
    left = read_survivors(folder, shards, kind)
    parent = np.arange(len(left.row), dtype=np.int64)
    _unite_equal(parent, left.digest)
    histogram = [0] * (config.radius + 1)
    if config.duplicates == "near" and left.has_hash.any():
        histogram = _unite_near(parent, left, config, folder / "search", executor)
    return _choose(folder, shards, left, all_roots(parent), kind), histogram


def _unite_equal(parent: np.ndarray, digest: np.ndarray) -> None:
    order = np.lexsort((digest[:, 1], digest[:, 0]))
    same = (digest[order[1:]] == digest[order[:-1]]).all(axis=1)
    unite(parent, order[:-1][same], order[1:][same])


def _unite_near(
    parent: np.ndarray, left: Survivors, config: CheckConfig, folder: Path, executor: Executor
) -> list[int]:
    rows = np.flatnonzero(left.has_hash)
    sides = (left.hash, left.mirrored) if config.mirrored else (left.hash,)
    values = unique(np.concatenate([side[rows] for side in sides]))
    edges, histogram = search(values, config.radius, folder, executor)
    of_value = np.arange(len(values), dtype=np.int64)
    for first, second in edges:
        unite(of_value, np.searchsorted(values, first), np.searchsorted(values, second))
    for side in sides[1:]:
        unite(of_value, np.searchsorted(values, left.hash[rows]), np.searchsorted(values, side[rows]))
    root = all_roots(of_value)[np.searchsorted(values, left.hash[rows])]
    order = np.argsort(root, kind="stable")
    same = root[order[1:]] == root[order[:-1]]
    unite(parent, rows[order[:-1][same]], rows[order[1:][same]])
    return histogram


def _choose(folder: Path, shards: Sequence[Shard], left: Survivors, root: np.ndarray, kind: HashKind) -> pa.Table:
    """In each group the largest image stays, of equal ones that with the smallest key."""
    members = np.flatnonzero(np.bincount(root, minlength=len(root))[root] > 1)
    if not len(members):
        return DUPLICATES.empty_table()
    key = _keys_of(folder, shards, left, members, kind)
    table = pa.table({"root": root[members], "pixels": left.num_pixels[members], "key": key, "at": members})
    order = pc.sort_indices(
        table, [("root", "ascending"), ("pixels", "descending"), ("key", "ascending"), ("at", "ascending")]
    ).to_numpy()
    stays = order[np.searchsorted(root[members][order], root[members], side="left")]  # position in members
    goes = np.flatnonzero(stays != np.arange(len(members)))
    a, b = members[goes], members[stays[goes]]
    distance = np.minimum(hamming(left.hash[a], left.hash[b]), hamming(left.mirrored[a], left.hash[b]))
    same_file = (left.digest[a] == left.digest[b]).all(axis=1)
    columns = {
        "shard": left.shard[a],
        "key": key.take(pa.array(goes)),
        "rule": pc.if_else(pa.array(same_file), BYTE_DUPLICATE, NEAR_DUPLICATE),
        "other_key": key.take(pa.array(stays[goes])),
        "distance": np.where(left.has_hash[a] & left.has_hash[b], distance, 0).astype(np.int16),
    }
    return pa.table(columns, schema=DUPLICATES)


def _keys_of(
    folder: Path, shards: Sequence[Shard], left: Survivors, members: np.ndarray, kind: HashKind
) -> pa.LargeStringArray:
    """Keys of some rows, in their order, a shard at a time."""
    parts = []
    for of_shard in np.split(members, np.flatnonzero(np.diff(left.shard[members])) + 1):
        shard = shards[left.shard[of_shard[0]]]
        names = read_hashes(folder / "images" / f"{shard.name}.parquet", kind, ["name"])["name"]
        parts.append(names.take(pa.array(left.row[of_shard])).cast(pa.large_string()).combine_chunks())
    return pa.concat_arrays(parts)


# --- search -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchWork:
    """What a worker must know of a search."""

    folder: Path
    plan: SearchPlan
    num_values: int
    rows_at_once: int

    @property
    def num_chunks(self) -> int:
        """Of rows_at_once hashes each; more than one are shuffled on disk."""
        return -(-self.num_values // self.rows_at_once)

    def chunks(self) -> list[Shard]:
        return [Shard(name=f"chunk_{chunk:05}", path="") for chunk in range(self.num_chunks)]

    @property
    def num_parts(self) -> int:
        """Ranges of the highest bits, each of about a chunk's size; a power of two, never inside the leading bits."""
        fewest_bits = min(self.plan.leading_bits(choice) for choice in range(len(self.plan.choices)))
        return 1 << min((self.num_chunks - 1).bit_length(), fewest_bits)

    def rounds(self) -> list[range]:
        """The sorted orders that are on disk at a time."""
        num_orders = len(self.plan.choices)
        at_once = num_orders if self.num_chunks == 1 else ORDERS_ON_DISK
        return [range(first, min(first + at_once, num_orders)) for first in range(0, num_orders, at_once)]

    def shuffled(self, orders: range) -> Path:
        return self.folder / "shuffled" / f"{orders.start:05}"


def search(
    values: np.ndarray, radius: int, folder: Path, executor: Executor, *, rows_at_once: int = ROWS_AT_ONCE
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[int]]:
    """Edges that join all near pairs of `values` (uint64, sorted, unique), and the number of pairs by distance.

    Each unit's edges are a forest: as many as there are hashes at most, however many pairs there are.
    """
    write_array(folder / "values.npy", values)
    plan = plan_search(len(values), radius)
    work = SearchWork(folder=folder, plan=plan, num_values=len(values), rows_at_once=rows_at_once)
    key = {"values": hashlib.sha256(values.data).hexdigest(), "radius": radius, "rows_at_once": rows_at_once}
    histogram = np.zeros(radius + 1, np.int64)
    all_units: list[Shard] = []
    for orders in work.rounds():
        units = _units(work, orders)
        if work.num_chunks > 1 and not are_done(units, folder / "done", key):
            shuffle = functools.partial(_shuffle_chunk, work=work, orders=orders)
            executor.map(shuffle, work.chunks(), label="shuffle", done_dir=work.shuffled(orders) / "done", key=key)
        search_unit = functools.partial(_search_unit, work=work, orders=orders)
        for report in executor.map(search_unit, units, label="search", done_dir=folder / "done", key=key):
            histogram += report["histogram"]
        shutil.rmtree(work.shuffled(orders), ignore_errors=True)
        all_units += units
    keep = [folder / "values.npy", *(_edges_path(work, unit) for unit in all_units)]
    remove_stale(folder, [*keep, *(folder / "done" / f"{unit.name}.json" for unit in all_units)])
    edges = (np.load(_edges_path(work, unit), allow_pickle=False) for unit in all_units)
    return [(pairs[:, 0], pairs[:, 1]) for pairs in edges], histogram.tolist()


def _units(work: SearchWork, orders: range) -> list[Shard]:
    """Ranges of the orders, each of about WORK_OF_UNIT, in each part; named and described by their numbers."""
    num_units = max(1, min(len(orders), work.num_values * len(orders) // work.num_parts // WORK_OF_UNIT))
    bounds = [orders.start + len(orders) * n // num_units for n in range(num_units + 1)]
    return [
        Shard(name=f"edges_{first:05}_{part:05}", path="", fingerprint={"choices": [first, end], "part": part})
        for first, end in pairwise(bounds)
        for part in range(work.num_parts)
    ]


def _edges_path(work: SearchWork, unit: Shard) -> Path:
    return work.folder / f"{unit.name}.npy"


def _shuffle_chunk(chunk: Shard, *, work: SearchWork, orders: range) -> Report:
    """Write a chunk of the hashes in each of the orders."""
    first = int(chunk.name.removeprefix("chunk_")) * work.rows_at_once
    values = np.load(work.folder / "values.npy", mmap_mode="r", allow_pickle=False)[first : first + work.rows_at_once]
    for choice in orders:
        moved = move_bits(values, work.plan, choice)
        moved.sort()
        write_array(work.shuffled(orders) / f"{choice:05}" / f"{chunk.name}.npy", moved)
    return {}


def _search_unit(unit: Shard, *, work: SearchWork, orders: range) -> Report:
    """Near pairs of the unit's choices and part -> its forest of edges, (n, 2) uint64."""
    plan, histogram = work.plan, np.zeros(work.plan.radius + 1, np.int64)
    forests = [np.empty((0, 2), np.uint64)]
    first, end = unit.fingerprint["choices"]
    for choice in range(first, end):
        moved = _moved_part(work, orders, choice, unit.fingerprint["part"])
        parent = np.arange(len(moved), dtype=np.int64)

        def take(a: np.ndarray, b: np.ndarray, distance: np.ndarray, parent: np.ndarray = parent) -> None:
            unite(parent, a, b)
            histogram[:] += np.bincount(distance, minlength=len(histogram))

        scan(moved, plan, choice, take)
        root = all_roots(parent)
        joined = np.flatnonzero(root != np.arange(len(root)))
        ends = (move_back(moved[joined], plan, choice), move_back(moved[root[joined]], plan, choice))
        forests.append(np.stack(ends, axis=1))
    write_array(_edges_path(work, unit), np.concatenate(forests))
    return {"histogram": histogram.tolist()}


def _moved_part(work: SearchWork, orders: range, choice: int, part: int) -> np.ndarray:
    """The hashes of one part, sorted by the choice's leading bits; a part is a range of the highest bits."""
    bits = work.plan.leading_bits(choice)
    if work.num_chunks == 1:
        values = np.load(work.folder / "values.npy", mmap_mode="r", allow_pickle=False)
        return sort_leading(move_bits(values, work.plan, choice), bits)
    width = 2**HASH_BITS // work.num_parts
    low, last = np.uint64(part * width), np.uint64((part + 1) * width - 1)
    slices = []
    for chunk in work.chunks():
        moved = np.load(work.shuffled(orders) / f"{choice:05}" / f"{chunk.name}.npy", mmap_mode="r", allow_pickle=False)
        slices.append(moved[np.searchsorted(moved, low) : np.searchsorted(moved, last, side="right")])
    whole = np.concatenate(slices)
    whole.sort()
    return whole
