"""Walk a trie over tokens with texts; one hash table without collisions, compiled.

A node of the trie is the SLOT of the edge into it; ROOT has none.  The edges of each level (those at one depth) have
slots of their own.  They fall into groups by their hash, and each group has a SEED, chosen by `fill.py` so that no two
edges of a level share a slot.  So an edge is in the one slot that its hash and its group's seed name, or nowhere: a
search reads one byte of seeds and one cache line of slots, and has no branch that a processor could mispredict.

Legend: tokens: see `tokenise.py`.
table_8B uint64  [0] the number of levels.  Level l is [4l + 4 : 8l + 8]: the first byte of its seeds, the number of its
                 groups, its first slot, the number of its slots; bytes are counted from the table's beginning.
                 Seeds are bytes, at most NUM_SEEDS - 1.
                 Slot s is [2s : 2s + 2], so slots are numbered from the table's beginning as well: the edge's key (a
                 token) and its word, parent << 33 | HAS_ENTRY << 31 | HAS_CHILD << 30 | entry_id.  An empty slot is 0.
This layout is on disk (matcher.FORMAT_VERSION).
"""

from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import inlined, inner, load_byte, load_pair, mix, prefetch, store_pair
from worldclip.match.matcher.tokenise import AFTER_BLANK, GOES_ON, MAY_BEGIN, MAY_END

MAX_SLOTS = 2**31 - 1  # 31 bits name a node, and ROOT is the last of them
MAX_ENTRIES = 2**30 - 1
NUM_SEEDS = 256

ROOT = np.uint64(MAX_SLOTS)
ENTRY_ID, HAS_CHILD, HAS_ENTRY = np.uint64(2**30 - 1), np.uint64(1 << 30), np.uint64(1 << 31)
PARENT_SHIFT = np.uint64(33)
_U0, _U1, _U30, _U31, _U32 = (np.uint64(value) for value in (0, 1, 30, 31, 32))
# A token says in the same bits whether an entry may end here and whether the text goes on as a word says whether one
# does and whether the trie goes on: `token & word` answers both at once.
_MAY_BEGIN, _LOW_32, _HIGH_32 = np.uint64(MAY_BEGIN), np.uint64(2**32 - 1), np.uint64(2**64 - 2**32)
assert (MAY_END, GOES_ON) == (HAS_ENTRY, HAS_CHILD)
AS_FIRST = ~(np.uint64(AFTER_BLANK) << np.uint64(56))  # the blank before an entry is not part of it
# Odd constants with well mixed bits: 2^64 / golden ratio, and two of splitmix64's finaliser.
_MIX_KEY, _MIX_NODE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_MIX_SEED = np.uint64(0x94D049BB133111EB)


@inlined
def edge_hash(key, node, num_slots):
    """Return the hash of the edge `key` out of `node`; another number of slots of the level gives another hash."""
    return mix(key ^ _MIX_KEY, node ^ _MIX_NODE ^ num_slots)


@inlined
def group_of(edge_hash, num_groups):
    """Return the group of an edge among its level's: int64."""
    return np.int64((edge_hash >> _U32) * num_groups >> _U32)


@inlined
def slot_of(edge_hash, seed, num_slots):
    """Return the slot of an edge among its level's: int64."""
    mixed = edge_hash * _MIX_SEED * (seed + seed + _U1)
    return np.int64((mixed >> _U32) * num_slots >> _U32)


@inlined
def find_slot(table_8B, key, node, first_seed, num_groups, first_slot, num_slots):
    """Return the only slot where the edge `key` out of `node` may be, by the level's record in the table: int64."""
    this = edge_hash(key, node, num_slots)
    seed = load_byte(table_8B, first_seed + group_of(this, num_groups))
    return first_slot + slot_of(this, seed, num_slots)


@inlined
def read_level(table_8B, level):
    """Return (first seed's byte, groups, first slot, slots) of a level."""
    first_seed, num_groups = load_pair(table_8B, 2 * level + 2)
    first_slot, num_slots = load_pair(table_8B, 2 * level + 3)
    return np.int64(first_seed), num_groups, np.int64(first_slot), num_slots


