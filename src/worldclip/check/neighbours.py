"""Find all pairs of 64-bit hashes within a Hamming radius: exact, in bounded memory, without comparing all with all.

Cut the 64 bits into m bands.  Two hashes that differ in at most r bits are equal in at least k = m - r bands.  For each
choice of k bands, move these bands to the front of every hash, sort, and compare only hashes that are equal in them.
Every near pair then meets at least once, inside a run of equal leading bits that is a few hashes long.  Tables move the
bits, hashes carry no row numbers, and only the leading bits are sorted.

A pair meets in each choice of k of its equal bands.  It is reported in the first of these choices, so no pair is
reported twice and no set of seen pairs is needed.

References: Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", 2012 (bands);
Manku, Jain, Das Sarma, "Detecting near-duplicates for web crawling", WWW 2007 (sorted permutations).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from worldclip.check.config import MAX_RADIUS
from worldclip.kernels.compiled import compiled

HASH_BITS = 64
PAIRS_AT_ONCE = 1 << 20  # pairs that a scan holds before it hands them over

# These only choose m.  The frequencies of photographs are correlated, so a bit of a band separates hashes like
# _BIT_WORTH independent bits (0.9 to 0.97 on CIFAR-10).
_SORT_NS = 15.0  # time to sort one hash
_COMPARE_NS = 1.2  # time to compare one pair
_BIT_WORTH = 0.9


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """The bands, and which of them come first in each sorted order."""

    radius: int
    bands: tuple[int, ...]
    """Masks of the bands; each of the 64 bits is in one."""
    choices: tuple[tuple[int, ...], ...]
    """For each sorted order, the bands that come first."""

    @property
    def num_equal(self) -> int:
        """Number of bands in which near hashes must be equal."""
        return len(self.bands) - self.radius

    def leading_bits(self, choice: int) -> int:
        """Return the number of bits in the bands that come first."""
        return sum(self.bands[band].bit_count() for band in self.choices[choice])


def plan_search(num_hashes: int, radius: int) -> SearchPlan:
    """Return the cheapest plan for `num_hashes` hashes.  Raises ValueError for a radius out of 0..MAX_RADIUS."""
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius = {radius}: must be between 0 and {MAX_RADIUS} (differing bits of 64)")

    def cost_ns(num_equal: int) -> float:
        num_bands = radius + num_equal
        bits = _BIT_WORTH * HASH_BITS * num_equal / num_bands
        compared = num_hashes**2 / 2 / 2**bits
        return math.comb(num_bands, num_equal) * (num_hashes * _SORT_NS + compared * _COMPARE_NS)

    return make_plan(radius, min(range(1, 7), key=cost_ns) if radius else 1)


def make_plan(radius: int, num_equal: int) -> SearchPlan:
    """Return the plan whose choices are all sets of `num_equal` of radius + num_equal bands."""
    num_bands = radius + num_equal
    # Band b holds bits b, b + m, b + 2m, ...: adjacent frequencies are correlated, so each band takes distant ones.
    every_mth_bit = sum(1 << bit for bit in range(0, HASH_BITS, num_bands))
    bands = tuple((every_mth_bit << band) % 2**HASH_BITS for band in range(num_bands))
    return SearchPlan(radius, bands, tuple(itertools.combinations(range(num_bands), num_equal)))


def near_pairs(hashes: np.ndarray, radius: int, *, threads: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs of different values in `hashes` (uint64) that differ in at most `radius` bits.

    The result is (first, second, distance): uint64, uint64, uint8, first < second, sorted by first, then second.
    Memory: 16 bytes per hash, and another 16 per hash and thread.
    """
    values = unique(hashes)
    plan = plan_search(len(values), radius)

    def search(choice: int) -> list[np.ndarray]:
        blocks: list[np.ndarray] = []
        moved = sort_leading(move_bits(values, plan, choice), plan.leading_bits(choice))

        def add_pairs(a: np.ndarray, b: np.ndarray, distance: np.ndarray) -> None:
            ends = [move_back(moved[rows], plan, choice) for rows in (a, b)]
            blocks.append(np.stack([np.minimum(*ends), np.maximum(*ends), distance.astype(np.uint64)], axis=1))

        scan(moved, plan, choice, add_pairs)
        return blocks

    with ThreadPoolExecutor(threads) as pool:
        blocks = list(itertools.chain.from_iterable(pool.map(search, range(len(plan.choices)))))
    pairs = np.concatenate(blocks) if blocks else np.empty((0, 3), np.uint64)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return pairs[:, 0].copy(), pairs[:, 1].copy(), pairs[:, 2].astype(np.uint8)


