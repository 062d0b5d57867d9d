"""What every kind of pool gives: the texts of a shard as columns, each with the reason why it goes no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.coin import sample_records

REASONS = ("ok", "bad_pair", "duplicate", "no_text")  # in the order in which they apply
GOOD, BAD_PAIR, DUPLICATE, NO_TEXT = range(4)
NUM_BAD_SAMPLES = 20
# What a text may consist of and still be empty: what str.strip() removes, and NUL.
BLANKS = "".join(chr(code) for code in range(0x3001) if chr(code).isspace()) + "\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolTexts:
    """The texts of one shard, one row a text; a pair without any text is one row, `no_text`."""

    key: pa.StringArray
    """Identity of the text's pair."""
    text_idx: pa.Int32Array
    """Position in the pair's stored list of texts, empty texts included."""
    text: pa.LargeStringArray
    """As stored; null where the reason is not ok."""
    reason: np.ndarray
    """(num_rows,) int8, position in REASONS."""
    truth: pa.StringArray | None
    """What the pool's field `lang_truth` says of a text's language, for reports alone; None where no pair has it."""
    lang: pa.StringArray | None
    """The label that the pool gives a text's language by `pool.lang`, null where it gives none; None without it."""
    bad: list[dict[str, Any]]
    """At most 20 bad pairs, chosen by hash: key, text_idx, reason."""


def pool_texts(
    keys: pa.StringArray,
    has_key: np.ndarray,
    pair_of_text: np.ndarray,
    text: pa.LargeStringArray,
    details: dict[int, str],
    truth: pa.StringArray | None = None,
    lang: pa.StringArray | None = None,
) -> PoolTexts:
    """Each text's first reason in the order of REASONS.

    keys, has_key: (num_pairs,) identities, and which of them are one.  pair_of_text: (num_texts,) ascending, every
    pair at least once.  text: null where there is none.  details: why a text is bad, by row.
    """
    is_bad = np.zeros(len(pair_of_text), bool)
    is_bad[list(details)] = True
    is_duplicate = find_duplicates(keys, has_key)[pair_of_text]
    length = pc.binary_length(pc.utf8_trim(text, BLANKS))
    is_empty = pc.equal(pc.fill_null(length, 0), 0).to_numpy(zero_copy_only=False)
    reason = np.select([is_bad, is_duplicate, is_empty], [BAD_PAIR, DUPLICATE, NO_TEXT], GOOD).astype(np.int8)
    text_idx = np.arange(len(pair_of_text)) - np.searchsorted(pair_of_text, pair_of_text)
    key = keys.take(pa.array(pair_of_text))
    return PoolTexts(
        key=key,
        text_idx=pa.array(text_idx, pa.int32()),
        text=pc.if_else(pa.array(reason == GOOD), text, pa.scalar(None, pa.large_string())),
        reason=reason,
        truth=truth,
        lang=lang,
        bad=_choose_bad(key, text_idx, details),
    )


def find_duplicates(keys: pa.StringArray, has_key: np.ndarray) -> np.ndarray:
    """bool (num_pairs,): whose key an earlier pair has; a pair without an identity is nobody's duplicate."""
    rows = np.flatnonzero(has_key)
    codes = keys.take(pa.array(rows)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    is_duplicate = np.ones(len(rows), bool)
    is_duplicate[np.unique(codes, return_index=True)[1]] = False
    found = np.zeros(len(keys), bool)
    found[rows] = is_duplicate
    return found


def _choose_bad(key: pa.StringArray, text_idx: np.ndarray, details: dict[int, str]) -> list[dict[str, Any]]:
    rows = sorted(details)
    names = key.take(pa.array(rows, pa.int64())).to_pylist()
    found = [
        {"key": name, "text_idx": int(text_idx[row]), "reason": details[row]}
        for name, row in zip(names, rows, strict=True)
    ]
    return sample_records(found, NUM_BAD_SAMPLES)


# Arrow's buffers: values uint8 (bytes,), offsets int64 (n + 1,)


def gather(
    data: np.ndarray, starts: np.ndarray, ends: np.ndarray, prefix: bytes = b""
) -> tuple[np.ndarray, np.ndarray]:
    """(values, offsets) of the slices [start, end) of `data`, each behind `prefix`."""
    before = np.frombuffer(prefix, np.uint8)
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(ends - starts + len(before), out=offsets[1:])
    values = np.empty(offsets[-1], np.uint8)
    _fill(data, starts, before, offsets, values)
    return values, offsets


@numba.njit(cache=True, nogil=True)
def _fill(data: np.ndarray, starts: np.ndarray, prefix: np.ndarray, offsets: np.ndarray, values: np.ndarray) -> None:
    for row in range(len(starts)):
        at = offsets[row]
        for position in range(len(prefix)):
            values[at + position] = prefix[position]
        at += len(prefix)
        for position in range(offsets[row + 1] - at):
            values[at + position] = data[starts[row] + position]


def find_bad_utf8(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """bool (n,): which texts are not UTF-8 (surrogates are not)."""
    starts = offsets[:-1][offsets[:-1] < offsets[1:]]
    begins_inside = bool(((values[starts] & 0xC0) == 0x80).any())
    if not begins_inside and is_utf8(values.tobytes()):  # then no character crosses from one text to the next
        return np.zeros(len(offsets) - 1, bool)
    return np.array([not is_utf8(values[start:end].tobytes()) for start, end in pairwise(offsets)], bool)


def is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def large_strings(values: np.ndarray, offsets: np.ndarray, is_null: np.ndarray) -> pa.LargeStringArray:
    """Texts over the given buffers, null where asked; what is not null must be UTF-8."""
    validity = pa.array(~is_null).buffers()[1] if is_null.any() else None
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(values), validity)


def readable(values: np.ndarray, offsets: np.ndarray, is_bad: np.ndarray) -> pa.StringArray:
    """Strings over the given buffers; what is not UTF-8 shows its bytes as escapes."""
    whole = large_strings(values, offsets, is_bad).cast(pa.string())
    bad = np.flatnonzero(is_bad)
    shown = [values[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8", "backslashreplace") for row in bad]
    return replace_where(whole, is_bad, shown)


def replace_where(array: pa.Array, mask: np.ndarray, values: Sequence[str]) -> pa.Array:
    """`array` with its elements under `mask` replaced by `values`, in order."""
    return pc.replace_with_mask(array, pa.array(mask), pa.array(values, array.type)) if len(values) else array