def has_whole_levels(table_8B: np.ndarray) -> bool:
    """Return whether all levels that a table names lie within it: `walk` reads no byte outside of such a table."""
    if table_8B.dtype != np.uint64 or table_8B.ndim != 1 or table_8B.size < 4:
        return False
    num_levels = int(table_8B[0])
    records = table_8B[4 : 4 * num_levels + 4]
    if records.size != 4 * num_levels or not np.all((records > 0) & (records <= table_8B.nbytes)):
        return False
    first_seed, num_groups, first_slot, num_slots = records.reshape(-1, 4).T
    seeds_fit = np.all(first_seed + num_groups <= table_8B.nbytes)
    slots_fit = np.all(2 * (first_slot + num_slots) <= table_8B.size)
    return bool(seeds_fit and slots_fit)


@inner
def grown(array, size):
    """Return a copy of `array` with room for at least `size` values, and twice as many as before."""
    larger = np.empty(max(size, 2 * array.size), array.dtype)
    for k in range(array.size):
        larger[k] = array[k]
    return larger


@inlined
def walk(num_tokens, tokens_2N, active_2N, table_8B, matches):
    """Follow the trie from every token that may begin an entry, all of them a level at a time.

    Writes text << 32 | entry_id of each match, unordered, to `matches` (made larger if needed); returns their number
    and `matches`.  active_2N: room for a pair (node << 32 | token, slot to be read) per token.

    The searches of a level do not wait for each other: all their cache lines are prefetched first, since a table of
    many MB misses the cache at nearly every step.  Nor is there a branch on the result of a search, which no processor
    could predict: what does not match is overwritten by the next one.
    """
    count = np.int64(0)
    active = np.int64(0)
    num_levels = np.int64(table_8B[0])
    first_seed, num_groups, first_slot, num_slots = read_level(table_8B, np.int64(0))
    if num_levels > 0:
        for n in range(num_tokens):
            key, info = load_pair(tokens_2N, n)
            slot = find_slot(table_8B, key & AS_FIRST, ROOT, first_seed, num_groups, first_slot, num_slots)
            prefetch(table_8B, 2 * slot)
            store_pair(active_2N, active, ROOT << _U32 | np.uint64(n), np.uint64(slot))
            active += info & _MAY_BEGIN != _U0
    first = AS_FIRST
    level = np.int64(0)
    while active > 0:
        if count + active > matches.size:
            matches = grown(matches, count + active)
        num_edges = 0
        for j in range(active):
            node_token, slot_bits = load_pair(active_2N, j)
            key, info = load_pair(tokens_2N, np.int64(node_token & _LOW_32))
            slot_key, word = load_pair(table_8B, np.int64(slot_bits))
            is_edge = (slot_key == key & first) & (word >> PARENT_SHIFT == node_token >> _U32)
            both = info & word & (_U0 - np.uint64(is_edge))
            matches[np.uint64(count)] = info & _HIGH_32 | word & ENTRY_ID
            count += np.int64(both >> _U31 & _U1)
            store_pair(active_2N, num_edges, slot_bits << _U32 | (node_token & _LOW_32) + _U1, _U0)
            num_edges += np.int64(both >> _U30 & _U1)
        level += 1
        active = num_edges if level < num_levels else np.int64(0)
        first = ~_U0
        first_seed, num_groups, first_slot, num_slots = read_level(table_8B, min(level, num_levels - 1))
        for j in range(active):
            node_token, _ = load_pair(active_2N, j)
            key, _ = load_pair(tokens_2N, np.int64(node_token & _LOW_32))
            slot = find_slot(table_8B, key, node_token >> _U32, first_seed, num_groups, first_slot, num_slots)
            prefetch(table_8B, 2 * slot)
            store_pair(active_2N, j, node_token, np.uint64(slot))
    return count, matches
