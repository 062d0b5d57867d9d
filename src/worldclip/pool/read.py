"""One shard of a pool in any format: its texts, its keys, and where its images are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout
from worldclip.contracts.schemas import POOL_INDEX
from worldclip.core.artifacts import read_table
from worldclip.core.errors import BadShard
from worldclip.core.execute import Report, Shard
from worldclip.core.inputs import is_remote
from worldclip.core.keys import KeyTable
from worldclip.pool import row_groups
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import read_range
from worldclip.pool.formats import format_of
from worldclip.pool.formats.parquet import PARQUET
from worldclip.pool.picture_files import picture_path, read_picture
from worldclip.pool.records import KeyedRecords
from worldclip.pool.texts import PoolTexts, find_duplicates


def read_texts(shard: Shard, config: PoolConfig) -> PoolTexts:
    """Return all texts of one shard.  Raises BadShard if it is damaged or lacks the recipe's columns."""
    return format_of(shard.name).read_texts(shard, config)


def read_records(shard: Shard, config: PoolConfig) -> KeyedRecords:
    """Return the key of each pair of a shard with images, and what JSON can hold of it."""
    return format_of(shard.name).read_records(shard, config)


def holds_images(shards: Sequence[Shard], config: PoolConfig) -> bool:
    """Return whether the first shard that can be read holds images."""
    for shard in shards:
        try:
            return format_of(shard.name).holds_images(shard, config)
        except BadShard:  # reported when it is read
            continue
    return False


def read_keys(shard: Shard, config: PoolConfig) -> tuple[pa.Array, int, int]:
    """Return (the key of each pair in order, each once; pairs without a key; repeated keys).

    This is what match makes of the shard: a pair without a key is bad, the first of a repeated key stays.
    """
    keys, has_key, _ = format_of(shard.name).read_keys(shard, config)
    is_repeated = find_duplicates(keys, has_key)
    first = keys.filter(pa.array(has_key & ~is_repeated))
    return first, int((~has_key).sum()), int(is_repeated.sum())


def rows_of_keys(shard: Shard, config: PoolConfig, keys: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return (K,) int64: the row of a Parquet shard in which each of these keys, which it must have, comes first."""
    (all_keys, has_key, _), table_rows = PARQUET.pairs_of(shard, config)
    is_first = has_key & ~find_duplicates(all_keys, has_key)
    found = KeyTable(all_keys.filter(pa.array(is_first))).find(keys)
    if (found < 0).any():
        raise BadShard(f"{shard.path}: lacks keys that were matched; the file changed meanwhile, run match again")
    numbers: np.ndarray = table_rows.numbers[is_first][found]
    return numbers


def index_of(shard: Shard, config: PoolConfig) -> tuple[pa.Table, Report]:
    """Return (key, member, offset, size of the first image of each pair; INDEX_COUNTS of formats/base.py)."""
    return format_of(shard.name).index_images(shard, config)


def read_images(shard: Shard, config: PoolConfig) -> tuple[pa.Table, Iterator[bytes]]:
    """Return (index as `index_of`, the images in the same order); the shard is read once."""
    return format_of(shard.name).read_images(shard, config)


def read_index(run_dir: Path, shard: Shard) -> pa.Table:
    """Return rows of key, member, offset, size in bytes: the first image of each sample of the tar at `shard.path`."""
    return read_table(layout.pool_index(run_dir, shard.name), POOL_INDEX)


def image_places(shard: Shard, index: pa.Table) -> pa.Table:
    """Return key, file (an absolute path or a URL), offset and size of images, from rows of the shard's index."""
    path = shard.path if is_remote(shard.path) else os.path.abspath(shard.path)
    files, offsets = [path] * len(index), index["offset"].to_numpy()
    if len(index) and offsets[0] < 0:  # of a table, every image is a file of its own, or none is
        files = [picture_path(shard.path, member) for member in index["member"].to_pylist()]
        offsets = np.zeros(len(index), np.int64)
    places = [index["key"], pa.array(files, pa.string()), offsets, index["size"]]
    return pa.table(places, names=["key", "file", "offset", "size"])


def read_members(places: pa.Table) -> Iterator[bytes | BadShard]:
    """Yield the images at the ascending places of one shard, or why one cannot be read; row groups are read once."""
    files, offsets, sizes = places["file"].to_pylist(), places["offset"].to_numpy(), places["size"].to_pylist()
    if files and is_table(files[0]):
        yield from row_groups.read_rows(files[0], offsets)
        return
    for place in zip(files, offsets.tolist(), sizes, strict=True):
        try:
            yield read_member(*place)
        except BadShard as error:
            yield error


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
