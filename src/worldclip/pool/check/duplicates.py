"""Groups of duplicates among the pairs that are left, and the one of each group that stays.

The search is a map over units, each a few of the sorted orders of neighbours.py.  More hashes than ROWS_AT_ONCE are
first written to disk in each sorted order, a chunk at a time; a unit then reads a range of leading bits of all chunks.
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

from worldclip.execute import Executor, Report, Shard, remove_stale
from worldclip.formats import REMOVED, read_table, write_array
from worldclip.pool.check.config import CheckConfig
from worldclip.pool.check.images import HashKind, read_hashes
from worldclip.pool.check.judge import judged_path
from worldclip.pool.check.neighbours import (
    HASH_BITS,
    SearchPlan,
    all_roots,
    hamming,
    move_back,
    move_bits,
    plan_search,
    scan,
    sort_leading,
    unite,
)

DUPLICATE_RULES = BYTE_DUPLICATE, NEAR_DUPLICATE = "byte_duplicate", "near_duplicate"

ROWS_AT_ONCE = 1 << 26  # hashes that a search holds at a time: 1 GiB for a unit
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


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A pair that goes because another one stays."""

    key: str
    rule: str
    stays: str
    distance: int


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
) -> tuple[dict[int, list[Duplicate]], list[int]]:
    """({position of a shard: its duplicates}, pairs of different hashes by distance)."""
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
    values = np.unique(np.concatenate([side[rows] for side in sides]))
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


def _choose(
    folder: Path, shards: Sequence[Shard], left: Survivors, root: np.ndarray, kind: HashKind
) -> dict[int, list[Duplicate]]:
    """In each group the largest image stays, of equal ones that with the smallest key."""
    size = np.bincount(root, minlength=len(root))
    members = np.flatnonzero(size[root] > 1)
    if not len(members):
        return {}
    key = np.empty(len(members), object)
    for position in np.unique(left.shard[members]):
        here = left.shard[members] == position
        names = read_hashes(folder / "images" / f"{shards[position].name}.parquet", kind, ["name"])["name"]
        key[here] = names.take(pa.array(left.row[members[here]])).to_pylist()
    table = pa.table(
        {"root": root[members], "pixels": left.num_pixels[members], "key": pa.array(key, pa.string()), "at": members}
    )
    order = pc.sort_indices(
        table, [("root", "ascending"), ("pixels", "descending"), ("key", "ascending"), ("at", "ascending")]
    ).to_numpy()
    sorted_root = root[members][order]
    stays = order[np.searchsorted(sorted_root, root[members], side="left")]  # position in members
    goes = np.flatnonzero(stays != np.arange(len(members)))
    a, b = members[goes], members[stays[goes]]
    distance = np.minimum(hamming(left.hash[a], left.hash[b]), hamming(left.mirrored[a], left.hash[b]))
    distance = np.where(left.has_hash[a] & left.has_hash[b], distance, 0)
    same_file = (left.digest[a] == left.digest[b]).all(axis=1)
    found: dict[int, list[Duplicate]] = {}
    for n, at in enumerate(goes):
        rule = BYTE_DUPLICATE if same_file[n] else NEAR_DUPLICATE
        one = Duplicate(key[at], rule, key[stays[at]], int(distance[n]))
        found.setdefault(int(left.shard[a[n]]), []).append(one)
    return found


# --- search -----------------------------------------------------------------------------------------------------------


