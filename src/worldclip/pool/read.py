"""Read what the stage pool has written of a shard: its pairs, and the images at their places.

`read_pairs` is the one way to the pairs of a pool: it applies the recipe's lists of keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.contracts import layout
from worldclip.contracts.reasons import REASONS, Reason
from worldclip.contracts.schemas import POOL_IMAGES, POOL_PAIRS
from worldclip.core import keys
from worldclip.core.arrow import codes_of, one_array
from worldclip.core.artifacts import read_table
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.inputs import is_remote
from worldclip.pool import row_groups
from worldclip.pool.files import FileBytes, read_range
from worldclip.pool.formats import format_of
from worldclip.pool.formats.parquet import PARQUET
from worldclip.pool.picture_files import picture_path, read_picture
from worldclip.pool.texts import NO_PLACE, PoolTexts, find_duplicates

EVERY_KEY: tuple[keys.KeyList, ...] = ()
"""No list of keys: for match, which lists never make run again, and for the accounting."""
_CODES = {reason.label: int(reason) for reason in REASONS}


def read_pairs(run_dir: Path, shard: str, key_lists: Sequence[keys.KeyList]) -> PoolTexts:
    """Return the texts of a shard, in the pool's order; those of keys that the lists exclude are `not_valid`.

    key_lists: of the recipe (pool.key_lists), or EVERY_KEY.
    """
    table = read_table(layout.pool_pairs(run_dir, shard), POOL_PAIRS)
    codes, names = codes_of(table["reason"])
    reason = np.array([_CODES[name] for name in names], np.int8)[codes] if len(codes) else np.zeros(0, np.int8)
    key = one_array(table["key"].cast(pa.large_string()))
    if key_lists:
        is_excluded = ~keys.is_valid(key, key_lists, shard)
        reason[is_excluded & (reason == Reason.KEPT)] = Reason.NOT_VALID
    details = table["detail"]
    bad_rows = np.flatnonzero(np.asarray(details.is_valid()))
    texts = one_array(table["text"].cast(pa.large_string()))
    labels = one_array(table["lang"].cast(pa.string()))
    lang = None
    if labels.null_count < len(labels):
        lang = pc.if_else(pc.equal(labels, ""), None, labels)
    return PoolTexts(
        key=key,
        row=table["row"].to_numpy(),
        text_idx=one_array(table["text_idx"]),
        place=table["place"].to_numpy(),
        text=texts,
        reason=reason,
        lang=lang,
        details=dict(zip(bad_rows.tolist(), details.take(pa.array(bad_rows)).to_pylist(), strict=True)),
    )


def read_keys(run_dir: Path, shard: str) -> tuple[pa.Array, int, int]:
    """Return (the key of each pair in order, each once; number of pairs without a key; of repeated keys)."""
    table = read_table(layout.pool_pairs(run_dir, shard), POOL_PAIRS, ["key", "text_idx", "place"])
    table = table.filter(pc.equal(table["text_idx"], 0))
    has_key = table["place"].to_numpy() != NO_PLACE
    pair_keys = one_array(table["key"].cast(pa.large_string()))
    is_repeated = find_duplicates(pair_keys, has_key)
    first = pair_keys.filter(pa.array(has_key & ~is_repeated))
    return first, int((~has_key).sum()), int(is_repeated.sum())


def read_images(run_dir: Path, shard: str, key_lists: Sequence[keys.KeyList]) -> pa.Table:
    """Return key, row, member, offset, size in bytes of the image of each pair of a shard that has one.

    key_lists: as in `read_pairs`; the images of keys that they exclude are left out.
    """
    table = read_table(layout.pool_images(run_dir, shard), POOL_IMAGES)
    if key_lists:
        table = table.filter(pa.array(keys.is_valid(table["key"], key_lists, shard)))
    return table


def image_places(shard: Shard, images: pa.Table) -> pa.Table:
    """Return key, file (an absolute path or a URL), offset and size of images, from rows of `read_images`."""
    path = shard.path if is_remote(shard.path) else os.path.abspath(shard.path)
    files = [path] * len(images)
    offsets = images["offset"].to_numpy()
    if len(images) and offsets[0] < 0:  # of a table, every image is a file of its own, or none is
        files = [picture_path(shard.path, member) for member in images["member"].to_pylist()]
        offsets = np.zeros(len(images), np.int64)
    places = [images["key"], pa.array(files, pa.string()), offsets, images["size"]]
    return pa.table(places, names=["key", "file", "offset", "size"])


def read_members(places: pa.Table) -> Iterator[bytes | BadShard]:
    """Yield the images at the ascending places of one shard, or why one cannot be read; row groups are read once.

    A tar at a URL is read whole, with one request.
    """
    files = places["file"].to_pylist()
    offsets = places["offset"].to_numpy()
    sizes = places["size"].to_pylist()
    if files and is_table(files[0]):
        yield from row_groups.read_rows(files[0], offsets)
        return
    if files and is_remote(files[0]) and len(files) > 1:
        tar = FileBytes(files[0])
        for offset, size in zip(offsets.tolist(), sizes, strict=True):
            image = tar.read(offset, size)
            yield image if len(image) == size else BadShard(f"{files[0]}: member at byte {offset:,} is cut off")
        return
    for place in zip(files, offsets.tolist(), sizes, strict=True):
        try:
            yield read_member(*place)
        except BadShard as error:
            yield error


def read_contents(places: pa.Table) -> Iterator[bytes]:
    """Yield the images at the ascending places of one shard.  Raises BadShard for one that cannot be read."""
    for image in read_members(places):
        if isinstance(image, BadShard):
            raise image
        yield image


def holds_images(run_dir: Path, shards: Sequence[Shard]) -> bool:
    """Return whether these shards hold images: tars always, tables if any row has one."""
    for shard in shards:
        if not format_of(shard.name).is_table or pq.read_metadata(layout.pool_images(run_dir, shard.name)).num_rows:
            return True
    return False


def is_table(path: str) -> bool:
    """Return whether places in the file are rows of a table, not bytes of a tar."""
    return path.endswith(PARQUET.suffixes)


def read_member(path: str | Path, offset: int, size: int) -> bytes:
    """Return the image at a place of a shard (local path or URL).

    Raises BadShard if the file ends before, or is a picture that changed.  For many images of a Parquet file
    `read_members` is the fast way: each call reads a row group.
    """
    if is_table(str(path)):
        image = next(row_groups.read_rows(str(path), np.array([offset], np.int64)))
        if isinstance(image, BadShard):
            raise image
        return image
    if offset == 0:  # a picture's own file: a tar begins with a header
        return read_picture(str(path), size)
    content = read_range(str(path), offset, size)
    if len(content) != size:
        raise BadShard(f"{path}: member at byte {offset:,} is cut off; the tar changed after it was indexed")
    return content
