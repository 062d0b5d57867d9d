"""All pairs of 64-bit hashes within a Hamming radius: exact, in bounded memory, without comparing all with all.

Cut the 64 bits into m bands.  Two hashes that differ in at most r bits are equal in at least k = m - r bands.  So for
each choice of k bands, move these to the front of the hash, sort, and compare only hashes equal in them: every near
pair meets at least once, inside a run of equal leading bits that is a few hashes long.  The bits are moved by tables,
hashes are values without row numbers, and only the leading bits are sorted.

A pair meets in each choice of k of its equal bands and is reported in the first of them: no pair twice, no set of seen
pairs.  References: Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", 2012;
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

HASH_BITS = 64
PAIRS_AT_ONCE = 1 << 20  # pairs that a scan holds before it hands them over

# For choosing m alone: nanoseconds to sort one hash and to compare one pair, and how many independent bits a band's bit
# is worth (frequencies of photographs are correlated; 0.9 to 0.97 on CIFAR-10).
_SORT_NS, _COMPARE_NS, _BIT_WORTH = 15.0, 1.2, 0.9


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Which bits come first in each sorted order."""

    radius: int
    bands: tuple[int, ...]
    """Masks of the bands; together all 64 bits."""
    choices: tuple[tuple[int, ...], ...]
    """Each sorted order: the bands that come first."""

    @property
    def num_equal(self) -> int:
        return len(self.bands) - self.radius

    def leading_bits(self, choice: int) -> int:
        return sum(self.bands[band].bit_count() for band in self.choices[choice])


def plan_search(num_hashes: int, radius: int) -> SearchPlan:
    """The cheapest plan for `num_hashes` hashes.  Raises ValueError for a radius out of 0..MAX_RADIUS."""
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius is {radius}; it counts differing bits of 64 and must be between 0 and {MAX_RADIUS}")

    def cost_ns(num_equal: int) -> float:
        num_bands = radius + num_equal
        bits = _BIT_WORTH * HASH_BITS * num_equal / num_bands
        compared = num_hashes**2 / 2 / 2**bits
        return math.comb(num_bands, num_equal) * (num_hashes * _SORT_NS + compared * _COMPARE_NS)

    return make_plan(radius, min(range(1, 7), key=cost_ns) if radius else 1)


def make_plan(radius: int, num_equal: int) -> SearchPlan:
    """The plan whose choices are all sets of `num_equal` of radius + num_equal bands."""
    num_bands = radius + num_equal
    # Band b holds bits b, b + m, b + 2m, ...: neighbouring frequencies are alike, so each band gets some of all kinds.
    bands = tuple(sum(1 << bit for bit in range(band, HASH_BITS, num_bands)) for band in range(num_bands))
    return SearchPlan(radius, bands, tuple(itertools.combinations(range(num_bands), num_equal)))


def near_pairs(hashes: np.ndarray, radius: int, *, threads: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of different values in `hashes` (uint64) that differ in at most `radius` bits.

    Returns first, second (uint64, first < second) and distance (uint8), sorted by first, then second.  Needs 16 bytes a
    hash and another 16 for each thread.
    """
    values = unique(hashes)
    plan = plan_search(len(values), radius)

    def search(choice: int) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        moved = sort_leading(move_bits(values, plan, choice), plan.leading_bits(choice))
        scan(moved, plan, choice, lambda a, b, d: found.append(_as_values(moved, a, b, d, plan, choice)))
        return found

    with ThreadPoolExecutor(threads) as pool:
        blocks = list(itertools.chain.from_iterable(pool.map(search, range(len(plan.choices)))))
    pairs = np.concatenate(blocks) if blocks else np.empty((0, 3), np.uint64)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return pairs[:, 0].copy(), pairs[:, 1].copy(), pairs[:, 2].astype(np.uint8)


def unique(hashes: np.ndarray) -> np.ndarray:
    """The different values, uint64, sorted.  Sorting alone: numpy's own unique hashes first, at 20 times the time."""
    values = np.sort(np.asarray(hashes, np.uint64))
    is_first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=is_first[1:])
    return values[is_first]


