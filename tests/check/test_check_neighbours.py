from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip.check import neighbours
from worldclip.check.neighbours import choose_num_equal, cluster, near_pairs, nearest, unique

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=40)


def compare_all_with_all(values: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    distances = ((a, b, (a ^ b).bit_count()) for n, a in enumerate(values.tolist()) for b in values.tolist()[n + 1 :])
    return [pair for pair in distances if pair[2] <= radius]


def with_neighbours(num_hashes: int, max_flips: int) -> np.ndarray:
    """Return random hashes, and a copy of each with up to `max_flips` bits changed, sorted."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**64, num_hashes, dtype=np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (max_flips, num_hashes), dtype=np.uint64)
    return unique(np.concatenate([base, base ^ np.bitwise_or.reduce(flips, axis=0)]))


def found(values: np.ndarray, radius: int, num_equal: int | None = None) -> list[tuple[int, int, int]]:
    """Return all pairs of near_pairs, the smaller value first, sorted; repeats of a pair stay."""
    pairs = []
    for block in near_pairs(values, radius, num_equal):
        for first, second, distance in zip(*block, strict=True):
            pairs.append((*sorted((int(values[first]), int(values[second]))), int(distance)))
    return sorted(pairs)


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 6, 8, 12])
def test_near_pairs_agree_with_comparing_all_with_all(radius: int) -> None:
    values = with_neighbours(250, max_flips=9)
    expected = compare_all_with_all(values, radius)
    assert found(values, radius) == expected
    assert len(expected) >= (100 if radius >= 8 else 0), "planted neighbours are within the radius"


@settings(max_examples=60, deadline=None)
@given(HASHES, st.lists(st.tuples(st.integers(0, 39), st.integers(0, 2**64 - 1)), max_size=20), st.integers(0, 16))
def test_near_pairs_agree_on_any_hashes(hashes: list[int], changes: list[tuple[int, int]], radius: int) -> None:
    hashes = hashes + [hashes[n] ^ (change & change >> 7 & change >> 13) for n, change in changes if n < len(hashes)]
    values = unique(np.array(hashes, np.uint64))
    assert found(values, radius) == compare_all_with_all(values, radius)


@pytest.mark.parametrize("num_equal", [1, 2, 3, 4])
def test_every_number_of_bands_finds_the_same_pairs(num_equal: int) -> None:
    values = with_neighbours(200, max_flips=6)
    assert found(values, 5, num_equal) == compare_all_with_all(values, 5)


def test_more_hashes_are_sorted_by_more_bits() -> None:
    shares = [num_equal / (num_equal + 4) for num_equal in (choose_num_equal(10**n, 4) for n in (3, 6, 9))]
    assert shares == sorted(shares)
    assert shares[0] < shares[2]


def test_full_blocks_lose_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(100, dtype=np.uint64)  # any two are within 7 bits
    monkeypatch.setattr(neighbours, "PAIRS_AT_ONCE", 7)
    assert len(found(values, 7)) == 100 * 99 // 2
    assert set(cluster(values, 7).tolist()) == {0}


@settings(max_examples=50, deadline=None)
@given(HASHES, st.lists(st.tuples(st.integers(0, 39), st.integers(0, 63)), max_size=40), st.integers(0, 4))
def test_clusters_are_joined_through_chains(hashes: list[int], flips: list[tuple[int, int]], radius: int) -> None:
    for n, bit in flips:
        hashes = [*hashes, hashes[n] ^ 1 << bit] if n < len(hashes) else hashes
    values = unique(np.array(hashes, np.uint64))
    reached = {value: {value} for value in values.tolist()}
    for a, b, _ in compare_all_with_all(values, radius):
        whole = reached[a] | reached[b]
        for value in whole:
            reached[value] = whole
    smallest = [int(values[root]) for root in cluster(values, radius)]
    assert smallest == [min(reached[value]) for value in values.tolist()]


@settings(max_examples=40, deadline=None)
@given(HASHES, HASHES, st.integers(0, 16))
def test_nearest_agrees_with_comparing_all_references(references: list[int], others: list[int], radius: int) -> None:
    queries = others + [value ^ 0b1011 << n for n, value in enumerate(references)] + references[:1]
    queries = [query % 2**64 for query in queries]
    distances, values = nearest(np.array(queries, np.uint64), np.array(references, np.uint64), radius)
    for query, d, reference in zip(queries, distances.tolist(), values.tolist(), strict=True):
        expected = min((((query ^ other).bit_count(), other) for other in references), default=(65, 0))
        assert (d, reference) == (expected if expected[0] <= radius else (-1, 0))
