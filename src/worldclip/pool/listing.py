"""List the files of a pool, and what is left out with its reason: nothing is skipped without a word."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import fsspec

from worldclip.core.errors import UserError
from worldclip.core.hub_errors import explain
from worldclip.core.inputs import is_remote
from worldclip.core.safe_path import is_safe_name
from worldclip.pool.files import PoolFile

HIDDEN = "hidden: its name begins with a dot"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The files below a path."""

    files: list[PoolFile] = field(default_factory=list)
    broken_links: dict[str, str] = field(default_factory=dict)
    """Why each of these names leads to no file."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Why these folders (`a/`) and files are not listed."""


def list_files(path: str, suffixes: tuple[str, ...]) -> Listing:
    """Return every file below `path`, without hidden files and folders; the path of a file gives that file.

    Links are followed.  A folder that two names lead to is listed once, under its own name rather than that of a link.
    suffixes: of shards; a hidden file without one of them is not mentioned.

    Raises UserError for a path that is neither a folder nor a file, or that cannot be listed.
    """
    if is_remote(path):
        return _list_remote(path, suffixes)
    root = Path(path)
    if root.is_file():
        return Listing(files=[PoolFile(root.name, str(root))])
    if not root.is_dir():
        raise UserError(f"{str(root)!r}: no such folder or file; name the folder of the shards")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise UserError(f"{str(root)!r}: cannot be listed ({error.strerror}); check its permissions") from error
    return _list_local(root, suffixes)


def _list_local(root: Path, suffixes: tuple[str, ...]) -> Listing:
    listing = Listing()
    top = os.path.realpath(root)
    names = {top: ""}  # name of each listed folder, by its real path
    folders, links = deque([("", str(root))]), deque[tuple[str, str]]()
    while folders or links:
        if not folders:  # links come after all real folders, so that a link never gives a folder its name
            name, path = links.popleft()
            target = os.path.realpath(path)
            if top == target or top.startswith(target.rstrip("/") + "/"):
                listing.skipped[f"{name}/"] = "links to a folder that holds the pool"
            elif target in names:
                listing.skipped[f"{name}/"] = f"links to {names[target]}/, which is listed"
            else:
                names[target] = name
                folders.append((name, path))
            continue
        name, path = folders.popleft()
        for entry in _entries(name, path, listing):
            child = f"{name}/{entry.name}" if name else entry.name
            kind = _kind(entry)
            if entry.name.startswith("."):
                if kind == "folder" or entry.name.endswith(suffixes):
                    listing.skipped[child + "/" * (kind == "folder")] = HIDDEN
            elif kind == "file":
                listing.files.append(PoolFile(child, entry.path))
            elif kind == "folder" and entry.is_symlink():
                links.append((child, entry.path))
            elif kind == "folder":
                real = os.path.realpath(entry.path)
                if real in names:  # below the target of a link
                    listing.skipped[f"{child}/"] = f"is {names[real]}/, which is listed"
                else:
                    names[real] = child
                    folders.append((child, entry.path))
            elif entry.is_symlink():
                listing.broken_links[child] = f"links to {os.readlink(entry.path)}, which {kind}"
            else:
                listing.skipped[child] = kind
    return listing


def _entries(name: str, path: str, listing: Listing) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        listing.skipped[f"{name}/"] = f"cannot be entered ({error.strerror})"
        return []


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "file", "folder", or why it is neither; links are followed."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "neither a file nor a folder"


def _list_remote(url: str, suffixes: tuple[str, ...]) -> Listing:
    try:
        files, root = fsspec.url_to_fs(url)
        files.invalidate_cache()  # else a file that changed since the last listing would look the same
        paths = files.find(root)
    except Exception as error:  # those of a store's HTTP library, without a network for example, have no common class
        raise UserError(
            f"{url!r}: cannot be listed ({explain(error)}); check the URL, access, and fsspec's package"
        ) from error
    if not paths:
        raise UserError(f"{url!r}: no files; set it to the folder of the shards")
    root = root.rstrip("/")
    listing = Listing()
    for path in paths:
        base = path.rsplit("/", 1)[-1]
        name = path.removeprefix(root).lstrip("/") or base  # empty for the URL of a single file
        if is_safe_name(name) and not any(part.startswith(".") for part in name.split("/")):
            listing.files.append(PoolFile(name, files.unstrip_protocol(path)))
        elif base.endswith(suffixes):
            listing.skipped[name] = HIDDEN
    return listing
