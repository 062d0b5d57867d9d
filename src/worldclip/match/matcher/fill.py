"""Compile entries into the table of `trie.py`: collect the trie's edges, then choose a slot for each, by level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldclip.core.errors import UserError
from worldclip.kernels.llvm import inner, kernel, load_pair
from worldclip.kernels.unicode_table import UnicodeTable
from worldclip.match.matcher.tokenise import put_normal_tokens, put_tokens, token_capacity
from worldclip.match.matcher.trie import (
    AS_FIRST,
    ENTRY_ID,
    HAS_CHILD,
    HAS_ENTRY,
    MAX_SLOTS,
    NUM_SEEDS,
    PARENT_SHIFT,
    ROOT,
    edge_hash,
    group_of,
    slot_of,
)

# Edges per slot, and edges per group.  256 seeds suffice for nearly every level with (0.8, 3): 20.3 bytes per edge.
# With (0.9, 2) it is 18.3, and matching takes 1 or 2% longer, since the cache holds more seeds.  (0.9, 4) fails.
LOAD, GROUP_EDGES = 0.8, 3

_LINE_WORDS = 8  # uint64 per cache line
_U0 = np.uint64(0)
_LOW_BITS = HAS_ENTRY | HAS_CHILD | ENTRY_ID  # bits of an edge's word without the parent


def fill_table(
    data: np.ndarray, offsets: np.ndarray, profile: int, unicode: UnicodeTable
) -> tuple[np.ndarray, np.ndarray]:
    """Return the table (uint64, at a cache line's beginning) and `first_with` of `collect_edges`."""
    num_entries = offsets.size - 1
    first_with = np.empty(num_entries, np.int32)
    arguments = data, offsets, profile, unicode
    nothing = np.zeros(0, np.uint64)
    num_tokens = collect_edges(*arguments, np.zeros(0, np.int32), nothing, nothing, np.zeros(0, np.int32), first_with)
    if num_tokens / LOAD > MAX_SLOTS / 2:
        raise UserError(f"{num_entries:,} entries need {num_tokens:,} edges; a matcher has fewer than 2^30")
    index = np.full(1 << int(2 * num_tokens).bit_length(), -1, np.int32)
    keys, words, depths = (np.empty(num_tokens, kind) for kind in (np.uint64, np.uint64, np.int32))
    used = collect_edges(*arguments, index, keys, words, depths, first_with)
    del index
    edges = np.argsort(depths[:used], kind="stable")
    ends = np.cumsum(np.bincount(depths[:used]))
    levels = np.split(edges, ends[:-1]) if used else []
    return _place_edges(keys, words, levels, num_entries), first_with


def _place_edges(keys: np.ndarray, words: np.ndarray, levels: Sequence[np.ndarray], num_entries: int) -> np.ndarray:
    """Return the table of all edges; levels: the edges at each depth, int64."""
    slots = np.empty(sum(map(len, levels)), np.int32)
    num_groups = [len(edges) // GROUP_EDGES + 1 for edges in levels]
    seeds_start = 8 * 4 * (len(levels) + 1)
    seeds_end = seeds_start + sum(num_groups)
    first_slot = -(-seeds_end // (8 * _LINE_WORDS)) * _LINE_WORDS // 2
    records = []
    seeds = []
    first_seed = seeds_start
    for edges, groups in zip(levels, num_groups, strict=True):
        num_slots = int(len(edges) / LOAD) + 1
        level_seeds = np.zeros(groups, np.uint8)
        while not place_level(keys, words, edges, slots, first_slot, num_slots, level_seeds):
            num_slots += num_slots // 8 + 1
            if first_slot + num_slots > MAX_SLOTS:
                raise UserError(f"{num_entries:,} entries do not fit into a matcher's 2^31 slots")
        records.append((first_seed, groups, first_slot, num_slots))
        seeds.append(level_seeds)
        first_seed += groups
        first_slot += num_slots
    padded = np.zeros(2 * first_slot + _LINE_WORDS, np.uint64)
    start = -padded.ctypes.data % (8 * _LINE_WORDS) // 8
    table = padded[start : start + 2 * first_slot]  # begins at a cache line; so does a mapped .npy file
    table[0] = len(levels)
    table[4 : 4 * len(levels) + 4] = np.array(records, np.uint64).ravel()
    table.view(np.uint8)[seeds_start:seeds_end] = np.concatenate([np.zeros(0, np.uint8), *seeds])
    write_edges(keys, words, slots, table)
    return table


@kernel
def collect_edges(data, offsets, profile, unicode, index, keys, words, depths, first_with):
    """Write every edge of the trie over all entries once; only count the entries' tokens if `index` is empty.

    Edge e has keys[e], words[e] (as in the table, the parent being an edge, which comes before it) and depths[e].
    index int32: a power of two, twice as many as tokens or more, -1 everywhere.
    first_with (N,) int32: -1 for an entry in the trie, its own id if its normalisation is empty, the id of an earlier
    entry if it equals that one after normalisation.  Returns the number of edges (or of tokens).
    """
    classes = unicode.classes
    used = np.int64(0)
    tokens_2N = np.empty(2 * token_capacity(offsets), np.uint64)
    for i in range(offsets.size - 1):
        start, end = offsets[i], offsets[i + 1]
        count, is_doubtful = put_tokens(data, start, end, False, profile, classes, _U0, tokens_2N, np.int64(0))
        if is_doubtful:
            count = put_normal_tokens(data, start, end, profile, unicode, _U0, tokens_2N, np.int64(0))
        if index.size == 0 or count == 0:
            first_with[i] = i
            used += count
            continue
        node = ROOT
        for k in range(count):
            key, _ = load_pair(tokens_2N, k)
            key = key if k else key & AS_FIRST
            place, edge = _find(index, keys, words, key, node)
            if edge < 0:
                edge = used
                index[place] = edge
                keys[edge] = key
                words[edge] = node << PARENT_SHIFT
                depths[edge] = k
                used += 1
            if k + 1 < count:
                words[edge] |= HAS_CHILD
            node = np.uint64(edge)
        first_with[i] = -1
        if words[node] & HAS_ENTRY:
            first_with[i] = np.int64(words[node] & ENTRY_ID)
        else:
            words[node] |= HAS_ENTRY | np.uint64(i)
    return used


@inner
def _find(index, keys, words, key, node):
    """Return the place in the index of the edge `key` out of `node`, and the edge; -1 for an edge that is new."""
    last = np.int64(index.size - 1)
    place = np.int64(edge_hash(key, node, _U0)) & last
    while True:
        edge = np.int64(index[place])
        if edge < 0 or (keys[edge] == key and words[edge] >> PARENT_SHIFT == node):
            return place, edge
        place = place + 1 & last


@kernel
def place_level(keys, words, edges, slots, first_slot, num_slots, seeds):
    """Choose the seeds (G,) uint8 of a level's groups so that no two edges share a slot; False if 256 do not suffice.

    edges (E,) int64: the level's.  slots int32: those of parents are read, those of `edges` written.
    Large groups choose first, while most slots are free: "hash, displace, and compress" (Belazzougui et al., 2009).
    """
    slots_bits = np.uint64(num_slots)
    hashes, starts = _hashes_by_group(keys, words, edges, slots, slots_bits, seeds.size)
    is_taken = np.zeros(num_slots, np.uint8)
    for group in _largest_first(starts):
        seed = _choose_seed(hashes[starts[group] : starts[group + 1]], slots_bits, is_taken)
        if seed == NUM_SEEDS:
            return False
        seeds[group] = seed
    for edge in edges:
        this = edge_hash(keys[edge], _parent_slot(words[edge], slots), slots_bits)
        seed = np.uint64(seeds[group_of(this, np.uint64(seeds.size))])
        slots[edge] = first_slot + slot_of(this, seed, slots_bits)
    return True


@inner
def _parent_slot(word, slots):
    parent = word >> PARENT_SHIFT
    return parent if parent == ROOT else np.uint64(slots[parent])


@inner
def _hashes_by_group(keys, words, edges, slots, num_slots, num_groups):
    """Return the edges' hashes ordered by group, and starts (G + 1,): group g has [starts[g] : starts[g + 1]]."""
    hashes = np.empty(edges.size, np.uint64)
    starts = np.zeros(num_groups + 2, np.int64)
    for i in range(edges.size):
        hashes[i] = edge_hash(keys[edges[i]], _parent_slot(words[edges[i]], slots), num_slots)
        starts[group_of(hashes[i], np.uint64(num_groups)) + 2] += 1
    starts = np.cumsum(starts)
    ordered = np.empty(edges.size, np.uint64)
    for this in hashes:
        group = group_of(this, np.uint64(num_groups))
        ordered[starts[group + 1]] = this
        starts[group + 1] += 1
    return ordered, starts[:-1]


@inner
def _largest_first(starts):
    """Return the groups that have edges, those with most first; equally large ones in order."""
    num_groups = starts.size - 1
    largest = np.int64(0)
    for group in range(num_groups):
        largest = max(largest, starts[group + 1] - starts[group])
    counts = np.zeros(largest + 2, np.int64)
    for group in range(num_groups):
        counts[largest - (starts[group + 1] - starts[group]) + 1] += 1
    counts = np.cumsum(counts)
    ordered = np.empty(num_groups, np.int64)
    for group in range(num_groups):
        size = starts[group + 1] - starts[group]
        ordered[counts[largest - size]] = group
        counts[largest - size] += 1
    return ordered[: counts[largest - 1]] if largest > 0 else ordered[:0]


@inner
def _choose_seed(hashes, num_slots, is_taken):
    """Take a free slot for each hash by the first seed that gives them; return the seed, NUM_SEEDS if none does."""
    for seed in range(NUM_SEEDS):
        placed = 0
        for this in hashes:
            slot = slot_of(this, np.uint64(seed), num_slots)
            if is_taken[slot]:
                break
            is_taken[slot] = 1
            placed += 1
        if placed == hashes.size:
            return seed
        for k in range(placed):
            is_taken[slot_of(hashes[k], np.uint64(seed), num_slots)] = 0
    return NUM_SEEDS


@kernel
def write_edges(keys, words, slots, table_8B):
    """Write every edge to its slot of the table."""
    for edge in range(slots.size):
        slot = np.int64(slots[edge])
        table_8B[2 * slot] = keys[edge]
        table_8B[2 * slot + 1] = _parent_slot(words[edge], slots) << PARENT_SHIFT | words[edge] & _LOW_BITS
