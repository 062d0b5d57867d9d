"""Find all pairs of 64-bit hashes within a Hamming radius: exact, without comparing all with all.

Cut the 64 bits into m bands.  Two hashes that differ in at most r bits are equal in at least k = m - r bands.  For each
choice of k bands, sort the hashes by these bits, and compare only hashes that are equal in them.  Every near pair then
meets at least once, inside a run of equal bits that is a few hashes long.

A pair meets in each choice of k of its equal bands.  It is reported in the first of these choices, so no pair is
reported twice and no set of seen pairs is needed.

References: Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", 2012 (bands);
Manku, Jain, Das Sarma, "Detecting near-duplicates for web crawling", WWW 2007 (sorted permutations).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from worldclip.kernels.compiled import compiled

HASH_BITS = 64
PAIRS_AT_ONCE = 1 << 20  # pairs in a block: bounds the memory where most hashes are near each other
Block: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]

# These only choose k.  The frequencies of photographs are correlated, so a bit of a band separates hashes like
# _BIT_WORTH independent bits (0.9 to 0.97 on CIFAR-10).
_SORT_NS = 60.0  # time to sort one hash
_COMPARE_NS = 1.2  # time to compare one pair
_BIT_WORTH = 0.9


def choose_num_equal(num_hashes: int, radius: int) -> int:
    """Return the number of bands by which to sort, the one that takes the least time."""
    if radius == 0:
        return 1

    def cost_ns(num_equal: int) -> float:
        num_bands = radius + num_equal
        bits = _BIT_WORTH * HASH_BITS * num_equal / num_bands
        compared = num_hashes**2 / 2 / 2**bits
        return math.comb(num_bands, num_equal) * (num_hashes * _SORT_NS + compared * _COMPARE_NS)

    return min(range(1, 7), key=cost_ns)


def near_pairs(values: np.ndarray, radius: int, num_equal: int | None = None) -> Iterator[Block]:
    """Yield all pairs of `values` that differ in at most `radius` bits, each once, in blocks (first, second, distance).

    values: (n,) uint64, sorted, unique.  first, second: positions in `values`.  num_equal: bands by which to sort
    (default: the fastest).  Memory: 24 bytes per hash.
    """
    num_equal = num_equal or choose_num_equal(len(values), radius)
    num_bands = radius + num_equal
    # Band b holds bits b, b + m, b + 2m, ...: adjacent frequencies are correlated, so each band takes distant ones.
    every_mth_bit = sum(1 << bit for bit in range(0, HASH_BITS, num_bands))
    bands = np.array([(every_mth_bit << band) % 2**HASH_BITS for band in range(num_bands)], np.uint64)
    for choice in itertools.combinations(range(num_bands), num_equal):
        chosen = np.array(choice, np.int64)
        mask = np.bitwise_or.reduce(bands[chosen])
        order = np.argsort(values & mask)
        moved = values[order]
        first = np.empty(PAIRS_AT_ONCE, np.int64)  # positions in `moved`
        second = np.empty(PAIRS_AT_ONCE, np.int64)
        distance = np.empty(PAIRS_AT_ONCE, np.uint8)
        start = (0, 1)
        while start[0] < len(moved):
            a, b, num_pairs = _scan(moved, mask, radius, bands, chosen, start, first, second, distance)
            if num_pairs:
                yield order[first[:num_pairs]], order[second[:num_pairs]], distance[:num_pairs]
            start = (a, b)


def _popcount(typing_context: Any, value: Any) -> Any:
    """Count the set bits of a uint64 in one instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count = builder.ctpop(arguments[0])
        assert count.type == ir.IntType(64)
        return count

    return types.int64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


@compiled
def _is_first_meeting(difference, bands, chosen):
    """Return whether the first len(chosen) bands in which the pair is equal are `chosen`."""
    at = 0
    for band in range(len(bands)):
        if difference & bands[band] == np.uint64(0):
            if chosen[at] != band:
                return False
            at += 1
            if at == len(chosen):
                return True
    return False


@compiled
def _scan(moved, mask, radius, bands, chosen, start, first, second, distance):
    """Compare from the pair `start` until all are done or the buffers are full; return (next a, next b, num_pairs)."""
    a, b = start
    num_pairs = 0
    while a < len(moved):
        while b < len(moved) and (moved[a] ^ moved[b]) & mask == np.uint64(0):
            difference = moved[a] ^ moved[b]
            d = popcount(difference)
            if d <= radius and _is_first_meeting(difference, bands, chosen):
                if num_pairs == len(first):
                    return a, b, num_pairs
                first[num_pairs], second[num_pairs], distance[num_pairs] = a, b, d
                num_pairs += 1
            b += 1
        a += 1
        b = a + 1
    return a, b, num_pairs


def unique(hashes: np.ndarray) -> np.ndarray:
    """Return the different values, uint64, sorted.  numpy.unique hashes first, which takes 20 times as long."""
    values = np.sort(np.asarray(hashes, np.uint64))
    is_first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=is_first[1:])
    return values[is_first]


# --- nearest reference ------------------------------------------------------------------------------------------------


def nearest(hashes: np.ndarray, references: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each hash (distance int16, nearest reference uint64, the smallest of equally near ones).

    Without a reference within the radius the distance is -1 and the reference 0.
    """
    values = unique(np.concatenate([hashes, references]))
    is_reference = np.zeros(len(values), bool)
    is_reference[np.searchsorted(values, references)] = True
    # (distance, reference) as one number, so that a minimum finds the nearest.
    size = max(len(values), 1)
    none = (radius + 1) * size
    order = np.full(len(values), none, np.int64)
    order[is_reference] = np.flatnonzero(is_reference)  # itself, at distance 0
    for first, second, distance in near_pairs(values, radius):
        for here, there in ((first, second), (second, first)):
            rows = is_reference[there]
            np.minimum.at(order, here[rows], distance[rows].astype(np.int64) * size + there[rows])
    of_hash = order[np.searchsorted(values, hashes)]
    is_near = of_hash < none
    distances = np.where(is_near, of_hash // size, -1).astype(np.int16)
    nearest_values = np.zeros(len(hashes), np.uint64)
    nearest_values[is_near] = values[of_hash[is_near] % size]
    return distances, nearest_values


# --- clusters (union-find) --------------------------------------------------------------------------------------------


@compiled
def find_root(parent, i):
    """Return the root of i, halving the path on the way (Tarjan, van Leeuwen, 1984)."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def unite(parent, a, b):
    """Unite a[k] with b[k] for all k.

    The smaller root stays, not that of the larger tree, so the roots do not depend on the order of the pairs.
    """
    for k in range(len(a)):
        root_a, root_b = find_root(parent, a[k]), find_root(parent, b[k])
        if root_a < root_b:
            parent[root_b] = root_a
        elif root_b < root_a:
            parent[root_a] = root_b


@compiled
def all_roots(parent):
    """Return the smallest member of each item's cluster, (n,) int64."""
    out = np.empty(len(parent), np.int64)
    for i in range(len(parent)):
        out[i] = find_root(parent, i)
    return out


def cluster(values: np.ndarray, radius: int) -> np.ndarray:
    """Return the cluster of each value, (n,) int64: values within the radius are in one, directly or through others.

    A cluster is the position of its smallest value.  values: see near_pairs.
    """
    parent = np.arange(len(values), dtype=np.int64)
    for first, second, _ in near_pairs(values, radius):
        unite(parent, first, second)
    roots: np.ndarray = all_roots(parent)
    return roots
