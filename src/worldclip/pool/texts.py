"""The texts of a shard as columns, the same for every format, each text with the reason why it is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts.reasons import REASONS, Reason
from worldclip.contracts.records import BadText
from worldclip.core.arrow import byte_buffers, names_of
from worldclip.core.coin import sample_records
from worldclip.core.redact import redact
from worldclip.language.characters import WHITESPACE

NUM_BAD_SAMPLES = 20
NO_PLACE = -1
BLANKS = WHITESPACE + "\0"  # a text of only these characters is empty


class PairKeys(NamedTuple):
    """The identity of each pair of a shard."""

    keys: pa.LargeStringArray
    """(num_pairs,) a readable stand-in where a pair has no key."""
    has_key: np.ndarray
    """(num_pairs,) bool."""
    problems: dict[int, str]
    """Why a pair has no key, by its position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolTexts:
    """The texts of one shard, one row per text; a pair without any text is one row, `no_text`."""

    key: pa.LargeStringArray
    """Identity of the text's pair."""
    row: np.ndarray
    """(num_rows,) int64: number of the text's pair in its shard."""
    text_idx: pa.Int32Array
    """Position in the pair's stored list of texts, empty texts included."""
    place: np.ndarray
    """(num_rows,) int16: position in `pool.texts` of the place that the text was read from; 0 if that is not set.
    NO_PLACE: the pair itself cannot be used, and none of its texts was read."""
    text: pa.LargeStringArray
    """As stored; null where the text is dropped."""
    reason: np.ndarray
    """(num_rows,) int8 codes of contracts.reasons: bad_pair, duplicate, no_text or kept."""
    lang: pa.Array | None
    """Label in the field that `pool.lang` names, as it is read from RUN/pool null where a text has none; None if
    pool.lang is not set."""
    details: dict[int, str]
    """Why a text is bad, by row."""

    def to_table(self) -> pa.Table:
        """Return the rows of RUN/pool/pairs/<shard>.parquet."""
        detail = pa.nulls(len(self.reason), pa.string())
        if self.details:
            is_bad = np.zeros(len(self.reason), bool)
            is_bad[list(self.details)] = True
            detail = replace_where(detail, is_bad, [redact(self.details[row]) for row in sorted(self.details)])
        return pa.table(
            {
                "key": self.key,
                "row": self.row,
                "text_idx": self.text_idx,
                "place": self.place,
                "text": self.text,
                "lang": pa.nulls(len(self.reason), pa.string()) if self.lang is None else self.lang,
                "reason": names_of(self.reason, [reason.label for reason in REASONS]),
                "detail": detail,
            }
        )

    def take(self, rows: np.ndarray) -> PoolTexts:
        """Return only these rows."""
        columns = {name: getattr(self, name).take(pa.array(rows)) for name in ("key", "text_idx", "text")}
        lang = None if self.lang is None else self.lang.take(pa.array(rows))
        details = {i: self.details[row] for i, row in enumerate(rows.tolist()) if row in self.details}
        arrays = {name: getattr(self, name)[rows] for name in ("row", "place", "reason")}
        return PoolTexts(**columns, **arrays, lang=lang, details=details)

    @property
    def num_kept(self) -> int:
        """The number of texts that go on."""
        return int(np.count_nonzero(self.reason == Reason.KEPT))

    @property
    def bad(self) -> list[BadText]:
        """At most NUM_BAD_SAMPLES bad texts, chosen by hash."""
        rows = sorted(self.details)
        keys, text_idx = (column.take(pa.array(rows, pa.int64())).to_pylist() for column in (self.key, self.text_idx))
        bad = [
            BadText(key=key, text_idx=number, reason=self.details[row])
            for row, key, number in zip(rows, keys, text_idx, strict=True)
        ]
        return sample_records(bad, NUM_BAD_SAMPLES)


