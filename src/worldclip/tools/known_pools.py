"""Tables of pairs that people have, known by their columns: where the key, the texts and the language are.

`worldclip init` takes the first row whose columns a table has, else columns with usual names.  A line that filters is
suggested, as a comment, for every field of FILTERS.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

from worldclip import pool as pools
from worldclip.contracts.reasons import Reason
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Shard
from worldclip.core.inputs import is_remote
from worldclip.core.job import Run
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import format_of
from worldclip.pool.formats.base import DEFAULT_PLACES, ROW
from worldclip.pool.pairs import COMMON_KEYS, read_shard


class KnownPool(NamedTuple):
    """A table that is known by its columns."""

    columns: tuple[str, ...]
    """Columns that it has, and that together tell it from the others."""
    key: str
    texts: tuple[str, ...]
    """Columns of texts; a table may lack some of them."""
    lang: str | None = None
    image_field: str | None = None


# Columns are those of the cards and papers of each dataset.
KNOWN_POOLS = (
    KnownPool(("re_caption", "org_caption"), "url", ("re_caption", "org_caption")),  # Recap-DataComp
    KnownPool(("uid", "url", "text", "clip_b32_similarity_score"), "uid", ("text",)),  # CommonPool
    KnownPool(("URL", "TEXT", "LANGUAGE"), "URL", ("TEXT",), "LANGUAGE"),  # LAION with languages
    KnownPool(("URL", "TEXT"), "URL", ("TEXT",)),  # LAION
    KnownPool(("key", "caption", "status"), "key", ("caption",)),  # img2dataset
    KnownPool(("file_name",), "file_name", ("text", "texts", "caption", "captions")),  # imagefolder
)

TEXT_NAMES = (*DEFAULT_PLACES, "captions", "alt", "alt_text", "description", "title", "sentences")
"""Columns that usually hold texts, in any case."""
TEXT_PARTS = ("caption", "sentence", "description", "alt_text")
"""Parts of the names of other columns that hold texts."""
PATH_NAMES = ("filepath", "file_name", "image_path", "filename", "path", "image")
"""Columns that usually hold the paths of images; the first two are open_clip's and imagefolder's."""
_ID_NAME = re.compile(r"(.*[ _-])?(id|sku)|.*[a-z](Id|ID|SKU)", re.ASCII)
"""Names of other columns that may identify a row: sku, product_id, productId."""
TAR_KEYS = ("uid", "url", "URL")
"""Fields of a tar's .json that identify a pair in any download of a pool."""
FILTERS = (
    ("NSFW", "=", "UNLIKELY"),
    ("nsfw", "=", "UNLIKELY"),
    ("punsafe", "<", 0.5),
    ("pwatermark", "<", 0.8),
    ("similarity", ">=", 0.28),
    ("clip_l14_similarity_score", ">=", 0.2),
    ("clip_b32_similarity_score", ">=", 0.28),
)
"""Columns that often say which rows to leave out, each with a usual condition for pool.where."""


def field_names(shard: Shard, config: PoolConfig) -> list[str]:
    """Return the columns of a table, or the fields of a shard's records."""
    reads_records = dataclasses.replace(config, key="json:uid", texts=(), lang=None, where=(), image_field=None)
    records = format_of(shard.name).read(shard, reads_records)
    return [name for name in records.names if records.has_schema or name != "txt"]  # a .txt is no field


def describe(shard: Shard, columns: Sequence[str], config: PoolConfig) -> KnownPool:
    """Return key, texts, language and images of a table with these columns; of tars nothing, as the pool finds them.

    They are those of the known pool with these columns, else usual names.  config: names the columns of a CSV.
    """
    if not format_of(shard.name).is_table:
        return KnownPool((), "member", ())
    usual_keys = (name for name in COMMON_KEYS if name in columns)
    key = next(usual_keys, None) or _unique_id(shard, columns, config) or ROW
    usual = KnownPool((), key, text_columns(columns))
    for table in KNOWN_POOLS:
        if set(table.columns) <= set(columns):
            texts = tuple(name for name in table.texts if name in columns)
            usual = table._replace(texts=texts or usual.texts)
            break
    if read_shard(shard, dataclasses.replace(config, key=ROW), needs_texts=False).holds_images:
        return usual
    return _with_pictures(usual, shard, columns, config)


def _unique_id(shard: Shard, columns: Sequence[str], config: PoolConfig) -> str | None:
    """Return the first column with the name of an id that every row of a table has, and no two rows share."""
    for name in columns:
        if not _ID_NAME.fullmatch(name) and not _ID_NAME.fullmatch(name.lower()):
            continue
        try:
            counts = read_shard(shard, dataclasses.replace(config, key=name), needs_texts=False).counts
        except BadShard:  # no column of keys
            continue
        if not counts[Reason.DUPLICATE.label] and not counts[Reason.BAD_PAIR.label]:
            return name
    return None


def _with_pictures(usual: KnownPool, shard: Shard, columns: Sequence[str], config: PoolConfig) -> KnownPool:
    """Return what a table is, with the column that names image files, if any of them is there.

    Its paths are the keys where no other column is, or the rows where some share a key: several texts per image.
    """
    for name in PATH_NAMES:
        if name not in columns or is_remote(shard.path):
            continue
        key = name if usual.key == ROW else usual.key
        try:
            settled = read_shard(shard, dataclasses.replace(config, key=key, image_field=name), needs_texts=False)
        except BadShard:  # no column of paths
            continue
        if len(settled.images):
            has_repeated_keys = (settled.texts.reason == Reason.DUPLICATE).any()
            return usual._replace(key=ROW if has_repeated_keys else key, image_field=name)
    return usual


def with_usual_columns(run: Run) -> Run:
    """Return the run with the columns of a table that usually hold key, texts and images, where no key is set."""
    config = run.section(PoolConfig)
    if config.key != "member":
        return run
    try:
        shard = pools.list_pool(run)[0]
        if not format_of(shard.name).is_table:
            return run
        usual = describe(shard, field_names(shard, config), config)
    except (UserError, BadShard):  # image files are no pool; what is wrong with others is said when they are read
        return run
    texts = config.texts or usual.texts
    image_field = config.image_field or usual.image_field
    config = dataclasses.replace(config, key=usual.key, texts=texts, image_field=image_field)
    return dataclasses.replace(run, sections={**run.sections, "pool": config})


def is_text_name(name: str) -> bool:
    """Return whether a column with this name usually holds texts."""
    lower = name.lower()
    return lower in {usual.lower() for usual in TEXT_NAMES} or any(part in lower for part in TEXT_PARTS)


def text_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the first column with a usual name, in any case, or with a part of one; empty if there is none."""
    by_lower = {name.lower(): name for name in reversed(columns)}
    for usual in TEXT_NAMES:
        if usual.lower() in by_lower:
            return (by_lower[usual.lower()],)
    for part in TEXT_PARTS:
        for name in columns:
            if part in name.lower():
                return (name,)
    return ()