def _as_values(
    moved: np.ndarray, a: np.ndarray, b: np.ndarray, distance: np.ndarray, plan: SearchPlan, choice: int
) -> np.ndarray:
    """(pairs, 3) uint64: the smaller hash, the larger one, distance."""
    first, second = move_back(moved[a], plan, choice), move_back(moved[b], plan, choice)
    return np.stack([np.minimum(first, second), np.maximum(first, second), distance.astype(np.uint64)], axis=1)


def scan(
    moved: np.ndarray,
    plan: SearchPlan,
    choice: int,
    take: Callable[[np.ndarray, np.ndarray, np.ndarray], Any],
) -> None:
    """Hand each near pair whose first meeting is in this choice to `take`, as positions in `moved` and distances.

    moved: unique hashes with the choice's bands first (move_bits), sorted by these bits; may be a part of all, cut
    between runs of equal leading bits.
    """
    shift = np.uint64(HASH_BITS - plan.leading_bits(choice))
    back = _tables(_order(plan, choice), back=True)
    bands = np.array(plan.bands, np.uint64)
    chosen = np.array(plan.choices[choice], np.int64)
    first, second = np.empty(PAIRS_AT_ONCE, np.int64), np.empty(PAIRS_AT_ONCE, np.int64)
    distance = np.empty(PAIRS_AT_ONCE, np.uint8)
    at = (0, 1)
    while at[0] < len(moved):
        a, b, found = _scan(moved, shift, plan.radius, bands, chosen, back, at, first, second, distance)
        if found:
            take(first[:found].copy(), second[:found].copy(), distance[:found].copy())
        at = (a, b)


# --- moving bits ------------------------------------------------------------------------------------------------------


def _order(plan: SearchPlan, choice: int) -> list[int]:
    """Bit positions of the hash in the order in which they stand in the moved one, highest first.

    Of a band the high frequencies, its low bits, come first: these are evenly 0 and 1, and cut hashes into equal parts.
    """
    chosen = plan.choices[choice]
    rest = [band for band in range(len(plan.bands)) if band not in chosen]
    return [bit for band in (*chosen, *rest) for bit in range(HASH_BITS) if plan.bands[band] >> bit & 1]


