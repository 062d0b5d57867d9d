"""The matcher's trie over atoms, in one hash table: filled with entries, walked with texts; compiled.

Legend: B buckets of the table; a bucket is 4 slots in one cache line.  Atoms: see `atoms.py`.
table_8B uint64  bucket b is [8b : 8b + 4] the keys (atoms) of its slots' edges and [8b + 4 : 8b + 8] their words:
                 parent << 33 | OVERFLOWN << 32 | HAS_ENTRY << 31 | HAS_CHILD << 30 | entry_id.
                 A node of the trie is the slot of the edge into it, ROOT the one without.  An empty slot's word is 0.
                 OVERFLOWN stands in a bucket's first slot if an edge that belongs there is in a later bucket.
"""

# mypy: disable-error-code="assignment, call-arg, call-overload, var-annotated"
# numba's stubs do not know what its compiled code does with intrinsics and integers.
from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import (
    inlined,
    inner,
    kernel,
    load_pair,
    mix,
    prefetch,
    slot_mask,
    store_pair,
    trailing_zeros,
)
from worldclip.match.matcher.tokenise import (
    AFTER_BLANK,
    GOES_ON,
    MAY_BEGIN,
    MAY_END,
    atom_capacity,
    put_atoms,
    put_normal_atoms,
)

MAX_SLOTS = 2**31 - 1  # 31 bits name a node, and ROOT is the last of them
MAX_ENTRIES = 2**30 - 1

_ROOT = np.uint64(MAX_SLOTS)
_U0, _U1, _U4, _U15, _U30, _U31, _U32, _U33 = (np.uint64(value) for value in (0, 1, 4, 15, 30, 31, 32, 33))
_ENTRY_ID, _HAS_CHILD, _HAS_ENTRY, _OVERFLOWN = (np.uint64(bits) for bits in (2**30 - 1, 1 << 30, 1 << 31, 1 << 32))
# An atom and a word tell in the same bits whether an entry may end here and does, whether text and trie go on.
_MAY_BEGIN, _LOW_32, _HIGH_32 = np.uint64(MAY_BEGIN), np.uint64(2**32 - 1), np.uint64(2**64 - 2**32)
assert (MAY_END, GOES_ON) == (_HAS_ENTRY, _HAS_CHILD)
_AS_FIRST = ~(np.uint64(AFTER_BLANK) << np.uint64(56))  # what goes before an entry is not part of it
# Odd constants with well mixed bits: 2^64 / golden ratio, and one of splitmix64's finaliser.
_MIX_KEY, _MIX_NODE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


@inner
def _home(key, node, num_buckets):
    """The bucket where the search for the edge `key` out of `node` begins."""
    return np.int64((mix(key ^ _MIX_KEY, node ^ _MIX_NODE) >> _U32) * num_buckets >> _U32)


@inner
def _search(table_8B, bucket, key, node, num_buckets):
    """(slot, whether it is there) of an edge whose search begins in `bucket`; if not, the first empty slot."""
    while True:
        mask = slot_mask(table_8B, 8 * bucket, key, node)
        if mask != _U0:
            return 4 * bucket + trailing_zeros(mask), True
        for s in range(4):
            if table_8B[8 * bucket + 4 + s] == _U0:
                return 4 * bucket + s, False
        bucket = bucket + 1 if bucket + 1 < num_buckets else 0


@inner
def _word_place(slot):
    """Where a slot's word stands in the table."""
    return 8 * (slot >> 2) + 4 + (slot & 3)


