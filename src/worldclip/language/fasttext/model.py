"""Read fastText's supervised models as arrays: `.bin` and `.ftz`, dense and quantised, of every loss.

The file's layout is that of fastText 0.9.2.  Matrices of a `.bin` stay memory-mapped; kernels.py computes with them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldclip.kernels.byte_table import empty_slots, find_row, hash_bytes, insert_rows
from worldclip.kernels.llvm import inner, kernel, load_8
from worldclip.kernels.utf8 import LOW_BYTES, word_at

MAGIC = 793712314
LOSS_HS, LOSS_NS, LOSS_SOFTMAX, LOSS_OVA = 1, 2, 3, 4
SUPERVISED = 3
DENSE_BELOW_BYTES = 64 * 2**20  # quantised rows that take less than this when unpacked are unpacked at load

LABEL_PREFIX = b"__label__"

_PREFIX_HEAD, _PREFIX_LAST = np.uint64(int.from_bytes(LABEL_PREFIX[:8], "little")), LABEL_PREFIX[8]
_END = np.uint64(int.from_bytes(b"</s>", "little"))


class UnsupportedModel(ValueError):
    """A fastText file that this module cannot read; the library may."""


class Quantized(NamedTuple):
    """A product-quantised matrix: row i is norm[i] * concatenation over q of centroids[q, codes[i, q]]."""

    codes: np.ndarray  # (num_rows, num_subvectors) uint8
    norms: np.ndarray  # (num_rows,) float32, ones where norms were not quantised
    centroids: np.ndarray  # (dim * 256,) float32, as in the file
    sub_dim: int
    last_sub_dim: int


class Model(NamedTuple):
    """What the kernels compute with.  D = dim; rows: words, then buckets of n-grams (if pruned, the kept ones)."""

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
    slots: np.ndarray  # table of the dictionary's words, see kernels/byte_table.py
    prune: int  # 0: no n-grams at all; 1: only the kept ones; -1: all
    kept: np.ndarray  # (bucket / 64 + 1,) uint64, a bit is set where a bucket was kept
    kept_rows: np.ndarray  # for each of these words the row of its first kept bucket; int32
    left: np.ndarray  # (2 * num_labels - 1,) int32 children of the label tree, -1 at leaves
    right: np.ndarray
    eos: int  # entry id of "</s>", -1 without one


def read_model(path: Path) -> tuple[Model, list[str]]:
    """Return the model of `path`, its matrices memory-mapped, and its labels without `__label__`.

    Raises UnsupportedModel for an unknown version or kind, and for a file that is cut short.
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
        starts, ends, counts, length = scan_dictionary(data[reader.at :], size)
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
    kept, kept_rows, order = _kept_buckets(index, bucket, num_words)
    if pruned > 0:  # rows of kept n-grams by rising bucket; the file's order is another
        places = np.concatenate([np.arange(num_words), num_words + order.astype(np.int64)])
        if isinstance(rows, Quantized):
            rows = rows._replace(codes=rows.codes[places], norms=rows.norms[places])
        else:
            rows = rows[places]
    left, right = _label_tree(counts[num_words:]) if loss == LOSS_HS else (np.empty(0, np.int32), np.empty(0, np.int32))
    slots = empty_slots(size)
    insert_rows(dictionary, starts, ends, slots)
    dense = np.empty((0, dim), np.float32)
    packed = Quantized(np.empty((0, 0), np.uint8), np.empty(0, np.float32), np.empty(0, np.float32), 1, 1)
    if not isinstance(rows, Quantized):
        dense = rows
    elif len(rows.codes) * dim * 4 < DENSE_BELOW_BYTES:
        dense = unpack_rows(rows)
    else:
        packed = rows
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
        **packed._asdict(),
        output=np.ascontiguousarray(output, dtype=np.float32),
        dictionary=dictionary,
        starts=starts,
        ends=ends,
        slots=slots,
        prune=-1 if pruned < 0 else int(pruned > 0),
        kept=kept,
        kept_rows=kept_rows,
        left=left,
        right=right,
        eos=find_end(dictionary, starts, ends, slots),
    )
    names = [bytes(dictionary[starts[i] : ends[i]]) for i in range(num_words, size)]
    return model, [name.removeprefix(LABEL_PREFIX).decode("utf-8", "replace") for name in names]


