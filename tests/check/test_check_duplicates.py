from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages import QUIET
from worldclip.check import duplicates
from worldclip.check.duplicates import search
from worldclip.check.neighbours import all_roots, near_pairs, unite
from worldclip.core.execute import LocalExecutor, Shard
from worldclip.core.execute.shards import Outcome, ShardWork


def chained_hashes(seed: int = 0) -> np.ndarray:
    """Return random hashes, and chains of small steps away from some."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 400, dtype=np.uint64)
    steps = np.uint64(1) << rng.integers(0, 64, (5, 3, 100), dtype=np.uint64)
    chains = [hashes[:100]]
    for step in steps:
        chains.append(chains[-1] ^ np.bitwise_or.reduce(step, axis=0))
    return np.unique(np.concatenate([hashes, *chains]))


def clusters(values: np.ndarray, edges: list[tuple[np.ndarray, np.ndarray]]) -> list[int]:
    parent = np.arange(len(values))
    for a, b in edges:
        unite(parent, np.searchsorted(values, a), np.searchsorted(values, b))
    return all_roots(parent).tolist()


def compared(values: np.ndarray, radius: int) -> tuple[list[int], list[int]]:
    """Return the clusters, and the number of pairs by distance, of all near pairs."""
    first, second, distance = near_pairs(values, radius)
    return clusters(values, [(first, second)]), np.bincount(distance, minlength=radius + 1).tolist()


@pytest.mark.parametrize(
    ("radius", "chunk", "unit"),
    [
        *itertools.product([4], [1 << 26, 200], [20_000_000, 1000]),
        (16, 30, 20_000_000),  # more parts than leading bits can tell apart
    ],
)
def test_search_on_disk_gives_the_clusters_of_near_pairs(
    radius: int, chunk: int, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "WORK_OF_UNIT", unit)
    values = chained_hashes()
    edges, histogram = search(values, radius, tmp_path, QUIET, rows_at_once=chunk)
    assert (clusters(values, edges), histogram) == compared(values, radius)
    assert sum(histogram) >= 400
    assert not list(tmp_path.glob("shuffled/**/*.npy")), "sorted chunks are removed"
    again, counts = search(values, radius, tmp_path, _Idle(quiet=True), rows_at_once=chunk)
    np.testing.assert_array_equal(np.concatenate(again, axis=1), np.concatenate(edges, axis=1))
    assert counts == histogram


@pytest.mark.parametrize(("mirrored", "distance"), [(False, 6), (True, 2)])
def test_distance_is_that_of_the_mirror_image_only_if_it_counts(monkeypatch, mirrored: bool, distance: int) -> None:
    """Chains join images that are far from the one that stays."""
    found = duplicates.Candidates(
        shard=np.zeros(2, np.int32),
        row=np.arange(2, dtype=np.int32),
        digest=np.arange(4, dtype=np.uint64).reshape(2, 2),
        has_hash=np.ones(2, bool),
        hash=np.array([0b111111, 0], np.uint64),
        mirrored=np.array([0b11, 0], np.uint64),
        num_pixels=np.array([1, 2]),
    )
    monkeypatch.setattr(duplicates, "_read_keys", lambda *given: pa.array(["a", "b"], pa.large_string()))
    context: Any = SimpleNamespace(config=SimpleNamespace(mirrored=mirrored))
    (row,) = duplicates._choose(context, [], found, np.zeros(2, np.int64)).to_pylist()
    assert (row["key"], row["other_key"], row["distance"]) == ("a", "b", distance)


class _Idle(LocalExecutor):
    """Fail if any unit is not finished."""

    def _run(self, work: ShardWork, todo: Sequence[Shard]) -> Iterator[tuple[str, Outcome]]:
        raise AssertionError(f"{len(todo)} units would run again")


def test_disk_holds_orders_on_disk_sorted_orders_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "ORDERS_ON_DISK", 2)
    values, most = chained_hashes(), 0

    class Watched(LocalExecutor):
        def map(self, *args: Any, **options: Any) -> Any:
            nonlocal most
            reports = super().map(*args, **options)
            most = max(most, len({path.parent for path in tmp_path.glob("shuffled/*/*/*.npy")}))
            return reports

    edges, histogram = search(values, 4, tmp_path, Watched(quiet=True), rows_at_once=200)
    assert (clusters(values, edges), histogram) == compared(values, 4)
    assert most == 2


def test_edges_are_a_forest_not_all_pairs(tmp_path: Path) -> None:
    values = np.arange(512, dtype=np.uint64)  # any two are within 9 bits: 130,816 pairs
    edges, histogram = search(values, 9, tmp_path, QUIET)
    assert sum(histogram) == 512 * 511 // 2
    assert sum(len(a) for a, _ in edges) < 512 * 20, "one forest per sorted order, not all pairs"
    assert len(set(clusters(values, edges))) == 1


@pytest.mark.parametrize("chunk", [1 << 26, 200])
def test_interrupted_search_resumes(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "WORK_OF_UNIT", 1000)
    values = chained_hashes()
    expected = search(values, 4, tmp_path / "whole", QUIET, rows_at_once=chunk)
    search(values, 4, tmp_path / "cut", QUIET, rows_at_once=chunk)
    markers = sorted((tmp_path / "cut" / "done").glob("*.json"))
    assert len(markers) > 2
    for marker in markers[::2]:
        marker.unlink()
    edges, histogram = search(values, 4, tmp_path / "cut", QUIET, rows_at_once=chunk)
    assert histogram == expected[1]
    assert clusters(values, edges) == clusters(values, expected[0])


def test_changed_hashes_are_searched_again(tmp_path: Path) -> None:
    one, two = chained_hashes(0), chained_hashes(1)
    search(one, 4, tmp_path, QUIET)
    edges, histogram = search(two, 4, tmp_path, QUIET)
    assert (clusters(two, edges), histogram) == compared(two, 4)
