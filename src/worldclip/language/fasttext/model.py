"""Read fastText's supervised models as arrays: `.bin` and `.ftz`, dense and quantised, hierarchical and plain softmax.

The file's layout is that of fastText 0.9.2.  It is read, not mapped: a map of a file that another program replaces in
place or cuts would give other numbers or end the process.  Each process holds the matrices (lid.176.bin: 126 MB);
quantised rows are unpacked.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldclip.core.arrow import seal
from worldclip.core.errors import UserError
from worldclip.kernels.byte_table import empty_slots, insert_rows
from worldclip.kernels.llvm import inner, kernel, load_8
from worldclip.kernels.utf8 import LOW_BYTES, word_at

MAGIC = 793712314
VERSION = 12
LOSS_HS = 1
LOSS_SOFTMAX = 3
SUPERVISED = 3
# Bounds of what the file's length does not bound.  Published models have 16 to 300 dimensions, 2 million buckets and
# n-grams of up to 6; a longest n-gram of 2^31 would read every token from each of its characters to the end.
MAX_DIM = 2**14
MAX_BUCKET = 2**27
MAX_NGRAM = 64
MAX_SUB_DIM = 64  # numbers that a byte of a quantised row stands for; fastText writes 2
ENTRY_BYTES = 10  # bytes of a dictionary entry in addition to the string: a zero, the count (8) and the kind (1)
UNBUILT = 10**15  # fastText's "infinite" count of nodes of the label tree that are not yet built
LINE_FLOATS = 16  # float32 of a cache line

LABEL_PREFIX = b"__label__"

_PREFIX_HEAD = np.uint64(int.from_bytes(LABEL_PREFIX[:8], "little"))
_PREFIX_LAST = LABEL_PREFIX[8]
_END = np.uint64(int.from_bytes(b"</s>", "little"))


class Model(NamedTuple):
    """The arrays of the kernels.  D = dim; rows: words, then buckets of n-grams (if pruned, the kept ones)."""

    dim: int
    loss: int
    num_words: int
    num_labels: int
    bucket: int
    minn: int
    maxn: int
    matrix: np.ndarray  # (num_rows, D) float32
    output: np.ndarray  # (num_labels, D) float32; under hierarchical softmax a row an inner node of the tree
    dictionary: np.ndarray  # bytes of the file that hold the dictionary
    starts: np.ndarray  # (num_entries,) int64, where each entry's string starts in `dictionary`
    ends: np.ndarray
    slots: np.ndarray  # table of the dictionary's words, see kernels/byte_table.py
    prune: int  # 0: no n-grams at all; 1: only the kept ones; -1: all
    kept_bits: np.ndarray  # (bucket / 64 + 1,) uint64, a bit is set where a bucket was kept
    kept_rows: np.ndarray  # row of the first kept bucket of each of these words; int32
    left: np.ndarray  # (2 * num_labels - 1,) int32 children of the label tree, -1 at leaves
    right: np.ndarray
    eos: int  # entry id of "</s>", -1 without one


def read_model(path: Path) -> tuple[Model, list[str]]:
    """Return the model of `path` and its labels without `__label__`.

    Models come from the net, and the kernels check no bounds: every size is compared with the file first.  Raises
    UserError for a file whose sizes contradict each other or its length.
    """
    data = np.fromfile(path, np.uint8)
    data.flags.writeable = False
    reader = _Reader(data)
    try:
        head = _read_head(reader)
        words = _read_dictionary(reader)
        _require(words.pruned <= head.bucket, f"keeps {words.pruned} of {head.bucket} buckets of n-grams")
        index = reader.array(np.int32, max(words.pruned, 0) * 2).reshape(-1, 2)
        is_quantized = reader.unpack("<?")[0]
        rows = _read_rows(reader, head.dim, is_quantized)
        is_output_quantized = reader.unpack("<?")[0] and is_quantized
        output = _read_rows(reader, head.dim, is_output_quantized)
        _check_rows(head, words, index, len(rows), len(output))
    except (struct.error, IndexError) as error:
        raise UserError(f"languages.lid_model is {path}, which is cut short; download it again") from error
    except _Damaged as error:
        raise UserError(f"languages.lid_model is {path}, which is not a fastText model to use ({error})") from error
    kept_bits, kept_rows, order = _kept_buckets(index, head.bucket, words.num_words)
    if words.pruned > 0:  # rows of kept n-grams by rising bucket; the file's order is another
        places = np.concatenate([np.arange(words.num_words), words.num_words + order.astype(np.int64)])
        in_order = empty_rows(len(places), head.dim)
        np.take(rows, places, axis=0, out=in_order)
        rows = in_order
    slots = empty_slots(len(words.starts))
    insert_rows(words.strings, words.starts, words.ends, slots)
    left = np.empty(0, np.int32)
    right = np.empty(0, np.int32)
    if head.loss == LOSS_HS:
        left, right = _label_tree(words.counts[words.num_words :])
    model = Model(
        dim=head.dim,
        loss=head.loss,
        num_words=words.num_words,
        num_labels=words.num_labels,
        bucket=head.bucket,
        minn=head.minn,
        maxn=head.maxn,
        matrix=rows,
        output=np.ascontiguousarray(output, dtype=np.float32),
        dictionary=words.strings,
        starts=words.starts,
        ends=words.ends,
        slots=slots,
        prune=int(np.sign(words.pruned)),
        kept_bits=kept_bits,
        kept_rows=kept_rows,
        left=left,
        right=right,
        eos=_find_end(words),
    )
    names = [bytes(words.strings[words.starts[i] : words.ends[i]]) for i in range(words.num_words, len(words.starts))]
    return model, [name.removeprefix(LABEL_PREFIX).decode("utf-8", "replace") for name in names]


# --- the file ---------------------------------------------------------------------------------------------------------


class _Damaged(ValueError):
    """A number of the file that cannot be right."""


def _require(is_right: bool, problem: str) -> None:
    if not is_right:
        raise _Damaged(problem)


class _Reader:
    """Reads a file front to back; struct.error and IndexError say that it is cut short."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.at = 0

    def unpack(self, layout: str) -> tuple:
        size = struct.calcsize(layout)
        values = struct.unpack(layout, self.data[self.at : self.at + size].tobytes())
        self.at += size
        return values

    def array(self, dtype: type, count: int) -> np.ndarray:
        """Return a view of the next `count` numbers."""
        _require(count >= 0, f"says that {count} numbers follow")
        num_bytes = count * np.dtype(dtype).itemsize
        raw = self.data[self.at : self.at + num_bytes]
        if len(raw) < num_bytes:
            raise IndexError
        self.at += num_bytes
        return raw.view(dtype)


