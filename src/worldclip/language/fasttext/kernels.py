"""Label texts with fastText's supervised models: text -> mean of its tokens' rows -> most probable label; compiled.

A token's rows are the word's own (if the dictionary has it) and those of its character n-grams, hashed into buckets.
Four things make this 4 to 17 times as fast as the library (benchmarks/results/lid.md): a cache of the summed rows of
each token, since most tokens of a batch are repeated; a search of the label tree, most probable branch first; wide
instructions for all hashes and sums; and the rows of all new tokens are requested before the first one is added.
arXiv:1607.01759, arXiv:1612.03651.
"""

from __future__ import annotations

import numpy as np

from worldclip.kernels.byte_table import find_row, hash_bytes
from worldclip.kernels.llvm import (
    LANES,
    add_lanes,
    add_rows_lanes,
    blank_mask,
    count_ones,
    hash_lanes,
    inner,
    kernel,
    load_pair,
    multiply_high,
    prefetch,
    store_pair,
    trailing_zeros,
)
from worldclip.language.fasttext.labels import label_texts
from worldclip.language.fasttext.model import MAX_NGRAM, is_end, is_label

CACHE_BYTES = 4 * 2**20  # limit of the cache of summed rows
CACHED_TOKEN_BYTES = 40  # longer tokens are hardly ever repeated
PIECE = LANES * MAX_NGRAM  # rows after which a long token's are added, at the end of LANES characters
BLOCK_TEXTS = 64  # texts per call: rows are summed, then labels chosen; the two calls cost nothing per text
AHEAD = 64  # tokens of which the cache slots are prefetched before the first is needed

_U0, _U1, _U6, _U63 = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63)
_LARGEST = np.uint64(2**64 - 1)
_MASKED = 64  # bytes that one mask covers
_FNV_START = np.uint32(2166136261)  # FNV-1a's offset basis
_NO_WORD, _LAST = -1, -2  # marks instead of a token's number of rows


@kernel
def predict(model, data, offsets, is_null, allowed, num_cached):
    """Return the label id int32 and the probability float32 of each text; -1 and 0 without a prediction.

    data: (num_bytes,) uint8; offsets: (num_texts + 1,) int64; is_null: (num_texts,) bool.  allowed: bool for each
    node of the label tree (a subtree with an allowed leaf) or for each label.  num_cached: cache slots, 2^k.
    """
    num_texts = len(is_null)
    label_ids, probs = np.full(num_texts, np.int32(-1)), np.zeros(num_texts, np.float32)
    hidden, num_rows_T = np.empty((BLOCK_TEXTS, model.dim), np.float32), np.empty(BLOCK_TEXTS, np.int64)
    sums, cache_2S, chars, grams = _scratch(model, offsets, num_cached)
    tokens_2N, keys_N, counts_N, is_new_N, rows, rows_at, sums_at = _scratch_of_tokens()
    stack_nodes, stack_probs = np.empty(2 * model.num_labels, np.int32), np.empty(2 * model.num_labels, np.float32)
    for first in range(0, num_texts, BLOCK_TEXTS):
        stop = min(first + BLOCK_TEXTS, num_texts)
        _sum_texts(
            model, data, offsets, is_null, first, stop, sums, cache_2S, chars, grams, tokens_2N, keys_N, counts_N,
            is_new_N, rows, rows_at, sums_at, hidden, num_rows_T,
        )  # fmt: skip
        label_texts(model, hidden, num_rows_T, first, stop, allowed, stack_nodes, stack_probs, label_ids, probs)
    return label_ids, probs


