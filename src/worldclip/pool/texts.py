"""The texts of a shard as columns, the same for every format, each text with the reason why it is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts.reasons import REASONS, Reason
from worldclip.contracts.records import BadText
from worldclip.core.arrow import names_of
from worldclip.core.coin import sample_records
from worldclip.core.redact import redact
from worldclip.language.characters import WHITESPACE

NUM_BAD_SAMPLES = 20
NO_PLACE = -1
BLANKS = WHITESPACE + "\0"  # a text of only these characters is empty


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
        lang = pa.nulls(len(self.reason), pa.string()) if self.lang is None else self.lang
        return pa.table(
            {
                "key": self.key,
                "row": self.row,
                "text_idx": self.text_idx,
                "place": self.place,
                "text": self.text,
                "lang": lang,
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


def find_duplicates(keys: pa.LargeStringArray, has_key: np.ndarray) -> np.ndarray:
    """Return bool (num_pairs,): an earlier pair has the same key.  A pair without a key is no duplicate."""
    rows = np.flatnonzero(has_key)
    if len(rows) < len(keys):
        keys = keys.take(pa.array(rows))
    encoded = keys.dictionary_encode()
    is_duplicate = np.zeros(len(has_key), bool)
    if len(encoded.dictionary) < len(rows):
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        is_duplicate[rows] = True
        is_duplicate[rows[np.unique(codes, return_index=True)[1]]] = False
    return is_duplicate


def decode(values: pa.LargeBinaryArray) -> pa.LargeStringArray:
    """Return values as texts, null where they are not UTF-8 (an encoded surrogate is not)."""
    try:
        return values.cast(pa.large_string())  # checks in place
    except pa.ArrowInvalid:
        pass
    is_bad = np.zeros(len(values), bool)
    for row, value in enumerate(values.to_pylist()):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            is_bad[row] = True
    return null_where(values, is_bad).cast(pa.large_string())


def readable(values: pa.LargeBinaryArray) -> pa.LargeStringArray:
    """Return values as texts; those that are not UTF-8 show their bytes as escapes."""
    texts = decode(values)
    is_bad = np.asarray(texts.is_null()) & np.asarray(values.is_valid())
    bad = values.filter(pa.array(is_bad)).to_pylist()
    return replace_where(texts, is_bad, [value.decode("utf-8", "backslashreplace") for value in bad])


def null_where(array: pa.Array, mask: np.ndarray) -> pa.Array:
    """Return `array` with nulls under `mask`; `if_else` of pyarrow 21 gives other bytes where it is a slice."""
    return pc.replace_with_mask(array, pa.array(mask), pa.scalar(None, array.type))


def replace_where(array: pa.Array, mask: np.ndarray, values: Sequence[str]) -> pa.Array:
    """Return `array` with the elements under `mask` replaced by `values`, in order."""
    if not len(values):
        return array
    return pc.replace_with_mask(array, pa.array(mask), pa.array(values, array.type))