def unique(hashes: np.ndarray) -> np.ndarray:
    """Return the different values, uint64, sorted.  numpy.unique hashes first, which takes 20 times as long."""
    values = np.sort(np.asarray(hashes, np.uint64))
    is_first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=is_first[1:])
    return values[is_first]


def scan(
    moved: np.ndarray,
    plan: SearchPlan,
    choice: int,
    add_pairs: Callable[[np.ndarray, np.ndarray, np.ndarray], Any],
) -> None:
    """Call `add_pairs(a, b, distance)` with the near pairs that this choice reports; a and b are positions in `moved`.

    moved: unique hashes with the choice's bands first (move_bits), sorted by these bits.  It may be a part of all
    hashes that cuts no run of equal leading bits.
    """
    shift = np.uint64(HASH_BITS - plan.leading_bits(choice))
    back = _tables(_order(plan, choice), back=True)
    bands = np.array(plan.bands, np.uint64)
    chosen = np.array(plan.choices[choice], np.int64)
    first, second = np.empty(PAIRS_AT_ONCE, np.int64), np.empty(PAIRS_AT_ONCE, np.int64)
    distance = np.empty(PAIRS_AT_ONCE, np.uint8)
    start = (0, 1)
    while start[0] < len(moved):
        a, b, num_pairs = _scan(moved, shift, plan.radius, bands, chosen, back, start, first, second, distance)
        if num_pairs:
            add_pairs(first[:num_pairs].copy(), second[:num_pairs].copy(), distance[:num_pairs].copy())
        start = (a, b)


# --- moving bits ------------------------------------------------------------------------------------------------------


def _order(plan: SearchPlan, choice: int) -> list[int]:
    """Return the bit positions of a hash in the order of the moved hash, highest first.

    The low bits of a band come first.  They are its high frequencies, which are 0 and 1 equally often, so ranges of the
    moved hashes have equal sizes.
    """
    chosen = plan.choices[choice]
    rest = [band for band in range(len(plan.bands)) if band not in chosen]
    return [bit for band in (*chosen, *rest) for bit in range(HASH_BITS) if plan.bands[band] >> bit & 1]