class _Head(NamedTuple):
    """The options, see Model."""

    dim: int
    loss: int
    bucket: int
    minn: int
    maxn: int


def _read_head(reader: _Reader) -> _Head:
    magic, version = reader.unpack("<2i")
    _require(magic == MAGIC, "it begins with other bytes")
    _require(version == VERSION, f"version {version}: must be {VERSION}, which fastText has written since 2017")
    dim, _, _, _, _, word_ngrams, loss, kind, bucket, minn, maxn, _, _ = reader.unpack("<12id")
    _require(1 <= dim <= MAX_DIM, f"dim = {dim}: must be between 1 and {MAX_DIM}")
    _require(kind == SUPERVISED, "it is not supervised: it has word vectors but no labels")
    _require(loss in (LOSS_HS, LOSS_SOFTMAX), f"loss = {loss}: must be {LOSS_HS} (hs) or {LOSS_SOFTMAX} (softmax)")
    _require(0 <= bucket <= MAX_BUCKET, f"bucket = {bucket}: must be between 0 and {MAX_BUCKET}")
    _require(word_ngrams <= 1, f"wordNgrams = {word_ngrams}: must be 1, as of the published models of languages")
    for name, length in (("minn", minn), ("maxn", maxn)):
        _require(0 <= length <= MAX_NGRAM, f"{name} = {length}: must be between 0 and {MAX_NGRAM}")
    return _Head(dim, loss, bucket, minn, maxn)


