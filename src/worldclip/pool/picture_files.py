"""Images in files of their own, which a column of a table names: open_clip's `filepath`, imagefolder's `file_name`.

A path is absolute, or relative to the folder of its table.  Others wrote it: only a regular file with an image's suffix
is taken, so no table makes us copy a private key or wait for a FIFO.  In RUN/pool/images `member` is the path in the
table, `size` the bytes of the file, and `offset` -1 - row, which no place within a shard is.
"""

from __future__ import annotations

import os
import stat

import numpy as np
import pyarrow as pa

from worldclip.core import image_names
from worldclip.core.artifacts import digest
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.regular_file import NO_FILE
from worldclip.pool.files import read_range

MAX_PICTURE_BYTES = 2**30  # a sparse file of any size costs nothing to make


def picture_path(table: str, member: str) -> str:
    """Return the absolute path of a picture that a table names."""
    return os.path.join(os.path.dirname(os.path.abspath(table)), member)


def size_of_picture(table: str, path: bytes | None) -> int | str:
    """Return the size in bytes of a picture that a table names, or why it cannot be used."""
    if not path:
        return "no path of a picture"
    try:
        place = picture_path(table, path.decode())
        if os.path.splitext(place)[1].lower() not in image_names.SUFFIXES:
            raise ValueError(f"its name ends in none of {', '.join(image_names.SUFFIXES)}")
        status = os.stat(place)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is a folder" if stat.S_ISDIR(status.st_mode) else NO_FILE)
        if not os.access(place, os.R_OK):
            raise ValueError("its permissions do not let it be read")
        if not 0 < status.st_size <= MAX_PICTURE_BYTES:
            raise ValueError(f"has {status.st_size:,} bytes; the limits are 1 and {MAX_PICTURE_BYTES:,}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return f"picture {path.decode(errors='backslashreplace')!r}: {reason}"
    return status.st_size


def find_pictures(shard: Shard, paths: pa.LargeBinaryArray) -> tuple[pa.Table, dict[int, str]]:
    """Return the images of pairs in files of their own, as ShardPairs has them, and why others cannot be used, by pair.

    paths: (P,) relative to the shard's folder, null for none.
    """
    pairs: list[int] = []
    sizes: list[int] = []
    problems: dict[int, str] = {}
    for pair, path in enumerate(paths.to_pylist()):
        size = size_of_picture(shard.path, path)
        if isinstance(size, str):
            problems[pair] = size
        else:
            pairs.append(pair)
            sizes.append(size)
    row = np.array(pairs, np.int64)
    members = paths.take(pa.array(row)).cast(pa.large_string())
    images = {"row": row, "member": members, "offset": -1 - row, "size": np.array(sizes, np.int64)}
    return pa.table(images), problems


def digest_of_pictures(table: str, images: pa.Table) -> str:
    """Return a digest of path, size and time of the pictures that a table names; "" of images in the shard itself.

    Raises BadShard for a picture that went while the shard was read.
    """
    if not len(images) or images["offset"][0].as_py() >= 0:
        return ""
    members = images["member"].to_pylist()
    times = []
    for member in members:
        path = picture_path(table, member)
        try:
            times.append(os.stat(path).st_mtime_ns)
        except OSError as error:
            raise BadShard(f"{path}: went while the pool was read; run the same command again") from error
    return digest([members, images["size"].to_pylist(), times])


def read_picture(path: str, size: int) -> bytes:
    """Return a picture that had `size` bytes when it was indexed.  Raises BadShard that names one that changed."""
    try:
        content = read_range(path, 0, size + 1)
    except BadShard as error:
        raise type(error)(f"{path}: {error}") from error.__cause__
    if len(content) != size:
        raise BadShard(f"{path}: changed after it was indexed")
    return content
