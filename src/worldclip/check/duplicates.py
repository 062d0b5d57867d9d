"""Find groups of duplicates among the remaining pairs, and choose the pair that stays of each group.

The search is a map over units of work.  A unit compares hashes in a few of the sorted orders of neighbours.py.  More
than ROWS_AT_ONCE hashes are first written to disk in chunks, each sorted, for ORDERS_ON_DISK orders at a time; a unit
then reads one range of leading bits from all chunks.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.check import neighbours
from worldclip.check.context import CheckContext
from worldclip.check.images import read_hashes
from worldclip.check.neighbours import HASH_BITS, SearchPlan, all_roots, unite
from worldclip.contracts import layout
from worldclip.contracts.schemas import REMOVED
from worldclip.core.artifacts import read_table, remove, write_array
from worldclip.core.execute import Executor, Report, Shard, are_done
from worldclip.core.job import remove_stale

DUPLICATE_RULES = BYTE_DUPLICATE, NEAR_DUPLICATE = "byte_duplicate", "near_duplicate"

ROWS_AT_ONCE = 1 << 25  # hashes that a unit holds in memory: 1 GiB
ORDERS_ON_DISK = 8  # sorted orders that are on disk at a time: 64 bytes per hash
WORK_OF_UNIT = 20_000_000  # hashes times sorted orders in one unit; less does not pay for a process

# The pairs that are removed because another one stays, sorted by shard (its position).
DUPLICATES = pa.schema(
    [
        ("shard", pa.int32()),
        ("key", pa.large_string()),
        ("rule", pa.string()),
        ("other_key", pa.large_string()),
        ("distance", pa.int16()),
    ]
)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The images of pairs that no other rule removed, n rows in the order of shards and of rows in `images`."""

    shard: np.ndarray
    """(n,) int32 position of the shard."""
    row: np.ndarray
    """(n,) int32 row in the shard's table of images."""
    digest: np.ndarray
    """(n, 2) uint64: hash of the file's bytes."""
    has_hash: np.ndarray
    """(n,) bool: False for nearly blank images."""
    hash: np.ndarray
    """(n,) uint64, 0 without a hash."""
    mirrored: np.ndarray
    """(n,) uint64, 0 without a hash."""
    num_pixels: np.ndarray
    """(n,) int64."""


def find_duplicates(context: CheckContext, shards: Sequence[Shard], executor: Executor) -> tuple[pa.Table, list[int]]:
    """Return (DUPLICATES, number of pairs of different hashes by distance from 0 to the radius)."""
    config = context.config
    columns = [_read_candidates(context, position, shard) for position, shard in enumerate(shards)]
    candidates = Candidates(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))
    parent = np.arange(len(candidates.row), dtype=np.int64)
    digest = candidates.digest
    order = np.lexsort((digest[:, 1], digest[:, 0]))
    is_same_file = (digest[order[1:]] == digest[order[:-1]]).all(axis=1)
    unite(parent, order[:-1][is_same_file], order[1:][is_same_file])
    histogram = [0] * (config.radius + 1)
    if config.duplicates == "near" and candidates.has_hash.any():
        histogram = _unite_near(parent, candidates, context, executor)
    return _choose(context, shards, candidates, all_roots(parent)), histogram


def _read_candidates(context: CheckContext, position: int, shard: Shard) -> tuple[np.ndarray, ...]:
    """Return the fields of Candidates for one shard."""
    verdicts = read_table(context.table_path("judged", shard), REMOVED, ["key", "rule"])
    valid_keys = verdicts.filter(pc.is_null(verdicts["rule"]))["key"]
    names = ["name", "sha256", "hash", "mirrored_hash", "width", "height"]
    facts = read_hashes(context.table_path("images", shard), context.kind, names)
    rows = np.flatnonzero(pc.is_in(facts["name"], valid_keys.combine_chunks()).to_numpy())
    facts = facts.take(pa.array(rows))
    return (
        np.full(len(rows), position, np.int32),
        rows.astype(np.int32),
        np.frombuffer(b"".join(facts["sha256"].to_pylist()), np.uint64).reshape(-1, 2),
        facts["hash"].is_valid().to_numpy(),
        pc.fill_null(facts["hash"], 0).to_numpy(),
        pc.fill_null(facts["mirrored_hash"], 0).to_numpy(),
        facts["width"].to_numpy().astype(np.int64) * facts["height"].to_numpy(),
    )