class _Dictionary(NamedTuple):
    """The words, then the labels; arrays as in Model, counts (num_entries,) int64."""

    strings: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    num_words: int
    num_labels: int
    pruned: int
    """Number of n-grams kept; negative: all."""


def _read_dictionary(reader: _Reader) -> _Dictionary:
    size, num_words, num_labels, _, pruned = reader.unpack("<3i2q")
    _require(
        num_words >= 0 and num_labels >= 1 and num_words + num_labels == size,
        f"its dictionary has {size} entries, {num_words} words and {num_labels} labels",
    )
    unread = reader.data[reader.at :]
    if size * ENTRY_BYTES > len(unread):
        raise IndexError
    starts, ends, counts, length = scan_dictionary(unread, size)
    if length < 0:
        raise IndexError
    strings = seal(np.array(unread[:length]))
    is_label = strings[ends + ENTRY_BYTES - 1]  # the last byte of an entry
    _require(bool((is_label[:num_words] == 0).all() and (is_label[num_words:] == 1).all()), "its words follow labels")
    counts_of_labels = counts[num_words:]
    # The tree's builder takes 10^15 for a node that is not yet built.
    is_countable = counts_of_labels.min() >= 0 and float(counts_of_labels.astype(np.float64).sum()) < UNBUILT
    _require(is_countable, "the counts of its labels are not counts")
    reader.at += length
    return _Dictionary(strings, starts, ends, counts, num_words, num_labels, pruned)


def _find_end(words: _Dictionary) -> int:
    """Return the entry id of `</s>`, -1 if the dictionary does not have it."""
    end = np.frombuffer(b"</s>", np.uint8)
    entry_ids = np.flatnonzero(words.ends - words.starts == len(end))
    is_end = (words.strings[words.starts[entry_ids, None] + np.arange(len(end))] == end).all(axis=1)
    return int(entry_ids[is_end][0]) if is_end.any() else -1


def _check_rows(head: _Head, words: _Dictionary, index: np.ndarray, num_rows: int, num_outputs: int) -> None:
    """Raise _Damaged unless there is a row for each word, each n-gram that a text can have, and each label."""
    num_ngrams = max(words.pruned, 0)
    if words.pruned < 0 and head.maxn > 0:
        _require(head.bucket > 0, "it has n-grams but bucket = 0")
        num_ngrams = head.bucket
    _require(
        num_rows >= words.num_words + num_ngrams,
        f"it has {num_rows} rows for {words.num_words} words and {num_ngrams} n-grams",
    )
    _require(num_outputs == words.num_labels, f"it has {num_outputs} rows for {words.num_labels} labels")
    buckets = np.sort(index[:, 0])
    is_index = bool((np.sort(index[:, 1]) == np.arange(len(index))).all() and (buckets[1:] > buckets[:-1]).all())
    is_inside = not len(buckets) or (buckets[0] >= 0 and buckets[-1] < head.bucket)
    _require(is_index and is_inside, "the list of its kept n-grams contradicts itself")


def _read_rows(reader: _Reader, dim: int, is_quantized: bool) -> np.ndarray:
    """Return the next matrix as (num_rows, dim) float32."""
    if is_quantized:
        return _read_quantized(reader, dim)
    num_rows, width = reader.unpack("<2q")
    _require(num_rows >= 0 and width == dim, f"it has a matrix of {num_rows} x {width} where dim = {dim}")
    return reader.array(np.float32, num_rows * dim).reshape(num_rows, dim)


