"""List a folder of files, and sort its pictures into groups that keep their members while the folder changes.

A *stamp* is (path relative to the folder with `/`, bytes, modification time in ns).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from worldclip.core.artifacts import Json
from worldclip.core.image_names import by_suffix, readable_suffixes
from worldclip.core.printable import counted

Stamp: TypeAlias = tuple[str, int, int]
FILES_PER_GROUP = 1000
MAX_GROUPS = 256
"""More files make larger groups: each group is two files, which a search opens."""
NUM_NAMED = 3  # links that a message names


@dataclass(kw_only=True, slots=True)
class Listing:
    """The regular files of a folder and of the folders in it, by name; links to files among them."""

    root: Path
    pictures: list[Stamp] = field(default_factory=list)
    """Those that can be read."""
    others: list[str] = field(default_factory=list)
    """Names of all other files."""
    num_hidden: int = 0
    """Files and folders whose name begins with a dot; they are left out."""
    num_not_utf8: int = 0
    """Files and folders whose names are not UTF-8; they are left out."""
    linked_folders: list[str] = field(default_factory=list)
    """Paths of links to folders, which are not entered."""
    closed_folders: list[str] = field(default_factory=list)
    """Paths of folders that may not be entered; they are left out."""
    leaving: list[tuple[str, str]] = field(default_factory=list)
    """(path, target) of links to files outside of the folder; they are listed."""

    def remarks(self, other_files: Sequence[str]) -> list[str]:
        """Return lines for the user on what is not read; other_files: those of `others` that are not read."""
        lines = []
        if other_files:
            lines.append(f"{self.root}: left out {by_suffix(other_files)}")
        if self.num_hidden:
            lines.append(f"{self.root}: left out {self.num_hidden:,} hidden files and folders")
        if self.num_not_utf8:
            lines.append(f"{self.root}: left out {self.num_not_utf8:,} files and folders whose names are not UTF-8")
        if self.linked_folders:
            lines.append(f"{self.root}: does not enter linked folders: {_first(self.linked_folders)}")
        if self.closed_folders:
            lines.append(f"{self.root}: cannot enter {_first(self.closed_folders)}")
        if self.leaving:
            links = [f"{name} -> {target}" for name, target in self.leaving]
            lines.append(
                f"{self.root}: {counted(len(links), 'link')} to files elsewhere: {_first(links)}; a search page shows "
                "them with --pictures-from FOLDER"
            )
        return lines


def list_folder(root: Path) -> Listing:
    """Return what a folder holds.  Raises OSError where the folder itself cannot be read."""
    listing = Listing(root=root)
    suffixes = readable_suffixes()
    inside = f"{os.path.realpath(root)}/"
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        try:
            opened = os.scandir(root / prefix)
        except PermissionError:
            if not prefix:
                raise
            listing.closed_folders.append(prefix)
            continue
        with opened as entries:
            for entry in entries:
                name = entry.name
                path = f"{prefix}{name}"
                if name.startswith("."):
                    listing.num_hidden += 1
                    continue
                if not name.isascii() and not _is_utf8(name):
                    listing.num_not_utf8 += 1
                    continue
                if not entry.is_file(follow_symlinks=False):  # few are none, so a file has one call
                    if entry.is_dir(follow_symlinks=False):
                        prefixes.append(f"{path}/")
                    elif entry.is_dir():
                        listing.linked_folders.append(path)
                    if not entry.is_file():
                        continue
                    if not os.path.realpath(entry.path).startswith(inside):
                        listing.leaving.append((path, os.path.realpath(entry.path)))
                if name.lower().endswith(suffixes):
                    status = entry.stat()
                    listing.pictures.append((path, status.st_size, status.st_mtime_ns))
                else:
                    listing.others.append(path)
    listing.pictures.sort(key=itemgetter(0))  # texts compare in half the time of tuples
    listing.others.sort()
    return listing


def group_files(files: Sequence[Stamp], earlier: Mapping[str, Sequence[str]]) -> dict[str, list[Stamp]]:
    """Return {group: its files}: a file stays in the group that it is in, others fill the groups that are half empty.

    earlier: {group: names of its files} of the time before.  Everything is grouped anew where the groups of before are
    more than twice as many as are needed.
    """
    size = max(FILES_PER_GROUP, -(-len(files) // MAX_GROUPS))
    if len(earlier) > 2 * (len(files) // size + 1):
        earlier = {}
    new = {stamp[0]: stamp for stamp in files}
    groups: dict[str, list[Stamp]] = {}
    for group, names in earlier.items():
        stamps = [new.pop(name, None) for name in names]
        members = [stamp for stamp in stamps if stamp is not None]
        if members:
            groups[group] = members
    arriving = list(new.values())
    for group in sorted(groups, key=lambda group: (len(groups[group]), group)):
        room = size - len(groups[group]) if 2 * len(groups[group]) <= size else 0
        groups[group] += arriving[:room]
        arriving = arriving[room:]
    number = 0
    while arriving:
        name = f"files_{number:06}"
        if name not in groups:
            groups[name] = arriving[:size]
            arriving = arriving[size:]
        number += 1
    return dict(sorted(groups.items()))


def fingerprint_of_group(files: Sequence[Stamp]) -> Json:
    """Return the fingerprint of a group: its stamps as one text, which a million files are read from in a second."""
    return {"files": "\0".join([f"{name}\0{size}\0{time_ns}" for name, size, time_ns in files])}


def names_of_group(fingerprint: Json) -> list[str]:
    """Return the names of a group's files from its fingerprint, in a third of the time of `files_of_group`."""
    names: list[str] = fingerprint["files"].split("\0")[0::3]
    return names


def files_of_group(fingerprint: Json) -> list[Stamp]:
    """Return the stamps of a group from its fingerprint."""
    parts = fingerprint["files"].split("\0")
    return list(zip(parts[0::3], map(int, parts[1::3]), map(int, parts[2::3]), strict=True))


def size_of_group(fingerprint: Json) -> int:
    """Return the bytes of a group's files from its fingerprint."""
    return sum(map(int, fingerprint["files"].split("\0")[1::3]))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first(items: Sequence[str]) -> str:
    more = len(items) - NUM_NAMED
    named = ", ".join(items[:NUM_NAMED])
    return f"{named} and {more:,} more" if more > 0 else named