def _tables(order: list[int], *, back: bool) -> np.ndarray:
    """Return (8, 256) uint64: what each value of each byte becomes; a moved hash is the OR over its eight bytes."""
    moves = [(bit, HASH_BITS - 1 - place) for place, bit in enumerate(order)]
    if back:
        moves = [(to, bit) for bit, to in moves]
    tables = np.zeros((8, 256), np.uint64)
    byte_values = np.arange(256, dtype=np.uint64)
    for bit, to in moves:
        tables[bit // 8] |= (byte_values >> np.uint64(bit % 8) & np.uint64(1)) << np.uint64(to)
    return tables


def move_bits(hashes: np.ndarray, plan: SearchPlan, choice: int) -> np.ndarray:
    """Return the hashes with the choice's bands as their highest bits; a permutation of bits keeps distances."""
    moved: np.ndarray = _move(hashes, _tables(_order(plan, choice), back=False))
    return moved


def move_back(moved: np.ndarray, plan: SearchPlan, choice: int) -> np.ndarray:
    """Undo `move_bits`."""
    hashes: np.ndarray = _move(moved, _tables(_order(plan, choice), back=True))
    return hashes


@njit(cache=True, nogil=True, inline="always")
def _move_one(value, tables):
    out = np.uint64(0)
    for byte in range(8):
        out |= tables[byte, np.int64(value >> np.uint64(8 * byte) & np.uint64(255))]
    return out


@compiled
def _move(values, tables):
    out = np.empty(len(values), np.uint64)
    for i in range(len(values)):
        out[i] = _move_one(values[i], tables)
    return out


_DIGIT_BITS = 11  # the 2,048 write positions of a radix pass fit the L1 and L2 caches


def sort_leading(moved: np.ndarray, bits: int) -> np.ndarray:
    """Return `moved` sorted by its highest `bits` only, stable: radix passes from the lowest of these bits up."""
    low = HASH_BITS - bits
    while low < HASH_BITS:
        moved = _sort_digit(moved, np.uint64(low), min(_DIGIT_BITS, HASH_BITS - low))
        low += _DIGIT_BITS
    return moved


@compiled
def _sort_digit(values, low, digit_bits):
    mask = np.uint64((1 << digit_bits) - 1)
    place = np.zeros((1 << digit_bits) + 1, np.int64)
    for i in range(len(values)):
        place[np.int64(values[i] >> low & mask) + 1] += 1
    for digit in range(1 << digit_bits):
        place[digit + 1] += place[digit]
    out = np.empty(len(values), np.uint64)
    for i in range(len(values)):
        at = np.int64(values[i] >> low & mask)
        out[place[at]] = values[i]
        place[at] += 1
    return out


# --- comparing --------------------------------------------------------------------------------------------------------


def _popcount(typing_context: Any, value: Any) -> Any:
    """Count the set bits of a uint64 in one instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count = builder.ctpop(arguments[0])
        assert count.type == ir.IntType(64)
        return count

    return types.int64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


@compiled
def hamming(a, b):
    """Return the number of differing bits, (n,) uint8, of a and b, (n,) uint64."""
    out = np.empty(len(a), np.uint8)
    for i in range(len(a)):
        out[i] = popcount(a[i] ^ b[i])
    return out


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
def _scan(moved, shift, radius, bands, chosen, back, start, first, second, distance):
    """Compare from the pair `start` until all are done or the buffers are full; return (next a, next b, num_pairs)."""
    a, b = start
    num_pairs = 0
    while a < len(moved):
        leading = moved[a] >> shift if shift < np.uint64(64) else np.uint64(0)
        while b < len(moved) and (shift == np.uint64(64) or moved[b] >> shift == leading):
            d = popcount(moved[a] ^ moved[b])
            if d <= radius and _is_first_meeting(_move_one(moved[a] ^ moved[b], back), bands, chosen):
                if num_pairs == len(first):
                    return a, b, num_pairs
                first[num_pairs], second[num_pairs], distance[num_pairs] = a, b, d
                num_pairs += 1
            b += 1
        a += 1
        b = a + 1
    return a, b, num_pairs


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


# --- nearest reference ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NearestIndex:
    """Index of reference hashes that finds the nearest one within a radius."""

    plan: SearchPlan
    moved: np.ndarray
    """(num_choices, num_references) uint64: the references in each sorted order."""

    @classmethod
    def build(cls, references: np.ndarray, radius: int) -> NearestIndex:
        """Return the index of `references`, (n,) uint64."""
        values = unique(references)
        plan = plan_search(len(values), radius)
        choices = range(len(plan.choices))
        moved = [sort_leading(move_bits(values, plan, choice), plan.leading_bits(choice)) for choice in choices]
        return cls(plan, np.stack(moved))

    def nearest(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for each hash (distance int16, nearest reference uint64, the smallest of equally near ones).

        Without a near reference the distance is -1 and the reference 0.
        """
        distance, nearest = np.full(len(hashes), -1, np.int16), np.zeros(len(hashes), np.uint64)
        for choice in range(len(self.plan.choices)):
            shift = np.uint64(HASH_BITS - self.plan.leading_bits(choice))
            order = _order(self.plan, choice)
            forth, back = _tables(order, back=False), _tables(order, back=True)
            _nearest(hashes, self.moved[choice], shift, self.plan.radius, forth, back, distance, nearest)
        return distance, nearest


@compiled
def _nearest(hashes, moved, shift, radius, forth, back, distance, nearest):
    for i in range(len(hashes)):
        value = _move_one(hashes[i], forth)
        leading = value >> shift
        low, high = 0, len(moved)
        while low < high:
            middle = (low + high) >> 1
            if moved[middle] >> shift < leading:
                low = middle + 1
            else:
                high = middle
        while low < len(moved) and moved[low] >> shift == leading:
            d = popcount(value ^ moved[low])
            if d <= radius and (distance[i] < 0 or d <= distance[i]):
                reference = _move_one(moved[low], back)
                if distance[i] < 0 or d < distance[i] or reference < nearest[i]:
                    distance[i], nearest[i] = d, reference
            low += 1
