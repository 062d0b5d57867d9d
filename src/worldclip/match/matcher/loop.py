"""Match texts: tokens -> a walk through the trie -> the ids of each text, sorted and unique; compiled.

Texts go in blocks, so that there are enough searches to overlap their cache misses; see `tokenise.py` and `trie.py`.
"""

from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import RANKED, count_smaller, inlined, inner, kernel
from worldclip.match.matcher.tokenise import GOES_ON, put_normal_tokens, put_tokens, token_capacity
from worldclip.match.matcher.trie import grown, walk

BLOCK_TOKENS, BLOCK_TEXTS = 256, 128  # walked together: enough searches at once, and all still in the L1 cache
# Counters per text, in turns: with one, each match of a text waits some 7 cycles for the counter that the last stored.
COUNTERS = 4
RECENT = 512  # matches remembered to drop repetitions; a power of two
FEW = 128  # up to so many ids, comparing all with all in wide instructions is the fastest sort

_U0, _U1, _U2, _U32 = (np.uint64(value) for value in (0, 1, 2, 32))
_COUNTERS, _LAST_COUNTER = np.uint64(COUNTERS), np.uint64(COUNTERS - 1)
_NOTHING, _LOW_32, _LAST = np.uint64(2**64 - 1), np.uint64(2**32 - 1), ~np.uint64(GOES_ON)
_LARGEST = np.int32(2**31 - 1)


@kernel
def match_texts(data, offsets, validity, first_bit, profile, unicode, table_8B):
    """Return ids int32 and offsets (T + 1,) int64: the ids of each text, sorted and unique.

    data uint8, offsets (T + 1,) int64; validity: Arrow's bitmap from first_bit on, empty if there are no nulls.
    """
    num_texts = offsets.size - 1
    capacity = BLOCK_TOKENS + token_capacity(offsets) + 1
    tokens_2N = np.empty(2 * capacity, np.uint64)
    active_2N = np.empty(2 * capacity, np.uint64)
    matches = np.empty(4096, np.uint64)
    grouped = np.empty(4096, np.int32)
    other = np.empty(4096, np.int32)
    recent = np.empty(RECENT, np.uint64)
    starts = np.empty(COUNTERS * BLOCK_TEXTS + 2, np.int64)
    byte_counts = np.empty(256, np.int64)
    ranks = np.empty(FEW + RANKED, np.int32)
    ids = np.empty(32 * num_texts + 4096, np.int32)
    ends = np.zeros(num_texts + 1, np.int64)
    # numba counts a reference, an atomic operation, for every array looked up or assigned: none of that for each text.
    classes = unicode.classes
    has_nulls = validity.size > 0
    # int64, not the literal 0, for which numba would compile all that it is passed to a second time.
    total = np.int64(0)
    text = np.int64(0)
    while text < num_texts:
        num_tokens = np.int64(0)
        first = text
        while text < num_texts and num_tokens < BLOCK_TOKENS and text - first < BLOCK_TEXTS:
            tokens = num_tokens
            bit = first_bit + text
            start = offsets[text]
            end = offsets[text + 1]
            if not has_nulls or validity[bit >> 3] >> (bit & 7) & 1:
                this = np.uint64(text - first) << _U32
                tokens, is_doubtful = put_tokens(data, start, end, True, profile, classes, this, tokens_2N, num_tokens)
                if is_doubtful:
                    tokens = put_normal_tokens(data, start, end, profile, unicode, this, tokens_2N, num_tokens)
            if tokens > num_tokens:
                tokens_2N[2 * tokens - 1] &= _LAST
            num_tokens = tokens
            text += 1
        count, matches = walk(num_tokens, tokens_2N, active_2N, table_8B, matches)
        if grouped.size < count + RANKED:
            grouped = np.empty(matches.size + RANKED, np.int32)
            other = np.empty(matches.size + RANKED, np.int32)
        if ids.size < total + count:
            ids = grown(ids, total + count)
        _group(matches, count, text - first, recent, starts, grouped)
        for t in range(text - first):
            start = starts[COUNTERS * t]
            end = starts[COUNTERS * (t + 1)]
            if end - start <= FEW:
                total = _put_few(grouped, start, end, ranks, ids, total)
            else:
                total = _put_many(grouped, start, end, other, byte_counts, ids, total)
            ends[first + t + 1] = total
    return ids[:total], ends


@inlined
def _group(matches, count, num_texts, recent, starts, grouped):
    """Write the ids of matches[:count] to `grouped` by text.

    Those of text t are at [starts[COUNTERS * t] : starts[COUNTERS * (t + 1)]], in no order.
    Most repetitions, such as those of a frequent letter, are dropped on the way: `recent` holds the last match with
    each value of the lower bits.
    """
    for k in range(recent.size):
        recent[k] = _NOTHING
    num_counters = COUNTERS * num_texts
    for c in range(num_counters + 2):
        starts[c] = 0
    num_kept = np.int64(0)  # typed, so that `_counter` is compiled once
    for k in range(count):
        this = matches[k]
        place = this & np.uint64(RECENT - 1)
        is_new = recent[place] != this
        recent[place] = this
        matches[num_kept] = this
        starts[_counter(this, num_kept) + _U2] += is_new
        num_kept += is_new
    for c in range(num_counters + 1):
        starts[c + 1] += starts[c]
    for k in range(num_kept):
        c = _counter(matches[k], k) + _U1
        grouped[starts[c]] = matches[k] & _LOW_32
        starts[c] += 1


@inlined
def _counter(match, k):
    """Return the counter of the k-th match."""
    return (match >> _U32) * _COUNTERS + (np.uint64(k) & _LAST_COUNTER)


@inlined
def _put_few(grouped, start, end, ranks, ids, total):
    """Append grouped[start:end] to ids[:total], sorted and unique; returns the new total.

    An id's position is the number of smaller ones, counted in wide instructions.  Equal ids share a position, and the
    sum of all positions says whether there are any: seldom, since `_group` drops most.
    """
    count = end - start
    ranks_sum = np.int64(0)
    for first in range(0, count, RANKED):
        count_smaller(grouped, start, end, start + first, ranks, first)
    for i in range(count):
        ids[total + ranks[i]] = grouped[start + i]
        ranks_sum += ranks[i]
    if 2 * ranks_sum == count * (count - 1):
        return total + count
    for i in range(count):
        ids[total + i] = -1
    for i in range(count):
        ids[total + ranks[i]] = grouped[start + i]
    end_of_ids = total
    for i in range(total, total + count):
        this = ids[i]
        ids[end_of_ids] = this
        end_of_ids += this != -1
    return end_of_ids


@inner
def _put_many(grouped, start, end, other, byte_counts, ids, total):
    """Do as `_put_few` with a radix sort: by bytes, the lowest first, moving all to `other` and back."""
    largest = grouped[start]
    for k in range(start, end):
        largest = max(largest, grouped[k])
    shift = 0
    while largest >> shift > 0:
        for b in range(256):
            byte_counts[b] = 0
        for k in range(start, end):
            byte_counts[grouped[k] >> shift & 255] += 1
        place = 0
        for b in range(256):
            next_place = place + byte_counts[b]
            byte_counts[b] = place
            place = next_place
        for k in range(start, end):
            b = grouped[k] >> shift & 255
            other[byte_counts[b]] = grouped[k]
            byte_counts[b] += 1
        for k in range(end - start):
            grouped[start + k] = other[k]
        shift += 8
    last = -1
    for k in range(start, end):
        ids[total] = grouped[k]
        total += grouped[k] != last
        last = grouped[k]
    return total