def pool_texts(
    pairs: PairKeys,
    row_of_pair: np.ndarray,
    pair_of_text: np.ndarray,
    text: pa.LargeStringArray,
    details: dict[int, str],
    *,
    lang: pa.Array | None,
    place: np.ndarray,
) -> PoolTexts:
    """Give each text the first reason that applies.

    row_of_pair: (num_pairs,).  pair_of_text: (num_texts,) ascending, every pair at least once.  text: null where there
    is none.  details: why a text is bad, by row.  place: (num_texts,).
    """
    is_bad = np.zeros(len(pair_of_text), bool)
    is_bad[list(details)] = True
    is_duplicate = find_duplicates(pairs.keys, pairs.has_key)[pair_of_text]
    length = pc.binary_length(pc.utf8_trim(text, BLANKS))
    is_empty = pc.equal(pc.fill_null(length, 0), 0).to_numpy(zero_copy_only=False)
    reasons = [Reason.BAD_PAIR, Reason.DUPLICATE, Reason.NO_TEXT]
    reason = np.select([is_bad, is_duplicate, is_empty], reasons, Reason.KEPT).astype(np.int8)
    text_idx = np.arange(len(pair_of_text)) - np.searchsorted(pair_of_text, pair_of_text)
    return PoolTexts(
        key=pairs.keys.take(pa.array(pair_of_text)),
        row=row_of_pair[pair_of_text],
        text_idx=pa.array(text_idx, pa.int32()),
        place=np.where(pairs.has_key[pair_of_text], place, NO_PLACE).astype(np.int16),
        text=pc.if_else(pa.array(reason == Reason.KEPT), text, pa.scalar(None, pa.large_string())),
        reason=reason,
        lang=lang,
        details=details,
    )


def find_duplicates(keys: pa.LargeStringArray, has_key: np.ndarray) -> np.ndarray:
    """Return bool (num_pairs,): an earlier pair has the same key.  A pair without a key is no duplicate."""
    rows = np.flatnonzero(has_key)
    encoded = (keys if len(rows) == len(keys) else keys.take(pa.array(rows))).dictionary_encode()
    is_duplicate = np.zeros(len(has_key), bool)
    if len(encoded.dictionary) < len(rows):
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        is_duplicate[rows] = True
        is_duplicate[rows[np.unique(codes, return_index=True)[1]]] = False
    return is_duplicate


# --- Arrow's buffers: values uint8 (num_bytes,), offsets int64 (n + 1,) -----------------------------------------------


def text_buffers(values: pa.LargeBinaryArray) -> tuple[np.ndarray, np.ndarray]:
    """Return (bytes uint8, offsets int64 from 0) of values; null is empty."""
    data, offsets = byte_buffers(values, fill_nulls=True)
    return data[offsets[0] : offsets[-1]], offsets - offsets[0]


def find_bad_utf8(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return bool (n,): the text is not UTF-8 (an encoded surrogate is not)."""
    # If all bytes together are UTF-8 and no text begins with a continuation byte (0b10......), then no character
    # crosses from one text to the next, and one decode tells for all texts.
    starts = offsets[:-1][offsets[:-1] < offsets[1:]]
    begins_inside_character = bool(((values[starts] & 0xC0) == 0x80).any())
    if not begins_inside_character and is_utf8(values):
        return np.zeros(len(offsets) - 1, bool)
    return np.array([not is_utf8(values[start:end]) for start, end in pairwise(offsets)], bool)


def is_utf8(content: bytes | np.ndarray) -> bool:
    """Return whether bytes, or an array of uint8, are UTF-8."""
    # Arrow checks in place; bytes.decode() writes all characters as a str, which takes 3 (Czech) to 30 times as long.
    offsets = pa.py_buffer(np.array([0, len(content)]))
    try:
        pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(content)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def large_strings(values: np.ndarray, offsets: np.ndarray, is_null: np.ndarray) -> pa.LargeStringArray:
    """Wrap buffers of texts as an array; texts that are not null must be UTF-8."""
    validity = pa.array(~is_null).buffers()[1] if is_null.any() else None
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(values), validity)


def readable(values: np.ndarray, offsets: np.ndarray, is_bad: np.ndarray) -> pa.LargeStringArray:
    """Wrap buffers of texts as an array of strings; texts that are not UTF-8 show their bytes as escapes."""
    whole = large_strings(values, offsets, is_bad)
    bad = np.flatnonzero(is_bad)
    shown = [values[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8", "backslashreplace") for row in bad]
    return replace_where(whole, is_bad, shown)


def replace_where(array: pa.Array, mask: np.ndarray, values: Sequence[str]) -> pa.Array:
    """Return `array` with the elements under `mask` replaced by `values`, in order."""
    return pc.replace_with_mask(array, pa.array(mask), pa.array(values, array.type)) if len(values) else array