@inner
def _sum_texts(
    model, data, offsets, is_null, first, stop, sums, cache_2S, chars, grams, tokens_2N, keys_N, counts_N,
    is_new_N, rows, rows_at, sums_at, hidden, num_rows_T,
):  # fmt: skip
    """Write the sum of the rows of each text from `first` to `stop` to `hidden`, and their numbers to num_rows_T."""
    # numba counts a reference, an atomic operation, for every array taken from a tuple: once, not for each text.
    dictionary, starts, ends, slots, eos = model.dictionary, model.starts, model.ends, model.slots, model.eos
    num_words, minn, maxn, bucket = model.num_words, model.minn, model.maxn, model.bucket
    prune, kept_bits, kept_rows, matrix = model.prune, model.kept_bits, model.kept_rows, model.matrix
    num_cached = cache_2S.size // 2
    last_slot = np.uint64(num_cached - 1)
    for i in range(first, stop):
        text = np.int64(i - first)
        num_rows_T[text] = 0
        if is_null[i]:
            continue
        at, end, has_token = offsets[i], offsets[i + 1], False
        num_rows = 0
        _clear(hidden, text)
        mask, masked_at = _U0, at - _MASKED
        while at < end:
            num_tokens, at, mask, masked_at = _find_tokens(
                data, at, end, mask, masked_at, tokens_2N, keys_N, cache_2S, sums, slots
            )
            has_token |= num_tokens > 0
            # Rows of all new tokens are requested before the first is added.
            for t in range(num_tokens):
                token_at, token_size = load_pair(tokens_2N, t)
                cached_key, cached_count = load_pair(cache_2S, np.int64(keys_N[t] & last_slot))
                counts_N[t] = np.int64(cached_count)
                is_new_N[t] = cached_key != keys_N[t]
                rows_at[t + 1] = rows_at[t]
                if is_new_N[t]:
                    _clear(sums, num_cached + t)
                    counts_N[t], rows_at[t + 1] = _find_rows(
                        data, np.int64(token_at), np.int64(token_size), keys_N[t], dictionary, starts, ends, slots,
                        num_words, minn, maxn, bucket, prune, kept_bits, kept_rows, matrix, chars, grams, rows,
                        rows_at[t], sums, num_cached + t,
                    )  # fmt: skip
            num_summed = np.int64(0)
            for t in range(num_tokens):
                place = num_cached + t if is_new_N[t] else np.int64(keys_N[t] & last_slot)
                if is_new_N[t]:
                    _add_all(sums, place, matrix, rows, rows_at[t], rows_at[t + 1])
                if counts_N[t] == _LAST:
                    at, num_tokens = end, t
                    break
                if counts_N[t] == _NO_WORD:
                    continue
                sums_at[num_summed] = place
                num_summed += 1
                num_rows += counts_N[t]
            _add_all(hidden, text, sums, sums_at, np.int64(0), num_summed)
            # New tokens enter the cache last: another token of these may be summed from the slot.
            for t in range(num_tokens):
                _, token_size = load_pair(tokens_2N, t)
                if is_new_N[t] and np.int64(token_size) <= CACHED_TOKEN_BYTES:
                    slot = np.int64(keys_N[t] & last_slot)
                    store_pair(cache_2S, slot, keys_N[t], np.uint64(counts_N[t]))
                    _clear(sums, slot)
                    _add(sums, slot, sums, num_cached + t)
        if has_token and eos >= 0:
            _add(hidden, text, matrix, eos)
            num_rows += 1
        num_rows_T[text] = num_rows


