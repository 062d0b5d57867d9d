from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldclip.execute import LocalExecutor
from worldclip.pool.check import duplicates
from worldclip.pool.check.duplicates import search
from worldclip.pool.check.neighbours import all_roots, hamming, near_pairs, unite


def chained_hashes(seed: int = 0) -> np.ndarray:
    """Random hashes, and chains of small steps away from some."""
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


@pytest.mark.parametrize("chunk", [1 << 26, 200])
@pytest.mark.parametrize("unit", [20_000_000, 1000])
def test_a_search_in_parts_on_disk_joins_what_near_pairs_joins(
    chunk: int, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "ROWS_AT_ONCE", chunk)
    monkeypatch.setattr(duplicates, "WORK_OF_UNIT", unit)
    values = chained_hashes()
    first, second, distance = near_pairs(values, 4)
    edges, histogram = search(values, 4, tmp_path, LocalExecutor(quiet=True))
    assert clusters(values, edges) == clusters(values, [(first, second)])
    assert histogram == np.bincount(distance, minlength=5).tolist()
    assert len(first) >= 400
    assert not list(tmp_path.glob("shuffled/**/*.npy")), "what was sorted on disk is gone"


def test_edges_are_near_and_few(tmp_path: Path) -> None:
    values = np.arange(512, dtype=np.uint64)  # any two are within 9 bits: 130,816 pairs
    edges, histogram = search(values, 9, tmp_path, LocalExecutor(quiet=True))
    assert sum(histogram) == 512 * 511 // 2
    assert sum(len(a) for a, _ in edges) < 512 * 20, "a forest for each sorted order, not all pairs"
    assert len(set(clusters(values, edges))) == 1


def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "WORK_OF_UNIT", 1000)
    values = chained_hashes()
    expected = search(values, 4, tmp_path / "whole", LocalExecutor(quiet=True))
    search(values, 4, tmp_path / "cut", LocalExecutor(quiet=True))
    markers = sorted((tmp_path / "cut" / "done").glob("*.json"))
    assert len(markers) > 2
    for marker in markers[::2]:
        marker.unlink()
    edges, histogram = search(values, 4, tmp_path / "cut", LocalExecutor(quiet=True))
    assert histogram == expected[1]
    assert clusters(values, edges) == clusters(values, expected[0])


def test_other_hashes_are_searched_anew(tmp_path: Path) -> None:
    one, two = chained_hashes(0), chained_hashes(1)
    search(one, 4, tmp_path, LocalExecutor(quiet=True))
    edges, _ = search(two, 4, tmp_path, LocalExecutor(quiet=True))
    first, second, _ = near_pairs(two, 4)
    assert clusters(two, edges) == clusters(two, [(first, second)])
    assert (hamming(first, second) <= 4).all()