def _read_quantized(reader: _Reader, dim: int) -> np.ndarray:
    """Unpack a product-quantised matrix: row i is norm[i] * concatenation over q of centroids[q, codes[i, q]]."""
    has_norms, num_rows, width, num_codes = reader.unpack("<?2qi")
    _require(num_rows >= 0 and width == dim, f"it has a matrix of {num_rows} x {width} where dim = {dim}")
    codes = reader.array(np.uint8, num_codes)
    centroids, num_parts, sub_dim, last_sub_dim = _read_centroids(reader, dim)
    _require(num_codes == num_rows * num_parts, f"it has {num_codes} codes for {num_rows} rows of {num_parts} parts")
    norms = np.ones(num_rows, np.float32)
    if has_norms:
        norm_codes = reader.array(np.uint8, num_rows)
        norms = _read_centroids(reader, 1)[0][norm_codes]
    codes = codes.reshape(num_rows, num_parts)
    rows = empty_rows(num_rows, dim)
    for q in range(num_parts):
        part_dim = last_sub_dim if q == num_parts - 1 else sub_dim
        start = q * 256 * sub_dim
        table = centroids[start : start + 256 * part_dim].reshape(256, part_dim)
        rows[:, q * sub_dim : q * sub_dim + part_dim] = table[codes[:, q]]
    with np.errstate(over="ignore", invalid="ignore"):  # wrong weights are no wrong sizes
        rows *= norms[:, None]
    return rows


def _read_centroids(reader: _Reader, dim: int) -> tuple[np.ndarray, int, int, int]:
    """Return (centroids (dim * 256,) float32, number of parts of a row, width of a part, width of the last part)."""
    width, num_parts, sub_dim, last_sub_dim = reader.unpack("<4i")
    is_whole = (
        width == dim
        and 1 <= sub_dim <= dim
        and num_parts == -(-dim // sub_dim)
        and last_sub_dim == dim - sub_dim * (num_parts - 1)
    )
    _require(sub_dim <= MAX_SUB_DIM, f"it cuts rows into parts of {sub_dim}: must be at most {MAX_SUB_DIM}")
    _require(
        is_whole, f"it cuts {width} of dim = {dim} into {num_parts} parts of {sub_dim}, the last of {last_sub_dim}"
    )
    return np.array(reader.array(np.float32, dim * 256)), num_parts, sub_dim, last_sub_dim


def empty_rows(num: int, dim: int) -> np.ndarray:
    """Return an array (num, dim) float32 that begins at a cache line: 16 numbers are one line, not parts of two."""
    room = np.empty(num * dim + LINE_FLOATS, np.float32)
    start = -room.ctypes.data % (4 * LINE_FLOATS) // 4
    return room[start : start + num * dim].reshape(num, dim)


def _kept_buckets(index: np.ndarray, bucket: int, num_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (Model.kept_bits, Model.kept_rows, the index's rows by rising bucket)."""
    order = np.argsort(index[:, 0])
    buckets = index[order, 0].astype(np.int64)
    kept_bits = np.zeros(bucket // 64 + 1, np.uint64)
    np.bitwise_or.at(kept_bits, buckets >> 6, np.uint64(1) << (buckets & 63).astype(np.uint64))
    kept_rows = num_words + np.searchsorted(buckets, np.arange(len(kept_bits)) * 64)
    return kept_bits, kept_rows.astype(np.int32), index[order, 1]


def _label_tree(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the children (left, right) of the Huffman tree over label counts, built as fastText builds it.

    Leaves come first, by falling counts, and the root last; -1 where a node has no children.
    """
    num = len(counts)
    weights = np.full(2 * num - 1, UNBUILT, np.int64)
    weights[:num] = counts
    left = np.full(2 * num - 1, -1, np.int32)
    right = np.full(2 * num - 1, -1, np.int32)
    leaf = num - 1
    inner = num
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
        if at + ENTRY_BYTES > len(data):
            return starts, ends, counts, -1
        for byte in range(8):
            counts[i] |= np.int64(data[at + 1 + byte]) << (8 * byte)
        at += ENTRY_BYTES
    return starts, ends, counts, at
