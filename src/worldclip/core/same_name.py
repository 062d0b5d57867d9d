"""Refuse names that one file system takes for the same file: A.tar and a.tar on macOS and Windows.

Pools come from object stores and from Linux, where both exist.  On a disk that folds case or composes accents, the
outputs of one would silently replace those of the other.
"""

from __future__ import annotations

import os
import platform
import shutil
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from worldclip.core.errors import UserError
from worldclip.core.safe_path import safe_join

NUM_NAMED = 5  # pairs of names that a message names


def refuse_equal_names(names: Callable[[], Iterable[str]], folder: Path) -> None:
    """Raise UserError where two names would be one file below `folder`, which is made if it is missing.

    names: called twice, so that a million names are never held.  Only where names are equal without case and accents'
    composition, the file system is asked.
    """
    hashes = np.array(array("q", (hash(_folded(name)) for name in names())))  # 8 bytes for each of a million names
    values, counts = np.unique(hashes, return_counts=True)
    shared = set(values[counts > 1].tolist())
    if not shared:
        return
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names():
        if hash(_folded(name)) in shared:
            groups[_folded(name)].append(name)
    pairs = [(group[0], other) for group in groups.values() for other in group[1:] if other != group[0]]
    if not pairs:
        return
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f".names.{platform.node()}.{os.getpid()}.tmp"  # artifacts.sweep removes what a kill leaves
    place.mkdir(exist_ok=True)
    try:
        equal = [f"{first} and {second}" for first, second in pairs if _is_one_file(place, first, second)]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if equal:
        more = f", and {len(equal) - NUM_NAMED} more pairs" if len(equal) > NUM_NAMED else ""
        raise UserError(
            f"the file system of {folder} takes these names for one file: {'; '.join(equal[:NUM_NAMED])}{more}; rename "
            "one of them, or write to a file system that tells upper from lower case"
        )


def _is_one_file(place: Path, first: str, second: str) -> bool:
    """Write `first` into an empty folder, and return whether it is there as `second`."""
    written = safe_join(place, first)
    written.parent.mkdir(parents=True, exist_ok=True)
    written.touch()
    return safe_join(place, second).exists()


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
