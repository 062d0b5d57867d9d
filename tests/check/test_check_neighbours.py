from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip.check import neighbours
from worldclip.check.neighbours import NearestIndex, all_roots, hamming, make_plan, near_pairs, plan_search, unite

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=40)


def compare_all_with_all(hashes: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    values = sorted({int(value) for value in hashes})
    distances = ((a, b, (a ^ b).bit_count()) for n, a in enumerate(values) for b in values[n + 1 :])
    return [pair for pair in distances if pair[2] <= radius]


def with_neighbours(num_hashes: int, max_flips: int, seed: int = 0) -> np.ndarray:
    """Return random hashes, and a copy of each with up to `max_flips` bits changed."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, num_hashes, dtype=np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (max_flips, num_hashes), dtype=np.uint64)
    return np.concatenate([base, base ^ np.bitwise_or.reduce(flips, axis=0)])


def as_tuples(pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[tuple[int, int, int]]:
    return list(zip(*(column.tolist() for column in pairs), strict=True))


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 6, 8, 12])
def test_near_pairs_agree_with_comparing_all_with_all(radius: int) -> None:
    hashes = with_neighbours(250, max_flips=9)
    expected = compare_all_with_all(hashes, radius)
    assert as_tuples(near_pairs(hashes, radius)) == expected
    assert len(expected) >= (100 if radius >= 8 else 0), "planted neighbours are within the radius"


@settings(max_examples=60, deadline=None)
@given(HASHES, st.lists(st.tuples(st.integers(0, 39), st.integers(0, 2**64 - 1)), max_size=20), st.integers(0, 16))
def test_near_pairs_agree_on_any_hashes(values: list[int], changes: list[tuple[int, int]], radius: int) -> None:
    values = values + [values[n] ^ (change & change >> 7 & change >> 13) for n, change in changes if n < len(values)]
    hashes = np.array(values, np.uint64)
    assert as_tuples(near_pairs(hashes, radius)) == compare_all_with_all(hashes, radius)


@pytest.mark.parametrize("num_equal", [1, 2, 3, 4])
def test_every_plan_finds_the_same_pairs(num_equal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = with_neighbours(200, max_flips=6)
    monkeypatch.setattr(neighbours, "plan_search", lambda num_hashes, radius: make_plan(radius, num_equal))
    assert as_tuples(near_pairs(hashes, 5)) == compare_all_with_all(hashes, 5)


@pytest.mark.slow
def test_full_buffers_lose_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.arange(300, dtype=np.uint64)  # every pair is near
    expected = as_tuples(near_pairs(hashes, 9))
    monkeypatch.setattr(neighbours, "PAIRS_AT_ONCE", 7)
    assert as_tuples(near_pairs(hashes, 9)) == expected
    assert len(expected) == 300 * 299 // 2


def test_result_is_independent_of_order_repeats_and_threads() -> None:
    hashes = with_neighbours(500, max_flips=4)
    expected = as_tuples(near_pairs(hashes, 4))
    shuffled = np.random.default_rng(1).permutation(np.concatenate([hashes, hashes[:100]]))
    assert as_tuples(near_pairs(shuffled, 4, threads=3)) == expected


def test_each_bit_is_in_one_band() -> None:
    for radius in range(17):
        plan = plan_search(10**7, radius)
        assert sum(plan.bands) == 2**64 - 1
        assert len(plan.bands) == radius + plan.num_equal


def test_more_hashes_get_more_leading_bits() -> None:
    bits = [plan_search(num_hashes, 4).leading_bits(0) for num_hashes in (10**3, 10**6, 10**9)]
    assert bits == sorted(bits)
    assert bits[0] < bits[2]


def test_radius_out_of_range_raises() -> None:
    with pytest.raises(ValueError, match="between 0 and 16"):
        near_pairs(np.zeros(2, np.uint64), 17)


def test_hamming_counts_differing_bits() -> None:
    a, b = np.array([0, 5, 2**64 - 1], np.uint64), np.array([0, 6, 0], np.uint64)
    assert hamming(a, b).tolist() == [0, 2, 64]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30), st.randoms())
def test_clusters_are_independent_of_the_order_of_pairs(pairs: list[tuple[int, int]], random) -> None:
    def clusters(ordered: list[tuple[int, int]]) -> list[int]:
        parent = np.arange(20)
        table = np.array(ordered, np.int64).reshape(-1, 2)
        unite(parent, table[:, 0], table[:, 1])
        return all_roots(parent).tolist()

    shuffled = [(b, a) for a, b in random.sample(pairs, len(pairs))]
    reached = {n: {n} for n in range(20)}
    for a, b in pairs:
        whole = reached[a] | reached[b]
        for n in whole:
            reached[n] = whole
    assert clusters(pairs) == clusters(shuffled) == [min(reached[n]) for n in range(20)]


@settings(max_examples=40, deadline=None)
@given(HASHES.filter(bool), HASHES, st.integers(0, 16))
def test_nearest_agrees_with_comparing_all_references(references: list[int], others: list[int], radius: int) -> None:
    queries = others + [value ^ 0b1011 << n for n, value in enumerate(references)]
    index = NearestIndex.build(np.array(references, np.uint64), radius)
    distance, nearest = index.nearest(np.array(queries, np.uint64))
    for query, d, reference in zip(queries, distance.tolist(), nearest.tolist(), strict=True):
        expected = min(((query ^ other).bit_count(), other) for other in references)
        assert (d, reference) == (expected if expected[0] <= radius else (-1, 0))
