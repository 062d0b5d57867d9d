"""Set the older result of a stage aside under --from, until the new start is accepted; put it back if it is not.

RUN/.train.set_aside      the older RUN/train, while what starts in its place may still be refused
"""

from __future__ import annotations

import os
from pathlib import Path

from worldclip.core.artifacts import replace_folder

_SUFFIX = ".set_aside"


def set_aside(folder: Path) -> Path | None:
    """Rename a folder; return its new path, None if it is not there."""
    if not folder.exists():
        return None
    aside = folder.with_name(f".{folder.name}{_SUFFIX}")
    os.replace(folder, aside)
    return aside


def put_back(aside: Path) -> None:
    """Put a folder that was set aside back, in place of what has come there."""
    replace_folder(aside, aside.with_name(aside.name.removeprefix(".").removesuffix(_SUFFIX)))


def put_back_all(run_dir: Path) -> None:
    """Put back what a killed process had set aside: its new start was not accepted yet."""
    for aside in run_dir.glob(f".*{_SUFFIX}"):
        put_back(aside)
