"""Identify input files, local or at a URL.

A *fingerprint* is recorded in manifests and markers.  A *stamp* is what the file system says of a file at this moment:
every write, rename and change of the modification time moves it.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import TypeAlias

from worldclip.core.artifacts import Json, fingerprint
from worldclip.core.hub_errors import explain, explain_answer
from worldclip.core.remote import patiently

# What the backends of fsspec call a file's hash, entity tag or modification time; the first that is there is taken.
STAMPS = ("blob_id", "xet_hash", "ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")

Stamp: TypeAlias = tuple[int, ...]
"""Device, inode, size, and times of the last change of contents and of inode in ns."""


_PINNED = re.compile(r"hf://(datasets|spaces)?/?[^/@]+/[^/@]+@[0-9a-f]{40}/")


def is_remote(path: str) -> bool:
    return "://" in path


def is_pinned(path: str) -> bool:
    """Return whether a URL names a file of the hub at a commit, which never changes."""
    return _PINNED.match(path) is not None


def stamp_of(path: str) -> Stamp:
    """Return a file's stamp; () for a URL, and for a file that is not there."""
    if is_remote(path):
        return ()
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def size_and_time(path: str) -> Stamp:
    """Return the size and the modification time, which machines that share a file system agree on; () as `stamp_of`."""
    return stamp_of(path)[2:4]


def fingerprint_of(path: str, name: str) -> Json:
    """Return a file's fingerprint: `name`, size, and its hash (small local files), modification time or entity tag.

    A file that cannot be read has the reason instead: only its shard fails, when it is read.
    """
    try:
        if not is_remote(path):
            return {**_fingerprint_local(path, stamp_of(path)), "path": name}
        import fsspec

        files, place = fsspec.url_to_fs(path)
        info = patiently(lambda: files.info(place))
        stamps = (str(info[key]) for key in STAMPS if info.get(key))
        return {"path": name, "size": info.get("size"), "stamp": next(stamps, "")}
    except Exception as error:  # a store's library raises errors of its own, such as for a lost network
        if not isinstance(error, OSError) and explain_answer(error) is None:
            raise
        return {"path": name, "unreadable": explain(error)}


@functools.lru_cache(maxsize=2**20)
def _fingerprint_local(path: str, stamp: Stamp) -> Json:
    """Hash the contents once per process; the stamp is an argument so that a changed file is hashed again."""
    return fingerprint(Path(path), Path(path).parent)