def search(
    values: np.ndarray, radius: int, folder: Path, executor: Executor
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[int]]:
    """Edges that join all near pairs of `values` (uint64, sorted, unique), and the number of pairs by distance.

    Each unit's edges are a forest: as many as there are hashes at most, however many pairs there are.
    """
    write_array(folder / "values.npy", values)
    plan = plan_search(len(values), radius)
    num_chunks = -(-len(values) // ROWS_AT_ONCE)
    key = {"values": hashlib.sha256(values.tobytes()).hexdigest(), "radius": radius, "chunk": ROWS_AT_ONCE}
    num_parts = 1
    if num_chunks > 1:
        num_parts = 1 << (num_chunks - 1).bit_length()
        chunks = [Shard(name=f"chunk_{chunk:05}", path=str(folder)) for chunk in range(num_chunks)]
        shuffle = functools.partial(_shuffle_chunk, plan=plan, folder=folder)
        executor.map(shuffle, chunks, label="shuffle", done_dir=folder / "done", key=key)
    units = _units(plan, len(values), num_parts)
    work = functools.partial(_search_unit, plan=plan, folder=folder, num_chunks=num_chunks, num_parts=num_parts)
    reports = executor.map(work, units, label="search", done_dir=folder / "done", key=key)
    edges = []
    for unit in units:
        pairs = np.load(folder / f"{unit.name}.npy", allow_pickle=False)
        edges.append((pairs[:, 0], pairs[:, 1]))
    remove_stale(folder / "shuffled", [])
    return edges, [sum(counts) for counts in zip(*(report["histogram"] for report in reports), strict=True)]


def _units(plan: SearchPlan, num_values: int, num_parts: int) -> list[Shard]:
    """Ranges of choices, each of about WORK_OF_UNIT, in each part; named and described by their numbers."""
    num_choices = len(plan.choices)
    num_units = max(1, min(num_choices, num_values * num_choices // num_parts // WORK_OF_UNIT))
    bounds = [num_choices * n // num_units for n in range(num_units + 1)]
    return [
        Shard(name=f"edges_{first:05}_{part:05}", path="", fingerprint={"choices": [first, end], "part": part})
        for first, end in pairwise(bounds)
        for part in range(num_parts)
    ]


def _shuffle_chunk(chunk: Shard, *, plan: SearchPlan, folder: Path) -> Report:
    """Write a chunk of the hashes in each sorted order."""
    number = int(chunk.name.removeprefix("chunk_"))
    values = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)
    values = values[number * ROWS_AT_ONCE : (number + 1) * ROWS_AT_ONCE]
    for choice in range(len(plan.choices)):
        write_array(_shuffled(folder, choice, number), np.sort(move_bits(values, plan, choice)))
    return {}


def _shuffled(folder: Path, choice: int, chunk: int) -> Path:
    return folder / "shuffled" / f"{choice:05}" / f"{chunk:05}.npy"


def _search_unit(unit: Shard, *, plan: SearchPlan, folder: Path, num_chunks: int, num_parts: int) -> Report:
    """Near pairs of the unit's choices and part -> its forest of edges, (n, 2) uint64."""
    histogram = np.zeros(plan.radius + 1, np.int64)
    forests = [np.empty((0, 2), np.uint64)]
    first, end = unit.fingerprint["choices"]
    for choice in range(first, end):
        moved = _moved_part(folder, plan, choice, unit.fingerprint["part"], num_chunks, num_parts)
        parent = np.arange(len(moved), dtype=np.int64)

        def take(a: np.ndarray, b: np.ndarray, distance: np.ndarray, parent: np.ndarray = parent) -> None:
            unite(parent, a, b)
            np.add.at(histogram, distance, 1)

        scan(moved, plan, choice, take)
        root = all_roots(parent)
        joined = np.flatnonzero(root != np.arange(len(root)))
        ends = (move_back(moved[joined], plan, choice), move_back(moved[root[joined]], plan, choice))
        forests.append(np.stack(ends, axis=1))
    write_array(folder / f"{unit.name}.npy", np.concatenate(forests))
    return {"histogram": histogram.tolist()}


def _moved_part(folder: Path, plan: SearchPlan, choice: int, part: int, num_chunks: int, num_parts: int) -> np.ndarray:
    """The hashes of one part, sorted by the choice's leading bits; a part is a range of the highest bits."""
    bits = plan.leading_bits(choice)
    if num_parts == 1:
        values = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)
        return sort_leading(move_bits(values, plan, choice), bits)
    width = 2**HASH_BITS // num_parts
    low, last = np.uint64(part * width), np.uint64((part + 1) * width - 1)
    slices = []
    for chunk in range(num_chunks):
        moved = np.load(_shuffled(folder, choice, chunk), mmap_mode="r", allow_pickle=False)
        slices.append(moved[np.searchsorted(moved, low) : np.searchsorted(moved, last, side="right")])
    return sort_leading(np.concatenate(slices), bits)
