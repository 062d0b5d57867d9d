"""Files of a pool, in a local folder or behind any URL that fsspec knows (s3, gs, http, memory, ...)."""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import fsspec
import numpy as np

from worldclip.core.artifacts import fingerprint
from worldclip.core.errors import BadShard, UserError

STAMPS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")  # of fsspec's backends


@dataclass(frozen=True, slots=True)
class PoolFile:
    """One file below the root of a pool."""

    name: str
    """Path relative to the root, with `/`."""
    path: str
    """Local path or URL."""


def is_remote(path: str) -> bool:
    return "://" in path


def has_password(path: str) -> bool:
    return is_remote(path) and bool(urlsplit(path).password)


def list_files(path: str) -> list[PoolFile]:
    """Every file below `path`, hidden ones left out; a file stands for itself.  Raises UserError for what is none."""
    return _list_remote(path) if is_remote(path) else _list_local(Path(path))


def _list_local(path: Path) -> list[PoolFile]:
    if path.is_file():
        return [PoolFile(path.name, str(path))]
    if not path.is_dir():
        raise UserError(f"{str(path)!r} is no folder; give the folder of the pool's files")
    files = [item for item in path.rglob("*") if not item.name.startswith(".") and item.is_file()]
    return [PoolFile(item.relative_to(path).as_posix(), str(item)) for item in files]


def _list_remote(url: str) -> list[PoolFile]:
    try:
        files, root = fsspec.url_to_fs(url)
        found = files.find(root)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{url!r} cannot be listed: {error}; check address, access and fsspec's package") from error
    if not found:
        raise UserError(f"{url!r} holds nothing; give the folder of the pool's files")
    root = root.rstrip("/")
    names = [item.removeprefix(root).lstrip("/") or item.rsplit("/", 1)[-1] for item in found]
    pairs = zip(names, found, strict=True)
    return [PoolFile(name, files.unstrip_protocol(item)) for name, item in pairs if not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith(".")


def check_own(folder: Path) -> None:
    """Raises UserError where --out is a folder of someone's files: what is not ours there is removed at the end."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ".lock").exists():
        raise UserError(f"--out is {str(folder)!r}, which holds files of others; give a new folder, or an empty one")


def known_by(file: PoolFile) -> dict[str, Any]:
    """Fingerprint: relative path, size, and hash (small local files), modification time or entity tag."""
    if is_remote(file.path):
        files, place = fsspec.url_to_fs(file.path)
        info = files.info(place)
        known = {"path": file.name, "size": info.get("size")}
        return known | {"stamp": str(next((info[stamp] for stamp in STAMPS if info.get(stamp)), ""))}
    stat = os.stat(file.path)
    return {**_fingerprint(file.path, stat.st_size, stat.st_mtime_ns), "path": file.name}


@functools.cache
def _fingerprint(path: str, size: int, mtime_ns: int) -> dict[str, Any]:
    """Contents are hashed once in a process; size and time tell that a file became another one."""
    return fingerprint(Path(path), Path(path).parent)


def read_bytes(path: str) -> np.ndarray:
    """The whole file as uint8: memory-mapped where it is local.  Raises BadShard where it cannot be read."""
    try:
        if is_remote(path):
            files, place = fsspec.url_to_fs(path)
            return np.frombuffer(files.cat_file(place), np.uint8)
        with open(path, "rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return np.empty(0, np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise _unreadable(error) from error


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """The file, opened for reads from any place in it.  Raises BadShard where it cannot be read."""
    try:
        if is_remote(path):
            files, place = fsspec.url_to_fs(path)
            file = files.open(place, "rb")
        else:
            file = open(path, "rb")  # noqa: SIM115  closed below
    except OSError as error:
        raise _unreadable(error) from error
    with file:
        yield file


def read_range(path: str, start: int, size: int) -> bytes:
    """`size` bytes from `start` on, fewer where the file ends before.  Raises BadShard where it cannot be read."""
    try:
        if is_remote(path):
            files, place = fsspec.url_to_fs(path)
            content = bytes(files.cat_file(place, start=start, end=start + size))
            return content[start : start + size] if len(content) > size else content  # a server that knows no ranges
        with open(path, "rb") as file:
            return os.pread(file.fileno(), size, start)
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> BadShard:
    return BadShard(f"cannot be read ({error.strerror or error})")