class _Reader:
    """Reads a file front to back; struct.error and IndexError say that it is cut short."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 0

    def unpack(self, layout: str) -> tuple:
        size = struct.calcsize(layout)
        values = struct.unpack(layout, self.data[self.at : self.at + size].tobytes())
        self.at += size
        return values

    def array(self, dtype: type, count: int) -> np.ndarray:
        num_bytes = count * np.dtype(dtype).itemsize
        raw = self.data[self.at : self.at + num_bytes]
        if len(raw) < num_bytes:
            raise IndexError
        self.at += num_bytes
        return raw.view(dtype)


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
    """Return a quantised matrix as (num_rows, dim) float32."""
    num_subvectors = packed.codes.shape[1]
    parts = []
    for q in range(num_subvectors):
        width = packed.last_sub_dim if q == num_subvectors - 1 else packed.sub_dim
        start = q * 256 * packed.sub_dim
        table = packed.centroids[start : start + 256 * width].reshape(256, width)
        parts.append(table[packed.codes[:, q]])
    return np.concatenate(parts, axis=1) * packed.norms[:, None]


def _kept_buckets(index: np.ndarray, bucket: int, num_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (Model.kept, Model.kept_rows, the index's rows by rising bucket)."""
    order = np.argsort(index[:, 0])
    buckets = index[order, 0].astype(np.int64)
    kept = np.zeros(bucket // 64 + 1, np.uint64)
    np.bitwise_or.at(kept, buckets >> 6, np.uint64(1) << (buckets & 63).astype(np.uint64))
    kept_rows = num_words + np.searchsorted(buckets, np.arange(len(kept)) * 64)
    return kept, kept_rows.astype(np.int32), index[order, 1]


def _label_tree(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the children (left, right) of the Huffman tree over label counts, built as fastText builds it.

    Leaves come first, by falling counts, and the root last; -1 where a node has no children.
    """
    num = len(counts)
    weights = np.full(2 * num - 1, 10**15, np.int64)  # fastText's "infinite" count of nodes not yet built
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


def allowed_nodes(model: Model, is_allowed: np.ndarray) -> np.ndarray:
    """Return for each node of the label tree whether a label below it is allowed; for flat outputs, for each label."""
    if model.loss != LOSS_HS:
        return is_allowed
    nodes = np.zeros(2 * model.num_labels - 1, bool)
    nodes[: model.num_labels] = is_allowed
    for node in range(model.num_labels, len(nodes)):  # children come before their parents
        nodes[node] = nodes[model.left[node]] or nodes[model.right[node]]
    return nodes


# --- the dictionary -----------------------------------------------------------------------------------


@inner
def is_label(data, start, end):
    """Return whether the token begins with `__label__`: it is then a label to fastText, never a word."""
    return end - start >= 9 and load_8(data, start) == _PREFIX_HEAD and data[start + 8] == _PREFIX_LAST


@inner
def is_end(data, start, end):
    """Return whether the token is `</s>`, after which fastText reads no further."""
    return end - start == 4 and word_at(data, start) & LOW_BYTES[4] == _END


@kernel
def scan_dictionary(data, size):
    """Return (starts, ends, counts, number of bytes) of the `size` entries at the head of `data`.

    The number of bytes is -1 if `data` is cut short.
    """
    starts = np.empty(size, np.int64)
    ends = np.empty(size, np.int64)
    counts = np.zeros(size, np.int64)
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


@kernel
def find_end(dictionary, starts, ends, slots):
    """Return the entry id of `</s>`, -1 if the dictionary does not have it."""
    token = np.array([ord("<"), ord("/"), ord("s"), ord(">")], np.uint8)
    return find_row(token, 0, 4, hash_bytes(token, 0, 4), dictionary, starts, ends, slots)
