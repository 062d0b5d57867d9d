"""The schema of every table that a stage or tool leaves for another (docs/design.md)."""

from __future__ import annotations

import pyarrow as pa

from worldclip.core.artifacts import table_schema

_CATEGORY = pa.dictionary(pa.int32(), pa.string())

METADATA = table_schema("metadata", entry_id=pa.int32(), entry=pa.string(), source=_CATEGORY, score=pa.float64())
POOL_PAIRS = table_schema(
    "pool_pairs",
    key=pa.string(),
    row=pa.int64(),
    text_idx=pa.int32(),
    place=pa.int16(),
    text=pa.string(),
    lang=_CATEGORY,
    reason=_CATEGORY,
    detail=pa.string(),
)
"""The stored texts of a shard in the pool's order; a pair without any text has one row, `no_text`.

row: number of the pair in its shard.  text_idx: position among the pair's stored texts.  place: position in pool.texts.
text: null where it is dropped.  lang: the pool's own label, null where it states none, "" where this text has none.
reason: kept, or why the pool's reader drops the text (contracts.reasons).  detail: why a pair is bad.
"""
POOL_IMAGES = table_schema(
    "pool_images", key=pa.string(), row=pa.int64(), member=pa.string(), offset=pa.int64(), size=pa.int64()
)
"""Where the image of each pair of a shard is, of those that have one; row as in POOL_PAIRS."""
MATCH_TEXTS = table_schema(
    "match_texts",
    row=pa.int64(),
    lang=_CATEGORY,
    lang_prob=pa.float32(),
    entries_lang=_CATEGORY,
    entry_ids=pa.large_list(pa.int32()),
)
"""The texts of a shard with a match, in the pool's order; row: of POOL_PAIRS."""
_DROPPED = {"key": pa.string(), "text_idx": pa.int32(), "lang": _CATEGORY, "reason": _CATEGORY, "detail": pa.string()}
MATCH_DROPPED = table_schema("match_dropped", **_DROPPED, is_of_key=pa.bool_())
"""The texts of a shard without a match, in the pool's order.

reason: a name of contracts.reasons.  detail: the error of a bad pair; LID label and probability of what has no language
or no match.  is_of_key: no text of the key has a match, and under text_policy one the key counts by this text.
"""
MATCH_COUNTS = table_schema("match_counts", entries_lang=_CATEGORY, entry_id=pa.int32(), count=pa.uint64())
IMAGE_PLACES = table_schema("image_places", key=pa.string(), file=_CATEGORY, offset=pa.int64(), size=pa.int64())
CURATED = table_schema(
    "curated", key=pa.string(), text_idx=pa.int32(), text=pa.string(), lang=_CATEGORY, keep_prob=pa.float64()
)
DROPPED = table_schema("dropped", **_DROPPED)
"""The pairs of a shard that are not kept, as curate's report counts them; those that match settled come first.

Under text_policy all a row is a text.  Under one it is a key, by its drawn text, else by the one that came furthest:
texts that were not drawn are no dropped pairs.  key: null if the lists of keys exclude it, which go no further than
match.  detail: as in MATCH_DROPPED; for what is sampled out, its coin, probability, and counts of its entries.
"""
EMBEDDED_IMAGES = table_schema(
    "embedded_images",
    key=pa.string(),
    place=pa.int16(),
    file=_CATEGORY,
    offset=pa.int64(),
    size=pa.int64(),
    mtime_ns=pa.int64(),
    sha256=pa.binary(16),
)
"""Images whose vectors are the rows of an array.

place: position of the pool's place below which `file` is; -1: `file` is an absolute path or a URL.  mtime_ns: of an
image file, else null.  sha256: the first 16 bytes of that of the encoded image.
"""
EMBEDDED_TEXTS = table_schema(
    "embedded_texts", key=pa.string(), text_idx=pa.int32(), text=pa.large_string(), sha256=pa.binary(16)
)

IMAGE_HASHES = table_schema(
    "image_hashes",
    key=pa.string(),
    rule=_CATEGORY,
    file=_CATEGORY,
    offset=pa.int64(),
    size=pa.int64(),
    sha256=pa.binary(16),
    pixels=pa.int64(),
    hash=pa.uint64(),
    error=pa.string(),
)
VALID_KEYS = table_schema("valid_keys", key=pa.string())
REMOVED = table_schema(
    "removed", key=pa.string(), shard=_CATEGORY, rule=_CATEGORY, other_key=pa.string(), distance=pa.int16()
)
POOL_KEYS = table_schema("pool_keys", key=pa.string())
DUPLICATES = table_schema("duplicates", shard=_CATEGORY, key=pa.string(), first_shard=_CATEGORY)
KEPT_BY_ONE = table_schema("kept_by_one", key=pa.string(), lang=_CATEGORY, kept_by=_CATEGORY)
"""The keys that only one of two curated lists has; kept_by: the folder of its run."""
