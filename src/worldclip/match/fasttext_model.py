"""Inference of fastText's supervised models in numba: `.bin` and `.ftz`, hierarchical softmax, softmax, one-vs-all.

A text is the mean of its tokens' rows; a token's rows are the word's own (where the dictionary has it) and those of
its character n-grams, hashed into buckets.  What makes this fast is a cache of the sum of rows of each token, which
holds because most tokens of a batch have been seen in it before, and the search of the label tree, most probable
branch first.  arXiv:1607.01759, arXiv:1612.03651; the file's layout as fastText 0.9.2 writes it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

MAGIC = 793712314
LOSS_HS, LOSS_NS, LOSS_SOFTMAX, LOSS_OVA = 1, 2, 3, 4
SUPERVISED = 3
LABEL_PREFIX = b"__label__"
NGRAM_STEP = np.uint64(116049371)  # word n-grams: h = h * step + next word's hash
EPS = np.float32(1e-5)  # fastText adds it to each probability before the logarithm
DENSE_BELOW_BYTES = 64 * 2**20  # quantised rows are unpacked at load where that takes less than this
CACHE_BYTES = 4 * 2**20
CACHED_TOKEN_BYTES = 40  # longer tokens hardly come again


class UnsupportedModel(ValueError):
    """A fastText file that this module does not read; the library may."""


class Quantized(NamedTuple):
    """A product-quantised matrix: row i is norm[i] * concatenation over q of centroids[q, codes[i, q]]."""

    codes: np.ndarray  # (num_rows, num_subvectors) uint8
    norms: np.ndarray  # (num_rows,) float32, ones where norms were not quantised
    centroids: np.ndarray  # (dim * 256,) float32, as in the file
    sub_dim: int
    last_sub_dim: int


class Model(NamedTuple):
    """What the kernels read.  D = dim; rows: words, then buckets of n-grams (those kept, where pruned)."""

    dim: int
    loss: int
    num_words: int
    num_labels: int
    bucket: int
    minn: int
    maxn: int
    word_ngrams: int
    dense: np.ndarray  # (num_rows, D) float32; no rows where quantised rows are read in place
    codes: np.ndarray
    norms: np.ndarray
    centroids: np.ndarray
    sub_dim: int
    last_sub_dim: int
    output: np.ndarray  # (num_labels, D) float32; under hierarchical softmax a row an inner node of the tree
    dictionary: np.ndarray  # bytes of the file that hold the dictionary
    starts: np.ndarray  # (num_entries,) int64, where each entry's string starts in `dictionary`
    ends: np.ndarray
    slots: np.ndarray  # open-addressing table of entry ids, -1 where free
    prune: int  # 0: no n-grams at all; 1: only those of the prune index; -1: all
    prune_bits: np.ndarray  # (bucket / 64,) uint64, set where a bucket was kept
    prune_rank: np.ndarray  # (bucket / 64,) int64, kept buckets before this word
    prune_row: np.ndarray  # kept buckets in order -> row
    left: np.ndarray  # (2 * num_labels - 1,) int32 children of the label tree, -1 at leaves
    right: np.ndarray
    eos: int  # entry id of "</s>", -1 without one


def read_model(path: Path) -> tuple[Model, list[str]]:
    """The model of `path`, its matrices memory-mapped, and its labels without `__label__`.

    Raises UnsupportedModel for versions and kinds that this module does not know, and for files that are cut short.
    """
    data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))  # a plain array over the mapping, for numba
    reader = _Reader(data)
    try:
        magic, version = reader.unpack("<2i")
        if magic != MAGIC or version not in (11, 12):
            raise UnsupportedModel(f"{path} is not a fastText model of version 11 or 12")
        dim, _, _, _, _, word_ngrams, loss, kind, bucket, minn, maxn, _, _ = reader.unpack("<12id")
        if kind != SUPERVISED or loss not in (LOSS_HS, LOSS_NS, LOSS_SOFTMAX, LOSS_OVA):
            raise UnsupportedModel(f"{path} is not a supervised fastText model")
        if version == 11:
            maxn = 0  # supervised models of that version used no character n-grams
        size, num_words, num_labels, _, pruned = reader.unpack("<3i2q")
        starts, ends, counts, length = _scan_dictionary(data[reader.at :], size)
        if length < 0:
            raise UnsupportedModel(f"{path}: its dictionary is cut short")
        dictionary = np.array(data[reader.at : reader.at + length])
        reader.at += length
        index = reader.array(np.int32, max(pruned, 0) * 2).reshape(-1, 2)
        is_quantized = reader.unpack("<?")[0]
        rows = _read_quantized(reader) if is_quantized else _read_dense(reader)
        is_output_quantized = reader.unpack("<?")[0]
        output = unpack_rows(_read_quantized(reader)) if is_quantized and is_output_quantized else _read_dense(reader)
    except (struct.error, IndexError) as error:
        raise UnsupportedModel(f"{path} is cut short") from error
    bits, rank, kept_rows = _prune_table(index, bucket, num_words)
    left, right = _label_tree(counts[num_words:]) if loss == LOSS_HS else (np.empty(0, np.int32), np.empty(0, np.int32))
    slots = _hash_table(dictionary, starts, ends)
    dense, packed = _choose_rows(rows, dim)
    model = Model(
        dim=dim,
        loss=loss,
        num_words=num_words,
        num_labels=num_labels,
        bucket=bucket,
        minn=minn,
        maxn=maxn,
        word_ngrams=word_ngrams,
        dense=dense,
        codes=packed.codes,
        norms=packed.norms,
        centroids=packed.centroids,
        sub_dim=packed.sub_dim,
        last_sub_dim=packed.last_sub_dim,
        output=np.ascontiguousarray(output, dtype=np.float32),
        dictionary=dictionary,
        starts=starts,
        ends=ends,
        slots=slots,
        prune=-1 if pruned < 0 else int(pruned > 0),
        prune_bits=bits,
        prune_rank=rank,
        prune_row=kept_rows,
        left=left,
        right=right,
        eos=_find(np.frombuffer(b"</s>", np.uint8), 0, 4, dictionary, starts, ends, slots),
    )
    names = [bytes(dictionary[starts[i] : ends[i]]) for i in range(num_words, size)]
    return model, [name.removeprefix(LABEL_PREFIX).decode("utf-8", "replace") for name in names]


class _Reader:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 0

    def unpack(self, layout: str) -> tuple:
        size = struct.calcsize(layout)
        found = struct.unpack(layout, self.data[self.at : self.at + size].tobytes())
        self.at += size
        return found

    def array(self, dtype: type, count: int) -> np.ndarray:
        num_bytes = count * np.dtype(dtype).itemsize
        found = self.data[self.at : self.at + num_bytes]
        if len(found) < num_bytes:
            raise IndexError
        self.at += num_bytes
        return found.view(dtype)


def _read_dense(reader: _Reader) -> np.ndarray:
    num_rows, dim = reader.unpack("<2q")
    return reader.array(np.float32, num_rows * dim).reshape(num_rows, dim)


def _read_quantized(reader: _Reader) -> Quantized:
    has_norms, num_rows, _, num_codes = reader.unpack("<?2qi")
    codes = np.array(reader.array(np.uint8, num_codes)).reshape(num_rows, -1)
    centroids, sub_dim, last_sub_dim = _read_centroids(reader)
    norms = np.ones(num_rows, np.float32)
    if has_norms:
        norm_codes = np.array(reader.array(np.uint8, num_rows))
        norms = _read_centroids(reader)[0][norm_codes]
    return Quantized(codes, norms, centroids, sub_dim, last_sub_dim)


def _read_centroids(reader: _Reader) -> tuple[np.ndarray, int, int]:
    dim, _, sub_dim, last_sub_dim = reader.unpack("<4i")
    return np.array(reader.array(np.float32, dim * 256)), sub_dim, last_sub_dim


def unpack_rows(packed: Quantized) -> np.ndarray:
    """(num_rows, dim) float32 of a quantised matrix."""
    num_subvectors = packed.codes.shape[1]
    parts = []
    for q in range(num_subvectors):
        width = packed.last_sub_dim if q == num_subvectors - 1 else packed.sub_dim
        start = q * 256 * packed.sub_dim
        table = packed.centroids[start : start + 256 * width].reshape(256, width)
        parts.append(table[packed.codes[:, q]])
    return np.concatenate(parts, axis=1) * packed.norms[:, None]


def _choose_rows(rows: np.ndarray | Quantized, dim: int) -> tuple[np.ndarray, Quantized]:
    nothing = Quantized(np.empty((0, 0), np.uint8), np.empty(0, np.float32), np.empty(0, np.float32), 1, 1)
    if not isinstance(rows, Quantized):
        return rows, nothing
    if len(rows.codes) * dim * 4 < DENSE_BELOW_BYTES:
        return unpack_rows(rows), nothing
    return np.empty((0, dim), np.float32), rows


@njit(cache=True, nogil=True)
def _scan_dictionary(data, size):
    starts, ends, counts = np.empty(size, np.int64), np.empty(size, np.int64), np.zeros(size, np.int64)
    at = 0
    for i in range(size):
        starts[i] = at
        while at < len(data) and data[at] != 0:
            at += 1
        ends[i] = at
        if at + 10 > len(data):
            return starts, ends, counts, -1
        for byte in range(8):
            counts[i] |= np.int64(data[at + 1 + byte]) << (8 * byte)
        at += 10  # the zero, the count (8) and the kind (1)
    return starts, ends, counts, at


def _prune_table(index: np.ndarray, bucket: int, num_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kept bucket -> row as a bit a bucket and the rank of its bit: 3 bytes for each 16 buckets."""
    if not len(index):
        return np.zeros(1, np.uint64), np.zeros(1, np.int64), np.zeros(1, np.int64)
    order = np.argsort(index[:, 0])
    kept = index[order, 0].astype(np.int64)
    bits = np.zeros(bucket // 64 + 1, np.uint64)
    np.bitwise_or.at(bits, kept >> 6, np.uint64(1) << (kept & 63).astype(np.uint64))
    rank = np.searchsorted(kept, np.arange(len(bits)) * 64)
    return bits, rank.astype(np.int64), num_words + index[order, 1].astype(np.int64)


def _label_tree(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Huffman tree over label counts that fastText builds: leaves first (falling counts), the root last."""
    num = len(counts)
    weights = np.full(2 * num - 1, 10**15, np.int64)
    weights[:num] = counts
    left, right = np.full(2 * num - 1, -1, np.int32), np.full(2 * num - 1, -1, np.int32)
    leaf, inner = num - 1, num
    for parent in range(num, 2 * num - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[inner]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(inner)
                inner += 1
        left[parent], right[parent] = pair
        weights[parent] = weights[pair[0]] + weights[pair[1]]
    return left, right


@njit(cache=True, nogil=True)
def _fnv(data, start, end):
    """fastText's hash: 32-bit FNV-1a, each byte sign-extended before the xor."""
    h = np.uint32(2166136261)
    for i in range(start, end):
        h = np.uint32((h ^ np.uint32(np.int8(data[i]))) * np.uint32(16777619))
    return h


@njit(cache=True, nogil=True)
def _hash_table(dictionary, starts, ends):
    num_slots = 16
    while num_slots < 2 * len(starts):
        num_slots *= 2
    slots = np.full(num_slots, -1, np.int32)
    for i in range(len(starts)):
        at = np.int64(_fnv(dictionary, starts[i], ends[i])) & (num_slots - 1)
        while slots[at] >= 0:
            at = (at + 1) & (num_slots - 1)
        slots[at] = i
    return slots


@njit(cache=True, nogil=True)
def _find(data, start, end, dictionary, starts, ends, slots):
    """Entry id of the token data[start:end], -1 where the dictionary does not have it."""
    mask = len(slots) - 1
    at = np.int64(_fnv(data, start, end)) & mask
    while slots[at] >= 0:
        i = slots[at]
        if ends[i] - starts[i] == end - start:
            same = True
            for k in range(end - start):
                if dictionary[starts[i] + k] != data[start + k]:
                    same = False
                    break
            if same:
                return i
        at = (at + 1) & mask
    return np.int32(-1)


@njit(cache=True, nogil=True)
def _add_row(model, row, total):
    if len(model.dense):
        for d in range(model.dim):
            total[d] += model.dense[row, d]
        return
    norm, num_subvectors = model.norms[row], model.codes.shape[1]
    for q in range(num_subvectors):
        width = model.last_sub_dim if q == num_subvectors - 1 else model.sub_dim
        at = q * 256 * model.sub_dim + np.int64(model.codes[row, q]) * width
        for d in range(width):
            total[q * model.sub_dim + d] += norm * model.centroids[at + d]


@njit(cache=True, nogil=True)
def _ngram_row(model, bucket_id):
    """Row of an n-gram's bucket, -1 where it was pruned."""
    if model.prune < 0:
        return model.num_words + bucket_id
    word, bit = bucket_id >> 6, np.uint64(bucket_id & 63)
    bits = model.prune_bits[word] if model.prune > 0 else np.uint64(0)
    if (bits >> bit) & np.uint64(1) == np.uint64(0):
        return np.int64(-1)
    before = bits & ((np.uint64(1) << bit) - np.uint64(1))
    return model.prune_row[model.prune_rank[word] + _popcount(before)]


@njit(cache=True, nogil=True)
def _popcount(x):
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def _sum_token(model, data, start, end, entry, word, total):
    """Add the rows of one token to `total`; returns how many.  word: scratch for `<token>`."""
    total[:] = 0
    count = 0
    if entry >= 0:
        _add_row(model, entry, total)
        count = 1
    if model.maxn <= 0 or model.prune == 0:
        return count
    length = end - start + 2
    word[0], word[length - 1] = 60, 62  # < and >
    word[1 : length - 1] = data[start:end]
    bucket = np.uint32(model.bucket)
    for i in range(length):
        if (word[i] & 0xC0) == 0x80:
            continue
        h = np.uint32(2166136261)
        j = i
        for n in range(1, model.maxn + 1):
            if j >= length:
                break
            h = np.uint32((h ^ np.uint32(np.int8(word[j]))) * np.uint32(16777619))
            j += 1
            while j < length and (word[j] & 0xC0) == 0x80:
                h = np.uint32((h ^ np.uint32(np.int8(word[j]))) * np.uint32(16777619))
                j += 1
            if n >= model.minn and not (n == 1 and (i == 0 or j == length)):
                row = _ngram_row(model, np.int64(h % bucket))
                if row >= 0:
                    _add_row(model, row, total)
                    count += 1
    return count


@njit(cache=True, nogil=True)
def _is_blank(byte):
    return byte == 32 or (9 <= byte <= 13) or byte == 0


@njit(cache=True, nogil=True)
def _is_label(data, start, end):
    """A token that begins with `__label__` is a label to fastText, never a word."""
    prefix = (95, 95, 108, 97, 98, 101, 108, 95, 95)
    if end - start < 9:
        return False
    same = True
    for i in range(9):
        same = same and data[start + i] == prefix[i]
    return same


@njit(cache=True, nogil=True)
def _is_eos(data, start, end):
    return (
        end - start == 4
        and data[start] == 60
        and data[start + 1] == 47
        and data[start + 2] == 115
        and data[start + 3] == 62
    )


@njit(cache=True, nogil=True)
def _encode(model, data, start, end, hidden, total, word, hashes, cache):
    """Mean row of the text data[start:end] into `hidden`; returns how many rows it has (0: no prediction)."""
    cache_keys, cache_sums, cache_counts = cache
    mask = len(cache_keys) - 1
    hidden[:] = 0
    num_rows, num_hashes, at = 0, 0, start
    while True:
        while at < end and _is_blank(data[at]):
            at += 1
        if at >= end:
            break
        first, key = at, np.uint64(14695981039346656037)
        while at < end and not _is_blank(data[at]):
            key = (key ^ np.uint64(data[at])) * np.uint64(1099511628211)
            at += 1
        if _is_eos(data, first, at):
            break  # fastText reads no further than a literal </s>
        slot = np.int64((key ^ (key >> np.uint64(29))) & np.uint64(mask))
        if at - first <= CACHED_TOKEN_BYTES and cache_keys[slot] == key:
            total_row, count = cache_sums[slot], cache_counts[slot]
        else:
            entry = _find(data, first, at, model.dictionary, model.starts, model.ends, model.slots)
            if entry >= model.num_words or (entry < 0 and _is_label(data, first, at)):
                count, total_row = -1, total
            else:
                count, total_row = _sum_token(model, data, first, at, entry, word, total), total
            if at - first <= CACHED_TOKEN_BYTES:
                cache_keys[slot], cache_counts[slot] = key, count
                cache_sums[slot, :] = total
        if count < 0:
            continue
        for d in range(model.dim):
            hidden[d] += total_row[d]
        num_rows += count
        if model.word_ngrams > 1:
            hashes[num_hashes] = np.int32(_fnv(data, first, at))
            num_hashes += 1
    if model.eos >= 0:
        _add_row(model, model.eos, hidden)
        num_rows += 1
    if model.word_ngrams > 1 and model.prune != 0:
        hashes[num_hashes] = np.int32(_fnv(np.array([60, 47, 115, 62], np.uint8), 0, 4))
        num_rows += _add_word_ngrams(model, hashes, num_hashes + 1, hidden)
    if num_rows:
        scale = np.float32(1.0) / np.float32(num_rows)
        for d in range(model.dim):
            hidden[d] *= scale
    return num_rows


@njit(cache=True, nogil=True)
def _add_word_ngrams(model, hashes, num_hashes, hidden):
    count = 0
    for i in range(num_hashes):
        h = np.uint64(np.int64(hashes[i]))
        for j in range(i + 1, min(num_hashes, i + model.word_ngrams)):
            h = h * NGRAM_STEP + np.uint64(np.int64(hashes[j]))
            row = _ngram_row(model, np.int64(h % np.uint64(model.bucket)))
            if row >= 0:
                _add_row(model, row, hidden)
                count += 1
    return count


@njit(cache=True, nogil=True)
def _dot(output, row, hidden):
    found = np.float32(0)
    for d in range(len(hidden)):
        found += output[row, d] * hidden[d]
    return found


@njit(cache=True, nogil=True)
def _best_leaf(model, hidden, allowed, stack_nodes, stack_probs):
    """Most probable allowed label of the tree, the likelier child first; branches below the best are cut."""
    best, best_prob = np.int32(-1), np.float32(-1)
    root = 2 * model.num_labels - 2
    depth = 0
    if allowed[root]:
        stack_nodes[0], stack_probs[0], depth = root, np.float32(1), 1
    while depth:
        depth -= 1
        node, prob = stack_nodes[depth], stack_probs[depth]
        if prob <= best_prob:
            continue
        if node < model.num_labels:
            best, best_prob = node, prob
            continue
        score = _dot(model.output, node - model.num_labels, hidden)
        right = np.float32(1) / (np.float32(1) + np.exp(-score))
        left_prob, right_prob = prob * (np.float32(1) - right + EPS), prob * (right + EPS)
        children = (model.left[node], model.right[node])
        likely = 1 if right_prob > left_prob else 0
        for child in (1 - likely, likely):
            child_prob = right_prob if child == 1 else left_prob
            if allowed[children[child]] and child_prob > best_prob:
                stack_nodes[depth], stack_probs[depth] = children[child], child_prob
                depth += 1
    return best, best_prob


@njit(cache=True, nogil=True)
def _table_sigmoid(x):
    """The sigmoid as fastText reads it for labels on their own: from a table of 512 steps over [-8, 8]."""
    if x < -8 or x > 8:
        return np.float32(x > 8)
    step = np.float32(np.int64((x + np.float32(8)) * np.float32(32)))
    return np.float32(1) / (np.float32(1) + np.exp(-(step / np.float32(32) - np.float32(8))))


@njit(cache=True, nogil=True)
def _best_row(model, hidden, allowed, scores):
    """Most probable allowed label of a flat output: softmax over all labels, or each label's own sigmoid."""
    top = np.float32(-np.inf)
    for i in range(model.num_labels):
        scores[i] = _dot(model.output, i, hidden)
        top = max(top, scores[i])
    total = np.float32(0)
    if model.loss == LOSS_SOFTMAX:
        for i in range(model.num_labels):
            scores[i] = np.exp(scores[i] - top)
            total += scores[i]
    best, best_prob = np.int32(-1), np.float32(-1)
    for i in range(model.num_labels):
        if not allowed[i]:
            continue
        prob = scores[i] / total if model.loss == LOSS_SOFTMAX else _table_sigmoid(scores[i])
        if prob + EPS > best_prob:
            best, best_prob = np.int32(i), prob + EPS
    return best, best_prob


@njit(cache=True, nogil=True)
def predict(model, data, offsets, is_null, allowed, num_cached):
    """Label id and probability of each text.

    data: (num_bytes,) uint8; offsets: (num_texts + 1,) int64; is_null: (num_texts,) bool.  allowed: bool for each
    node of the label tree (a subtree with an allowed leaf) or for each label.  num_cached: slots of the token cache,
    a power of two.  Returns label ids int32, -1 without a prediction, and probabilities float32 (0 there).
    """
    num_texts = len(is_null)
    label_ids, probs = np.full(num_texts, -1, np.int32), np.zeros(num_texts, np.float32)
    longest = 0
    for i in range(num_texts):
        longest = max(longest, offsets[i + 1] - offsets[i])
    hidden, total = np.zeros(model.dim, np.float32), np.zeros(model.dim, np.float32)
    word, hashes = np.empty(longest + 2, np.uint8), np.empty(longest // 2 + 3, np.int32)
    num_nodes = 2 * model.num_labels
    stack_nodes, stack_probs = np.empty(num_nodes, np.int32), np.empty(num_nodes, np.float32)
    cache = (
        np.zeros(num_cached, np.uint64),
        np.empty((num_cached, model.dim), np.float32),
        np.empty(num_cached, np.int32),
    )
    for i in range(num_texts):
        start, end = offsets[i], offsets[i + 1]
        while start < end and _is_blank(data[start]):
            start += 1
        if is_null[i] or start == end:
            continue
        if _encode(model, data, start, end, hidden, total, word, hashes, cache) == 0:
            continue
        if model.loss == LOSS_HS:
            label, prob = _best_leaf(model, hidden, allowed, stack_nodes, stack_probs)
        else:
            label, prob = _best_row(model, hidden, allowed, stack_probs)
        label_ids[i], probs[i] = label, min(max(prob, np.float32(0)), np.float32(1))
    return label_ids, probs


def allowed_nodes(model: Model, is_allowed: np.ndarray) -> np.ndarray:
    """For each node of the label tree whether a label below it is allowed; flat outputs take the labels as they are."""
    if model.loss != LOSS_HS:
        return is_allowed
    nodes = np.zeros(2 * model.num_labels - 1, bool)
    nodes[: model.num_labels] = is_allowed
    for node in range(model.num_labels, len(nodes)):  # children stand before their parents
        nodes[node] = nodes[model.left[node]] or nodes[model.right[node]]
    return nodes


def cache_slots(dim: int, num_bytes: int) -> int:
    """Slots of the token cache for texts of `num_bytes` in all: enough for their tokens, at most CACHE_BYTES."""
    most = max(CACHE_BYTES // (4 * dim), 64)
    wanted = min(most, max(num_bytes // 4, 64))
    return 1 << (int(wanted).bit_length() - 1)