@inner
def _scratch(model, offsets, num_cached):
    """Return the arrays that `predict` writes to for each text, as large as the longest text needs."""
    longest = 0
    for i in range(len(offsets) - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    sums = np.empty((num_cached + AHEAD, model.dim), np.float32)  # sums of each slot's token, then of new tokens
    cache_2S = np.zeros(2 * num_cached, np.uint64)  # pairs of a token's hash and its number of rows
    chars = np.empty(longest + 2 + LANES + model.maxn, np.uint32)
    grams = np.empty(LANES * (model.maxn + 1), np.uint32)
    grams[:LANES] = _FNV_START
    return sums, cache_2S, chars, grams


@inner
def _scratch_of_tokens():
    """Return the arrays that `predict` writes to for AHEAD tokens."""
    tokens_2N, keys_N = np.empty(2 * AHEAD, np.uint64), np.empty(AHEAD, np.uint64)
    counts_N, is_new_N = np.empty(AHEAD, np.int64), np.empty(AHEAD, np.bool_)
    rows, rows_at = np.empty(AHEAD * (2 * PIECE + 1), np.int32), np.zeros(AHEAD + 1, np.int64)
    return tokens_2N, keys_N, counts_N, is_new_N, rows, rows_at, np.empty(AHEAD, np.int32)


def cache_slots(dim: int, num_bytes: int) -> int:
    """Return the slots of the token cache for texts of `num_bytes` in all: enough for them, at most CACHE_BYTES."""
    most = max(CACHE_BYTES // (4 * dim), 64)
    wanted = min(most, max(num_bytes // 4, 64))
    return 1 << (int(wanted).bit_length() - 1)


# --- tokens -------------------------------------------------------------------------------------------


@inner
def _blanks_at(data, at):
    """Return `blank_mask`, also near the end of `data`, after which all is blank."""
    if at + _MASKED <= data.size:
        return blank_mask(data, at)
    mask = _LARGEST
    for k in range(data.size - at):
        is_blank = data[at + k] == 32 or 9 <= data[at + k] <= 13 or data[at + k] == 0
        mask ^= np.uint64(not is_blank) << np.uint64(k)
    return mask


@inner
def _token_size(data, at, end, mask, masked_at):
    """Return the size of the token at `at` (0 at a blank), and the mask of the blanks from `masked_at` on."""
    if at - masked_at >= _MASKED:
        mask, masked_at = _blanks_at(data, at), at
    size = trailing_zeros(mask >> np.uint64(at - masked_at))
    if size >= _MASKED - (at - masked_at):  # it ends after the masked bytes
        mask, masked_at = _blanks_at(data, at), at
        size = trailing_zeros(mask)
        step = size
        while step == _MASKED and at + size < end:
            step = trailing_zeros(_blanks_at(data, at + size))
            size += step
    return min(size, end - at), mask, masked_at


@inner
def _find_tokens(data, at, end, mask, masked_at, tokens_2N, keys_N, cache_2S, sums, slots):
    """Write the next tokens of data[at:end], at most AHEAD: pairs (position, size) to tokens_2N, hashes to keys_N.

    Returns their number, the position to continue at, and the mask of the blanks.  Prefetches their cache slots.
    """
    count = 0
    last_slot = np.uint64(cache_2S.size // 2 - 1)
    dim = sums.shape[1]
    while at < end and count < AHEAD:
        size, mask, masked_at = _token_size(data, at, end, mask, masked_at)
        if size > 0:
            key = hash_bytes(data, at, at + size)
            slot = np.int64(key & last_slot)
            prefetch(cache_2S, 2 * slot)
            prefetch(sums, dim * slot)
            prefetch(slots, np.int64(key & np.uint64(slots.size - 1)))
            store_pair(tokens_2N, count, np.uint64(at), np.uint64(size))
            keys_N[count] = key
            count += 1
        at += size + 1
    return count, at, mask, masked_at


@inner
def _find_rows(
    data, at, size, key, dictionary, starts, ends, slots, num_words, minn, maxn, bucket, prune, kept_bits, kept_rows,
    matrix, chars, grams, rows, end, sums, place,
):  # fmt: skip
    """Append a token's rows to rows[:end] and prefetch them; returns their number (or _NO_WORD, _LAST) and the end.

    What goes beyond PIECE is added to sums[place] at once.  chars: scratch for the characters of `<token>`.
    grams: scratch for hashes, (maxn + 1) x LANES, the first LANES being FNV-1a's offset basis.
    """
    if is_end(data, at, at + size):
        return np.int64(_LAST), end
    entry = find_row(data, at, at + size, key, dictionary, starts, ends, slots)
    if entry >= num_words or (entry < 0 and is_label(data, at, at + size)):
        return np.int64(_NO_WORD), end
    start = end
    count = np.int64(0)
    if entry >= 0:
        rows[end] = entry
        end += 1
    if maxn <= 0 or prune == 0:
        return end - start, end
    length, width = _read_chars(data, at, size, chars)
    # h mod bucket without a division, by multiplication with 2^64 / bucket: exact for 32 bits (arXiv:1902.01961).
    modulus = np.uint64(bucket)
    inverse = _LARGEST // modulus + _U1
    for first in range(0, length, LANES):  # n-grams that begin at LANES characters are hashed at once
        if end - start > PIECE:
            _add_all(sums, place, matrix, rows, start, end)
            count += end - start
            end = start
        for n in range(1, maxn + 1):
            for k in range(width):
                source = LANES * n if k else LANES * (n - 1)
                hash_lanes(grams, source, LANES * n, chars, first + n - 1, 8 * k)
        new = end
        for i in range(first, min(first + LANES, length)):
            for n in range(max(minn, 1), min(maxn, length - i) + 1):
                if n > 1 or 0 < i < length - 1:  # a single `<` or `>` is no n-gram
                    h = np.uint64(grams[LANES * n + i - first])
                    bucket_id = np.int64(multiply_high(inverse * h, modulus))
                    rows[end] = bucket_id
                    end += _is_kept(bucket_id, prune, kept_bits)
        for j in range(new, end):
            rows[j] = _ngram_row(rows[j], num_words, prune, kept_rows, kept_bits)
            prefetch(matrix, matrix.shape[1] * np.int64(rows[j]))
    return count + end - start, end


@inner
def _read_chars(data, at, size, chars):
    """Write the characters of `<token>` to `chars`, a uint32 of UTF-8 each, the first byte lowest.

    Returns their number, and the bytes of the longest (at most 4; of invalid UTF-8 the rest is left out).
    """
    chars[0] = ord("<")
    last = 0
    width = 1
    num_bytes = 1
    for k in range(size):
        byte = np.uint32(data[at + k])
        if byte & 0xC0 == 0x80:  # a continuation byte
            chars[last] |= byte << np.uint32(8 * num_bytes) if num_bytes < 4 else np.uint32(0)
            num_bytes = min(num_bytes + 1, 4)
            width = max(width, num_bytes)
        else:
            last += 1
            chars[last] = byte
            num_bytes = 1
    chars[last + 1] = ord(">")
    return last + 2, width


@inner
def _add_all(total, place, values, rows, start, end):
    """Compute total[place] += values[row] for each row of rows[start:end], in order."""
    dim = values.shape[1]
    whole = dim // LANES * LANES
    for d in range(0, whole, LANES):
        add_rows_lanes(total, place * dim + d, values, dim, d, rows, start, end)
    for d in range(whole, dim):
        for j in range(start, end):
            total[place, d] += values[rows[j], d]


@inner
def _is_kept(bucket_id, prune, kept_bits):
    """Return 1 if an n-gram's bucket has a row, 0 if it was pruned."""
    if prune < 0:
        return 1
    return np.int64(kept_bits[np.uint64(bucket_id) >> _U6] >> (np.uint64(bucket_id) & _U63) & _U1)


@inner
def _ngram_row(bucket_id, num_words, prune, kept_rows, kept_bits):
    """Return the row of an n-gram's bucket that was kept.

    A pruned model keeps few of two million buckets: a bitmap says which, and the set bits before give the row.
    """
    if prune < 0:
        return num_words + bucket_id
    before = (_U1 << (np.uint64(bucket_id) & _U63)) - _U1
    return np.int64(kept_rows[bucket_id >> 6]) + count_ones(kept_bits[np.uint64(bucket_id) >> _U6] & before)


@inner
def _clear(total, place):
    for d in range(total.shape[1]):
        total[place, d] = 0


@inner
def _add(total, place, values, row):
    """Compute total[place] += values[row], of the same width."""
    dim = values.shape[1]
    whole = dim // LANES * LANES
    for d in range(0, whole, LANES):
        add_lanes(total, place * dim + d, values, row * dim + d)
    for d in range(whole, dim):
        total[place, d] += values[row, d]
