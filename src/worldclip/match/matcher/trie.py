"""Fill a trie over tokens with entries and walk it with texts; one hash table, compiled.

Legend: B buckets of the table; a bucket is 4 slots in one cache line (64 bytes).  Tokens: see `tokenise.py`.
table_8B uint64  bucket b is [8b : 8b + 4] the keys (tokens) of its slots' edges and [8b + 4 : 8b + 8] their words:
                 parent << 33 | OVERFLOWN << 32 | HAS_ENTRY << 31 | HAS_CHILD << 30 | entry_id.
                 A node of the trie is the slot of the edge into it; ROOT has none.  An empty slot's word is 0.
                 OVERFLOWN in a bucket's first slot says that an edge which belongs there is in a later bucket.
This layout is on disk (matcher.FORMAT_VERSION), and one instruction compares the keys of a bucket: that is why it is
not a table of kernels/byte_table.py.
"""

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
    put_normal_tokens,
    put_tokens,
    token_capacity,
)

MAX_SLOTS = 2**31 - 1  # 31 bits name a node, and ROOT is the last of them
MAX_ENTRIES = 2**30 - 1

_ROOT = np.uint64(MAX_SLOTS)
_U0, _U1, _U4, _U15, _U30, _U31, _U32, _U33 = (np.uint64(value) for value in (0, 1, 4, 15, 30, 31, 32, 33))
_ENTRY_ID, _HAS_CHILD, _HAS_ENTRY, _OVERFLOWN = (np.uint64(bits) for bits in (2**30 - 1, 1 << 30, 1 << 31, 1 << 32))
# A token says in the same bits whether an entry may end here and whether the text goes on as a word says whether one
# does and whether the trie goes on: `token & word` answers both at once.
_MAY_BEGIN, _LOW_32, _HIGH_32 = np.uint64(MAY_BEGIN), np.uint64(2**32 - 1), np.uint64(2**64 - 2**32)
assert (MAY_END, GOES_ON) == (_HAS_ENTRY, _HAS_CHILD)
_AS_FIRST = ~(np.uint64(AFTER_BLANK) << np.uint64(56))  # the blank before an entry is not part of it
# Odd constants with well mixed bits: 2^64 / golden ratio, and one of splitmix64's finaliser.
_MIX_KEY, _MIX_NODE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


@inner
def _home(key, node, num_buckets):
    """Return the bucket where the search for the edge `key` out of `node` begins."""
    return np.int64((mix(key ^ _MIX_KEY, node ^ _MIX_NODE) >> _U32) * num_buckets >> _U32)


@inner
def _search(table_8B, bucket, key, node, num_buckets):
    """Return (slot, True) of an edge whose search begins in `bucket`, else (first empty slot, False)."""
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
    """Return the position of a slot's word in the table."""
    return 8 * (slot >> 2) + 4 + (slot & 3)


@kernel
def insert_entries(data, offsets, profile, unicode, table_8B, first_with):
    """Insert all entries into the empty table, which must have room; only count their tokens if it has no buckets.

    first_with (N,) int32: -1 for an entry in the table, its own id if its normalisation is empty, the id of an earlier
    entry if it equals that one after normalisation.  Returns the number of used slots (or of tokens).
    """
    classes = unicode.classes
    num_buckets = table_8B.size // 8
    used = 0
    tokens_2N = np.empty(2 * token_capacity(offsets), np.uint64)
    for i in range(offsets.size - 1):
        start, end = offsets[i], offsets[i + 1]
        count, is_doubtful = put_tokens(data, start, end, False, profile, classes, _U0, tokens_2N, np.int64(0))
        if is_doubtful:
            count = put_normal_tokens(data, start, end, profile, unicode, _U0, tokens_2N, np.int64(0))
        if num_buckets == 0 or count == 0:
            first_with[i] = i
            used += count
            continue
        node = _ROOT
        at = 0
        for k in range(count):
            key, _ = load_pair(tokens_2N, k)
            key = key if k else key & _AS_FIRST
            home = _home(key, node, np.uint64(num_buckets))
            slot, is_known = _search(table_8B, home, key, node, num_buckets)
            place = _word_place(slot)
            if not is_known:
                table_8B[place - 4] = key
                table_8B[place] |= node << _U33
                if slot >> 2 != home:
                    table_8B[8 * home + 4] |= _OVERFLOWN
                used += 1
            if k + 1 < count:
                table_8B[place] |= _HAS_CHILD
            node = np.uint64(slot)
            at = place
        first_with[i] = -1
        if table_8B[at] & _HAS_ENTRY:
            first_with[i] = np.int64(table_8B[at] & _ENTRY_ID)
        else:
            table_8B[at] |= _HAS_ENTRY | np.uint64(i)
    return used


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
    and `matches`.  active_2N: room for a pair (node << 32 | token, bucket where the search begins) per token.

    The searches of a level do not wait for each other: all their cache lines are prefetched first, since a table of
    many MB misses the cache at nearly every step.  Nor is there a branch on the result of a search, which no processor
    could predict: what does not match is overwritten by the next one.
    """
    num_buckets = np.uint64(table_8B.size // 8)
    count = 0
    active = 0
    for n in range(num_tokens):
        key, info = load_pair(tokens_2N, n)
        home = _home(key & _AS_FIRST, _ROOT, num_buckets)
        prefetch(table_8B, 8 * home)
        store_pair(active_2N, active, _ROOT << _U32 | np.uint64(n), np.uint64(home))
        active += info & _MAY_BEGIN != _U0
    first = _AS_FIRST
    while active > 0:
        if count + active > matches.size:
            matches = grown(matches, count + active)
        kept = 0
        for j in range(active):
            node_token, home_bits = load_pair(active_2N, j)
            n = np.int64(node_token & _LOW_32)
            node = node_token >> _U32
            home = np.int64(home_bits)
            key, info = load_pair(tokens_2N, n)
            mask = slot_mask(table_8B, 8 * home, key & first, node)
            slot = 4 * home + (trailing_zeros(mask) & 3)
            # mask is 0 or one of 1, 2, 4, 8: (mask + 15) >> 4 is 0 or 1, so the word is 0 if there is no such edge.
            word = table_8B[np.uint64(_word_place(slot))] & (_U0 - (mask + _U15 >> _U4))
            if (mask == _U0) & (table_8B[np.uint64(8 * home + 4)] & _OVERFLOWN != _U0):
                slot, is_known = _search(table_8B, home, key & first, node, np.int64(num_buckets))
                word = table_8B[_word_place(slot)] if is_known else _U0
            matches[np.uint64(count)] = info & _HIGH_32 | word & _ENTRY_ID
            both = info & word
            count += np.int64(both >> _U31 & _U1)
            store_pair(active_2N, kept, np.uint64(slot) << _U32 | np.uint64(n + 1), _U0)
            kept += np.int64(both >> _U30 & _U1)
        active = kept
        first = ~_U0
        for j in range(active):
            node_token, _ = load_pair(active_2N, j)
            key, _ = load_pair(tokens_2N, np.int64(node_token & _LOW_32))
            home = _home(key, node_token >> _U32, num_buckets)
            prefetch(table_8B, 8 * home)
            store_pair(active_2N, j, node_token, np.uint64(home))
    return count, matches
