"""List a folder of files, and sort its pictures into groups that keep their members while the folder changes.

A *stamp* is (path relative to the folder with `/`, bytes, modification time in ns).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    files: list[Stamp] = field(default_factory=list)
    num_hidden: int = 0
    """Files and folders whose name begins with a dot; they are left out."""
    num_not_utf8: int = 0
    """Files and folders whose names are not UTF-8; they are left out."""
    linked_folders: list[str] = field(default_factory=list)
    """Paths of links to folders, which are not entered."""
    leaving: list[tuple[str, str]] = field(default_factory=list)
    """(path, target) of links to files outside of the folder; they are listed."""

    def remarks(self, other_files: Sequence[str]) -> list[str]:
        """Return lines for the user on what is not read; other_files: names of files that are no pictures."""
        lines = []
        if other_files:
            lines.append(f"{self.root}: left out {by_suffix(other_files)}")
        if self.num_hidden:
            lines.append(f"{self.root}: left out {self.num_hidden:,} hidden files and folders")
        if self.num_not_utf8:
            lines.append(f"{self.root}: left out {self.num_not_utf8:,} files and folders whose names are not UTF-8")
        if self.linked_folders:
            lines.append(f"{self.root}: does not enter linked folders: {_first(self.linked_folders)}")
        if self.leaving:
            links = [f"{name} -> {target}" for name, target in self.leaving]
            lines.append(
                f"{self.root}: {counted(len(links), 'link')} to files elsewhere: {_first(links)}; a search page shows "
                "them with --pictures-from FOLDER"
            )
        return lines


def list_folder(root: Path) -> Listing:
    """Return what a folder holds.  Raises OSError for a folder that cannot be read."""
    listing = Listing(root=root)
    inside = f"{os.path.realpath(root)}/"
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.name.startswith("."):
                    listing.num_hidden += 1
                elif not _is_utf8(entry.name):
                    listing.num_not_utf8 += 1
                elif entry.is_dir(follow_symlinks=False):
                    prefixes.append(f"{name}/")
                elif entry.is_dir():
                    listing.linked_folders.append(name)
                elif entry.is_file():
                    status = entry.stat()
                    listing.files.append((name, status.st_size, status.st_mtime_ns))
                    if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                        listing.leaving.append((name, os.path.realpath(entry.path)))
    listing.files.sort()
    return listing


def pictures_of(files: Sequence[Stamp]) -> tuple[list[Stamp], list[str]]:
    """Return the pictures that can be read among files, and the names of all others."""
    suffixes = readable_suffixes()
    pictures: list[Stamp] = []
    others: list[str] = []
    for stamp in files:
        if stamp[0].lower().endswith(suffixes):
            pictures.append(stamp)
        else:
            others.append(stamp[0])
    return pictures, others


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
        members = [new.pop(name) for name in names if name in new]
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


def files_of_group(fingerprint: Json) -> list[Stamp]:
    """Return the stamps of a group from its fingerprint."""
    parts = fingerprint["files"].split("\0")
    return list(zip(parts[0::3], map(int, parts[1::3]), map(int, parts[2::3]), strict=True))


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
