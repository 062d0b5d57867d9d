"""The matcher's one loop over texts: atoms -> a walk through the trie -> each text's ids, sorted and unique; compiled.

Texts go in blocks whose searches fill the time in which memory answers; see `atoms.py` and `trie.py` for the method.
"""

# mypy: disable-error-code="assignment, call-arg, call-overload, var-annotated"
# numba's stubs do not know what its compiled code does with intrinsics and integers.
from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import RANKED, count_smaller, inlined, inner, kernel
from worldclip.match.matcher.tokenise import GOES_ON, atom_capacity, put_atoms, put_normal_atoms
from worldclip.match.matcher.trie import grown, walk

BLOCK_ATOMS, BLOCK_TEXTS = 512, 256  # texts walked together: enough searches at once, yet all in the nearest cache
RECENT = 512
FEW = 128  # ids up to which comparing all with all is the fastest sort

_U0, _U1, _U2, _U32 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(32)
_NOTHING, _LOW_32, _LAST = np.uint64(2**64 - 1), np.uint64(2**32 - 1), ~np.uint64(GOES_ON)
_LARGEST = np.int32(2**31 - 1)


@kernel
def match_texts(data, offsets, validity, first_bit, profile, unicode, table_8B):
    """Match all texts: data uint8, offsets (T + 1,) int64, validity Arrow's bitmap (empty: no nulls) from first_bit on.

    Returns ids int32 and offsets (T + 1,) int64: each text's ids sorted and unique.
    """
    num_texts = offsets.size - 1
    capacity = BLOCK_ATOMS + atom_capacity(offsets) + 1
    atoms_2A, active_2A = np.empty(2 * capacity, np.uint64), np.empty(2 * capacity, np.uint64)
    found, grouped, other = np.empty(4096, np.uint64), np.empty(4096, np.int32), np.empty(4096, np.int32)
    recent, starts = np.empty(RECENT, np.uint64), np.empty(BLOCK_TEXTS + 2, np.int64)
    tally, ranks = np.empty(256, np.int64), np.empty(RANKED, np.int32)
    ids, ends = np.empty(32 * num_texts + 4096, np.int32), np.zeros(num_texts + 1, np.int64)
    # numba counts a reference, an atomic operation, for every array looked up or assigned: none of that for each text.
    classes, has_nulls = unicode.classes, validity.size > 0
    total, text = 0, 0
    while text < num_texts:
        num_atoms, first = 0, text
        while text < num_texts and num_atoms < BLOCK_ATOMS and text - first < BLOCK_TEXTS:
            atoms, bit, start, end = num_atoms, first_bit + text, offsets[text], offsets[text + 1]
            if not has_nulls or validity[bit >> 3] >> (bit & 7) & 1:
                this = np.uint64(text - first) << _U32
                atoms, is_doubtful = put_atoms(data, start, end, True, profile, classes, this, atoms_2A, num_atoms)
                if is_doubtful:
                    atoms = put_normal_atoms(data, start, end, profile, unicode, this, atoms_2A, num_atoms)
            if atoms > num_atoms:
                atoms_2A[2 * atoms - 1] &= _LAST
            num_atoms = atoms
            text += 1
        count, found = walk(num_atoms, atoms_2A, active_2A, table_8B, found)
        if grouped.size < count + RANKED:
            grouped, other = np.empty(found.size + RANKED, np.int32), np.empty(found.size + RANKED, np.int32)
        if ids.size < total + count:
            ids = grown(ids, total + count)
        _group(found, count, text - first, recent, starts, grouped)
        for t in range(text - first):
            if starts[t + 1] - starts[t] <= FEW:
                total = _put_few(grouped, starts[t], starts[t + 1], ranks, ids, total)
            else:
                total = _put_many(grouped, starts[t], starts[t + 1], other, tally, ids, total)
            ends[first + t + 1] = total
    return ids[:total], ends


@inlined
def _group(found, count, num_texts, recent, starts, grouped):
    """Put the ids of found[:count] into `grouped` by text; text t's are at [starts[t] : starts[t + 1]].

    Most repetitions, such as those of a frequent letter, are dropped on the way: `recent` remembers what was seen last
    by its lower bits.
    """
    for k in range(recent.size):
        recent[k] = _NOTHING
    for t in range(num_texts + 2):
        starts[t] = 0
    kept = 0
    for k in range(count):
        this = found[k]
        place = this & np.uint64(RECENT - 1)
        is_new = recent[place] != this
        recent[place] = this
        found[kept] = this
        kept += is_new
        starts[(this >> _U32) + _U2] += is_new
    for t in range(num_texts + 1):
        starts[t + 1] += starts[t]
    for k in range(kept):
        t = (found[k] >> _U32) + _U1
        grouped[starts[t]] = found[k] & _LOW_32
        starts[t] += 1


@inlined
def _put_few(grouped, start, end, ranks, ids, total):
    """Put grouped[start:end] behind ids[:total], sorted and unique; returns the new total.

    An id's place is the number of smaller ones, counted in wide instructions.  Equal ids share a place.
    """
    count, ranks_sum = end - start, np.int64(0)
    for i in range(count):
        ids[total + i] = -1
    for first in range(0, count, RANKED):
        count_smaller(grouped, start, end, start + first, ranks)
        for i in range(min(RANKED, count - first)):
            ids[total + ranks[i]] = grouped[start + first + i]
            ranks_sum += ranks[i]
    if 2 * ranks_sum == count * (count - 1):
        return total + count
    kept = total
    for i in range(total, total + count):
        this = ids[i]
        ids[kept] = this
        kept += this != -1
    return kept


@inner
def _put_many(grouped, start, end, other, tally, ids, total):
    """As `_put_few`: sort by bytes, the lowest first, moving all to `other` and back."""
    largest = grouped[start]
    for k in range(start, end):
        largest = max(largest, grouped[k])
    shift = 0
    while largest >> shift > 0:
        for b in range(256):
            tally[b] = 0
        for k in range(start, end):
            tally[grouped[k] >> shift & 255] += 1
        place = 0
        for b in range(256):
            tally[b], place = place, place + tally[b]
        for k in range(start, end):
            b = grouped[k] >> shift & 255
            other[tally[b]] = grouped[k]
            tally[b] += 1
        for k in range(end - start):
            grouped[start + k] = other[k]
        shift += 8
    last = -1
    for k in range(start, end):
        ids[total] = grouped[k]
        total += grouped[k] != last
        last = grouped[k]
    return total