def _unite_near(parent: np.ndarray, candidates: Candidates, context: CheckContext, executor: Executor) -> list[int]:
    """Unite images whose hashes are within the radius, directly or through others; return the counts by distance.

    Different hashes are joined first, then images through their hashes: many images share a hash.
    """
    config = context.config
    rows = np.flatnonzero(candidates.has_hash)
    hashes = candidates.hash[rows]
    sides = [hashes, candidates.mirrored[rows]] if config.mirrored else [hashes]
    values = neighbours.unique(np.concatenate(sides))
    edges, histogram = search(values, config.radius, context.folder / "search", executor)
    position = np.searchsorted(values, hashes)
    value_parent = np.arange(len(values), dtype=np.int64)
    for first, second in edges:
        unite(value_parent, np.searchsorted(values, first), np.searchsorted(values, second))
    for mirrored in sides[1:]:
        unite(value_parent, position, np.searchsorted(values, mirrored))
    root = all_roots(value_parent)[position]
    order = np.argsort(root, kind="stable")
    is_same = root[order[1:]] == root[order[:-1]]
    unite(parent, rows[order[:-1][is_same]], rows[order[1:][is_same]])
    return histogram


def _choose(context: CheckContext, shards: Sequence[Shard], candidates: Candidates, root: np.ndarray) -> pa.Table:
    """Return DUPLICATES.  Of each group the largest image stays, of equal ones that with the smallest key.

    root: (n,) a number for each group, the same for all its members.
    """
    members = np.flatnonzero(np.bincount(root, minlength=len(root))[root] > 1)
    if not len(members):
        return DUPLICATES.empty_table()
    keys = _read_keys(context, shards, candidates, members)
    groups = pa.table({"root": root[members], "pixels": candidates.num_pixels[members], "key": keys, "row": members})
    order = pc.sort_indices(
        groups, [("root", "ascending"), ("pixels", "descending"), ("key", "ascending"), ("row", "ascending")]
    ).to_numpy()
    stays = order[np.searchsorted(root[members][order], root[members], side="left")]  # position in `members`
    removed = np.flatnonzero(stays != np.arange(len(members)))
    a, b = members[removed], members[stays[removed]]
    distance = neighbours.hamming(candidates.hash[a], candidates.hash[b])
    if context.config.mirrored:
        distance = np.minimum(distance, neighbours.hamming(candidates.mirrored[a], candidates.hash[b]))
    have_hashes = candidates.has_hash[a] & candidates.has_hash[b]
    is_same_file = (candidates.digest[a] == candidates.digest[b]).all(axis=1)
    columns = {
        "shard": candidates.shard[a],
        "key": keys.take(pa.array(removed)),
        "rule": pc.if_else(pa.array(is_same_file), BYTE_DUPLICATE, NEAR_DUPLICATE),
        "other_key": keys.take(pa.array(stays[removed])),
        "distance": np.where(have_hashes, distance, 0).astype(np.int16),
    }
    return pa.table(columns, schema=DUPLICATES)


def _read_keys(
    context: CheckContext, shards: Sequence[Shard], candidates: Candidates, members: np.ndarray
) -> pa.LargeStringArray:
    """Return the keys of some candidates in their order, reading one shard at a time."""
    parts = []
    for rows in np.split(members, np.flatnonzero(np.diff(candidates.shard[members])) + 1):
        shard = shards[candidates.shard[rows[0]]]
        names = read_hashes(context.table_path("images", shard), context.kind, ["name"])["name"]
        parts.append(names.take(pa.array(candidates.row[rows])).cast(pa.large_string()).combine_chunks())
    return pa.concat_arrays(parts)


