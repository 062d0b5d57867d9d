"""Set the older result of a stage aside under --from, until the new start is accepted; put it back if it is not.

RUN/.train.set_aside      the older RUN/train, while what starts in its place may still be refused
"""

from __future__ import annotations

import os
from pathlib import Path

from worldclip.core.artifacts import remove, replace_folder

_SUFFIX = ".set_aside"


class OlderResult:
    """The older folder of the present stage, if one is set aside."""

    def __init__(self) -> None:
        self._aside: Path | None = None

    def set_aside(self, folder: Path) -> None:
        """Rename a folder, if it is there."""
        if folder.exists():
            self._aside = folder.with_name(f".{folder.name}{_SUFFIX}")
            os.replace(folder, self._aside)

    def put_back(self) -> None:
        """Put the folder back, in place of what has come there."""
        aside, self._aside = self._aside, None
        if aside is not None:
            _put_back(aside)

    def give_up(self) -> None:
        """Remove the folder."""
        aside, self._aside = self._aside, None
        if aside is not None:
            remove(aside)


def put_back_all(run_dir: Path) -> None:
    """Put back what a killed process had set aside: its new start was not accepted yet."""
    for aside in run_dir.glob(f".*{_SUFFIX}"):
        _put_back(aside)


def _put_back(aside: Path) -> None:
    replace_folder(aside, aside.with_name(aside.name.removeprefix(".").removesuffix(_SUFFIX)))
