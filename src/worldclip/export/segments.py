"""The files of a folder of embeddings: a segment is an array of vectors and the table of what its rows are.

N rows, D embed_dim.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import EllipsisType
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.contracts.schemas import EMBEDDED_IMAGES, EMBEDDED_TEXTS, IMAGE_PLACES
from worldclip.core.artifacts import read_table
from worldclip.core.errors import BadShard, UserError
from worldclip.core.inputs import size_and_time
from worldclip.core.job import Report

Of = Literal["images", "texts"]
IMAGES_OR_TEXTS: dict[Of, pa.Schema] = {"images": EMBEDDED_IMAGES, "texts": EMBEDDED_TEXTS}
CACHED_TABLES = 256  # tables in memory: a server asks for the same ones again, and reading one takes milliseconds


class ShardRows:
    """The (rows, D) float32 array of a .npy file, mapped only while rows are read: a folder may have many shards."""

    def __init__(self, path: Path) -> None:
        """Read the shape.  Raises UserError for a file that is no such array."""
        self.path = path
        self._written = size_and_time(str(path))
        try:
            self.shape: tuple[int, ...] = self[...].shape
            if len(self.shape) != 2:
                raise ValueError(f"{len(self.shape)} dimensions")
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{path} is cut or no array ({error}); remove it and embed the pool again") from error

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | EllipsisType | np.ndarray) -> np.ndarray:
        """Return rows.  Raises UserError as `require_unchanged`."""
        self.require_unchanged()
        array: np.ndarray = np.lib.format.open_memmap(self.path, mode="r")
        return array[rows]

    def require_unchanged(self) -> None:
        """Raise UserError for a file that was written since: its rows may be of another model or of other pairs."""
        if size_and_time(str(self.path)) != self._written:
            raise UserError(f"{self.path} changed or went since the folder was opened; open it again")


def segments_of(manifest: Report, of: Of) -> dict[str, str]:
    """Return {shard: the name of its files, without suffixes}, by shard; {} where the folder holds none.

    The files of release 0.1 have the names of their shards.
    """
    if "segments" in manifest:
        return dict(sorted(manifest["segments"].get(of, {}).items()))
    return {name: name for name in sorted(manifest["inputs"].get(of, {}))}


def read_segment(path: Path, schema: pa.Schema, columns: Sequence[str] = ()) -> pa.Table:
    """Return the columns of a schema and of the pool, without those of vectors.

    Raises UserError for a file that cannot be read.
    """
    try:
        stat = path.stat()
        return _read_version(path, schema, tuple(columns), stat.st_mtime_ns, stat.st_size)
    except (BadShard, OSError) as error:
        raise UserError(f"{error}; remove it and embed the pool again") from error


@functools.lru_cache(maxsize=CACHED_TABLES)
def _read_version(path: Path, schema: pa.Schema, columns: Sequence[str], mtime_ns: int, size: int) -> pa.Table:
    try:
        is_older = "sha256" not in pq.read_schema(path).names  # release 0.1 wrote absolute paths and no hash
    except pa.ArrowInvalid:
        is_older = False
    if not is_older:
        return read_table(path, schema, [*schema.names, *columns])
    if schema == EMBEDDED_IMAGES:
        table = read_table(path, IMAGE_PLACES, IMAGE_PLACES.names)
        table = table.append_column("place", pa.array(np.full(len(table), -1, np.int16)))
        table = table.append_column("mtime_ns", pa.nulls(len(table), pa.int64()))
    else:
        table = read_table(path, schema, [name for name in schema.names if name != "sha256"])
    return table.append_column("sha256", pa.nulls(len(table), pa.binary(16)))


def hash_of(content: bytes) -> bytes:
    """Return the 16 bytes that stand for an encoded image or a text in UTF-8: equal ones have one embedding."""
    return hashlib.sha256(content).digest()[:16]


def row_names(of: Of, shard: str, table: pa.Table) -> pa.ChunkedArray:
    """Return what names each row of a shard in its pool; table: key, and text_idx of texts.

    It is shard/key of an image, of a picture in a folder its path, and shard/key#text_idx of a text.
    """
    names = table["key"].cast(pa.string())
    if not is_group(shard):
        names = pc.binary_join_element_wise(shard, names, "/")
    if of == "texts":
        names = pc.binary_join_element_wise(names, table["text_idx"].cast(pa.string()), "#")
    return names


def is_own_file(table: pa.Table) -> pa.ChunkedArray:
    """Return which images are files of their own; table: offset and size.

    A member of a tar comes after a header, and images in Parquet have size -1.
    """
    return pc.and_(pc.equal(table["offset"], 0), pc.greater_equal(table["size"], 0))


def is_group(shard: str) -> bool:
    """Return whether a shard is a group of image files, such as files_000000, and no file with a suffix."""
    return "." not in shard