def _tables(order: list[int], *, back: bool) -> np.ndarray:
    """(8, 256) uint64: what each byte of a hash becomes; the moved hash is the OR of its eight."""
    moves = [(bit, HASH_BITS - 1 - place) for place, bit in enumerate(order)]
    if back:
        moves = [(to, bit) for bit, to in moves]
    tables = np.zeros((8, 256), np.uint64)
    byte_values = np.arange(256, dtype=np.uint64)
    for bit, to in moves:
        tables[bit // 8] |= (byte_values >> np.uint64(bit % 8) & np.uint64(1)) << np.uint64(to)
    return tables


def move_bits(hashes: np.ndarray, plan: SearchPlan, choice: int) -> np.ndarray:
    """The hashes with the choice's bands as their highest bits; distances stay as they are."""
    return _move(hashes, _tables(_order(plan, choice), back=False))


def move_back(moved: np.ndarray, plan: SearchPlan, choice: int) -> np.ndarray:
    return _move(moved, _tables(_order(plan, choice), back=True))


@njit(cache=True, nogil=True, inline="always")
def _move_one(value, tables):
    out = np.uint64(0)
    for byte in range(8):
        out |= tables[byte, np.int64(value >> np.uint64(8 * byte) & np.uint64(255))]
    return out


@njit(cache=True, nogil=True)
def _move(values, tables):
    out = np.empty(len(values), np.uint64)
    for i in range(len(values)):
        out[i] = _move_one(values[i], tables)
    return out


_DIGIT_BITS = 11  # 2,048 places to write to stay in the first caches


def sort_leading(moved: np.ndarray, bits: int) -> np.ndarray:
    """`moved` sorted by its highest `bits` alone, stable: radix passes from the lowest of these bits up."""
    low = HASH_BITS - bits
    while low < HASH_BITS:
        moved = _sort_digit(moved, np.uint64(low), min(_DIGIT_BITS, HASH_BITS - low))
        low += _DIGIT_BITS
    return moved


@njit(cache=True, nogil=True)
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


def _popcount(typing_context, value):
    """Bits set in a uint64: one instruction."""

    def generate(context, builder, signature, arguments):
        count = builder.ctpop(arguments[0])
        assert count.type == ir.IntType(64)
        return count

    return types.int64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


@njit(cache=True, nogil=True)
def hamming(a, b):
    """Differing bits of a and b, (n,) uint64 each -> (n,) uint8."""
    out = np.empty(len(a), np.uint8)
    for i in range(len(a)):
        out[i] = popcount(a[i] ^ b[i])
    return out


@njit(cache=True, nogil=True)
def _meets_here_first(difference, bands, chosen):
    """Whether the first len(chosen) bands in which the pair is equal are `chosen`."""
    at = 0
    for band in range(len(bands)):
        if difference & bands[band] == np.uint64(0):
            if chosen[at] != band:
                return False
            at += 1
            if at == len(chosen):
                return True
    return False


@njit(cache=True, nogil=True)
def _scan(moved, shift, radius, bands, chosen, back, at, first, second, distance):
    """Compare from the pair `at` on until all are done or the buffers are full; returns where to go on, pairs found."""
    (a, b), found, room = at, 0, len(first)
    while a < len(moved):
        leading = moved[a] >> shift if shift < np.uint64(64) else np.uint64(0)
        while b < len(moved) and (shift == np.uint64(64) or moved[b] >> shift == leading):
            d = popcount(moved[a] ^ moved[b])
            if d <= radius and _meets_here_first(_move_one(moved[a] ^ moved[b], back), bands, chosen):
                if found == room:
                    return a, b, found
                first[found], second[found], distance[found] = a, b, d
                found += 1
            b += 1
        a += 1
        b = a + 1
    return a, b, found


# --- clusters ---------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def find_root(parent, i):
    """The root of i; halves the path on its way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def unite(parent, a, b):
    """Unite a[k] with b[k] for all k; the smaller root stays, so roots do not depend on the order of the pairs."""
    for k in range(len(a)):
        root_a, root_b = find_root(parent, a[k]), find_root(parent, b[k])
        if root_a < root_b:
            parent[root_b] = root_a
        elif root_b < root_a:
            parent[root_a] = root_b


@njit(cache=True, nogil=True)
def all_roots(parent):
    """(n,) int64: the smallest member of each one's cluster."""
    out = np.empty(len(parent), np.int64)
    for i in range(len(parent)):
        out[i] = find_root(parent, i)
    return out


# --- nearest reference ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NearestIndex:
    """Finds, for each hash, the nearest of a set of reference hashes within a radius."""

    plan: SearchPlan
    values: np.ndarray
    """(num_references,) uint64, sorted, unique."""
    moved: np.ndarray
    """(num_choices, num_references) uint64: the references in each sorted order."""

    @classmethod
    def build(cls, references: np.ndarray, radius: int) -> NearestIndex:
        values = unique(references)
        plan = plan_search(len(values), radius)
        choices = range(len(plan.choices))
        moved = [sort_leading(move_bits(values, plan, choice), plan.leading_bits(choice)) for choice in choices]
        return cls(plan, values, np.stack(moved))

    def nearest(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per hash: distance (int16, -1 where no reference is near) and the nearest reference (smallest of equals)."""
        distance, nearest = np.full(len(hashes), -1, np.int16), np.zeros(len(hashes), np.uint64)
        for choice in range(len(self.plan.choices)):
            shift = np.uint64(HASH_BITS - self.plan.leading_bits(choice))
            order = _order(self.plan, choice)
            forth, back = _tables(order, back=False), _tables(order, back=True)
            _nearest(hashes, self.moved[choice], shift, self.plan.radius, forth, back, distance, nearest)
        return distance, nearest


@njit(cache=True, nogil=True)
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