# --- search -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchWork:
    """The inputs of a worker's search."""

    folder: Path
    plan: SearchPlan
    num_values: int
    rows_at_once: int

    @property
    def num_chunks(self) -> int:
        """Number of chunks of `rows_at_once` hashes; more than one are sorted on disk."""
        return -(-self.num_values // self.rows_at_once)

    def chunks(self) -> list[Shard]:
        return [Shard(name=f"chunk_{chunk:05}", path="") for chunk in range(self.num_chunks)]

    @property
    def num_parts(self) -> int:
        """Number of ranges of the highest bits, a power of two; a range has about a chunk's size.

        There are at most as many as the leading bits distinguish, so no run of equal leading bits is cut.
        """
        fewest_bits = min(self.plan.leading_bits(choice) for choice in range(len(self.plan.choices)))
        return 1 << min((self.num_chunks - 1).bit_length(), fewest_bits)

    def rounds(self) -> list[range]:
        """Return the sorted orders in groups that are on disk at the same time."""
        num_orders = len(self.plan.choices)
        per_round = num_orders if self.num_chunks == 1 else ORDERS_ON_DISK
        return [range(first, min(first + per_round, num_orders)) for first in range(0, num_orders, per_round)]

    def sorted_folder(self, orders: range) -> Path:
        return self.folder / "shuffled" / f"{orders.start:05}"

    def sorted_path(self, orders: range, choice: int, chunk: Shard) -> Path:
        return self.sorted_folder(orders) / f"{choice:05}" / f"{chunk.name}.npy"

    def load_values(self) -> np.ndarray:
        """Return all hashes, memory-mapped."""
        values: np.ndarray = np.load(self.folder / "values.npy", mmap_mode="r", allow_pickle=False)
        return values


def search(
    values: np.ndarray, radius: int, folder: Path, executor: Executor, *, rows_at_once: int = ROWS_AT_ONCE
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[int]]:
    """Return (edges that join all near pairs of `values`, number of near pairs by distance).

    values: uint64, sorted, unique.  The edges of a unit are a forest, so there are at most as many as hashes, however
    many pairs are near.  An interrupted search resumes from the files in `folder`.
    """
    write_array(folder / "values.npy", values)
    plan = neighbours.plan_search(len(values), radius)
    work = SearchWork(folder=folder, plan=plan, num_values=len(values), rows_at_once=rows_at_once)
    key = {"values": hashlib.sha256(values.data).hexdigest(), "radius": radius, "rows_at_once": rows_at_once}
    histogram = np.zeros(radius + 1, np.int64)
    all_units: list[Shard] = []
    for orders in work.rounds():
        units = _units(work, orders)
        if work.num_chunks > 1 and not are_done(units, layout.done_dir(folder), key):
            sort_chunk = functools.partial(_sort_chunk, work=work, orders=orders)
            done_dir = layout.done_dir(work.sorted_folder(orders))
            executor.map(sort_chunk, work.chunks(), label="shuffle", done_dir=done_dir, key=key)
        search_unit = functools.partial(_search_unit, work=work, orders=orders)
        for report in executor.map(search_unit, units, label="search", done_dir=layout.done_dir(folder), key=key):
            histogram += report["histogram"]
        remove(work.sorted_folder(orders))
        all_units += units
    paths = [folder / f"{unit.name}.npy" for unit in all_units]
    markers = [layout.marker(folder, unit.name) for unit in all_units]
    remove_stale(folder, [folder / "values.npy", *paths, *markers])
    edges = (np.load(path, allow_pickle=False) for path in paths)
    return [(pairs[:, 0], pairs[:, 1]) for pairs in edges], histogram.tolist()


def _units(work: SearchWork, orders: range) -> list[Shard]:
    """Return units of about WORK_OF_UNIT: a range of the orders in one part of the hashes."""
    num_units = max(1, min(len(orders), work.num_values * len(orders) // work.num_parts // WORK_OF_UNIT))
    bounds = [orders.start + len(orders) * n // num_units for n in range(num_units + 1)]
    return [
        Shard(name=f"edges_{first:05}_{part:05}", path="", fingerprint={"choices": [first, end], "part": part})
        for first, end in pairwise(bounds)
        for part in range(work.num_parts)
    ]


def _sort_chunk(chunk: Shard, *, work: SearchWork, orders: range) -> Report:
    """Write a chunk of the hashes, sorted in each of the orders."""
    first = int(chunk.name.removeprefix("chunk_")) * work.rows_at_once
    values = work.load_values()[first : first + work.rows_at_once]
    for choice in orders:
        moved = neighbours.move_bits(values, work.plan, choice)
        moved.sort()
        write_array(work.sorted_path(orders, choice, chunk), moved)
    return {}


def _search_unit(unit: Shard, *, work: SearchWork, orders: range) -> Report:
    """Write a forest of edges, (n, 2) uint64, that joins the near pairs of the unit's orders and part."""
    plan = work.plan
    histogram = np.zeros(plan.radius + 1, np.int64)
    forests = [np.empty((0, 2), np.uint64)]
    first, end = unit.fingerprint["choices"]
    for choice in range(first, end):
        moved = _read_part(work, orders, choice, unit.fingerprint["part"])
        parent = np.arange(len(moved), dtype=np.int64)

        def add_pairs(a: np.ndarray, b: np.ndarray, distance: np.ndarray, parent: np.ndarray = parent) -> None:
            unite(parent, a, b)
            histogram[:] += np.bincount(distance, minlength=len(histogram))

        neighbours.scan(moved, plan, choice, add_pairs)
        root = all_roots(parent)
        joined = np.flatnonzero(root != np.arange(len(root)))
        ends = [neighbours.move_back(moved[rows], plan, choice) for rows in (joined, root[joined])]
        forests.append(np.stack(ends, axis=1))
    write_array(work.folder / f"{unit.name}.npy", np.concatenate(forests))
    return {"histogram": histogram.tolist()}


def _read_part(work: SearchWork, orders: range, choice: int, part: int) -> np.ndarray:
    """Return the hashes of one part (a range of the highest bits), moved, and sorted by the order's leading bits."""
    if work.num_chunks == 1:
        moved = neighbours.move_bits(work.load_values(), work.plan, choice)
        return neighbours.sort_leading(moved, work.plan.leading_bits(choice))
    width = 2**HASH_BITS // work.num_parts
    low, high = np.uint64(part * width), np.uint64((part + 1) * width - 1)
    slices = []
    for chunk in work.chunks():
        moved = np.load(work.sorted_path(orders, choice, chunk), mmap_mode="r", allow_pickle=False)
        slices.append(moved[np.searchsorted(moved, low) : np.searchsorted(moved, high, side="right")])
    merged = np.concatenate(slices)
    merged.sort()
    return merged