@kernel
def insert_entries(data, offsets, profile, unicode, table_8B, first_with):
    """Put all entries into the empty table, which must have room; or count their atoms, if it has no buckets at all.

    first_with (N,) int32: -1 for an entry that stands in the table, its own id where its normalisation is empty, the
    id of the earlier entry where it equals that after normalisation.  Returns the number of used slots (or of atoms).
    """
    classes, num_buckets, used = unicode.classes, table_8B.size // 8, 0
    atoms_2A = np.empty(2 * atom_capacity(offsets), np.uint64)
    for i in range(offsets.size - 1):
        start, end = offsets[i], offsets[i + 1]
        count, is_doubtful = put_atoms(data, start, end, False, profile, classes, _U0, atoms_2A, 0)
        if is_doubtful:
            count = put_normal_atoms(data, start, end, profile, unicode, _U0, atoms_2A, 0)
        if num_buckets == 0 or count == 0:
            first_with[i] = i
            used += count
            continue
        node, at = _ROOT, 0
        for k in range(count):
            key, _ = load_pair(atoms_2A, k)
            key = key if k else key & _AS_FIRST
            home = _home(key, node, np.uint64(num_buckets))
            slot, is_known = _search(table_8B, home, key, node, num_buckets)
            place = _word_place(slot)
            if not is_known:
                table_8B[place - 4], table_8B[place] = key, table_8B[place] | node << _U33
                if slot >> 2 != home:
                    table_8B[8 * home + 4] |= _OVERFLOWN
                used += 1
            if k + 1 < count:
                table_8B[place] |= _HAS_CHILD
            node, at = np.uint64(slot), place
        first_with[i] = -1
        if table_8B[at] & _HAS_ENTRY:
            first_with[i] = np.int64(table_8B[at] & _ENTRY_ID)
        else:
            table_8B[at] |= _HAS_ENTRY | np.uint64(i)
    return used


@inner
def grown(array, size):
    larger = np.empty(max(size, 2 * array.size), array.dtype)
    for k in range(array.size):
        larger[k] = array[k]
    return larger


@inlined
def walk(num_atoms, atoms_2A, active_2A, table_8B, found):
    """Follow the trie from every atom that may begin an entry, all of them a level at a time.

    Puts text << 32 | entry_id of what ends there, unordered, into `found` (made larger where needed); returns how many
    there are, and `found`.  active_2A: room for a pair (node << 32 | atom, bucket where the search begins) an atom.

    A level's searches do not wait for each other: memory is asked for all their cache lines first.  And there is no
    branch on what a search finds, which no processor could foresee.
    """
    num_buckets, count, active = np.uint64(table_8B.size // 8), 0, 0
    for a in range(num_atoms):
        key, info = load_pair(atoms_2A, a)
        home = _home(key & _AS_FIRST, _ROOT, num_buckets)
        prefetch(table_8B, 8 * home)
        store_pair(active_2A, active, _ROOT << _U32 | np.uint64(a), np.uint64(home))
        active += info & _MAY_BEGIN != _U0
    first = _AS_FIRST
    while active > 0:
        if count + active > found.size:
            found = grown(found, count + active)
        kept = 0
        for j in range(active):
            node_atom, home_bits = load_pair(active_2A, j)
            a, node, home = np.int64(node_atom & _LOW_32), node_atom >> _U32, np.int64(home_bits)
            key, info = load_pair(atoms_2A, a)
            mask = slot_mask(table_8B, 8 * home, key & first, node)
            slot = 4 * home + (trailing_zeros(mask) & 3)
            word = table_8B[np.uint64(_word_place(slot))] & (_U0 - (mask + _U15 >> _U4))  # 0 if there is none
            if (mask == _U0) & (table_8B[np.uint64(8 * home + 4)] & _OVERFLOWN != _U0):
                slot, is_known = _search(table_8B, home, key & first, node, np.int64(num_buckets))
                word = table_8B[_word_place(slot)] if is_known else _U0
            found[np.uint64(count)] = info & _HIGH_32 | word & _ENTRY_ID
            both = info & word
            count += np.int64(both >> _U31 & _U1)
            store_pair(active_2A, kept, np.uint64(slot) << _U32 | np.uint64(a + 1), _U0)
            kept += np.int64(both >> _U30 & _U1)
        active, first = kept, ~_U0
        for j in range(active):
            node_atom, _ = load_pair(active_2A, j)
            key, _ = load_pair(atoms_2A, np.int64(node_atom & _LOW_32))
            home = _home(key, node_atom >> _U32, num_buckets)
            prefetch(table_8B, 8 * home)
            store_pair(active_2A, j, node_atom, np.uint64(home))
    return count, found
