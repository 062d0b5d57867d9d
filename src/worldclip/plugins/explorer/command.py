"""The command `explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldclip.core.command import Command
from worldclip.plugins.explorer.explore import explore, to_text


@Command
def explore_run(run: Path, *, out: Path) -> tuple[Any, str]:
    """Write pages that show every decision, and what another threshold would keep.

    run: folder of a run whose stage curate is finished.
    out: folder to write; an older explorer there is replaced.
    """
    explored = explore(run, out)
    return explored, to_text(explored)
