"""The command `leaderboard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.plugins.leaderboard import page
from worldclip.plugins.leaderboard.board import leaderboard


@Command
def show_leaderboard(folders: Sequence[Path], *, out: Path | None = None, csv: bool = False) -> tuple[Any, str]:
    """Show the evaluations of many models in one table, of mteb too.

    folders: runs, folders that evaluate wrote, or folders of mteb's results (results/MODEL/REVISION/TASK.json).
    out: page to write (.html).
    csv: Print the result as CSV.
    """
    if not folders:
        raise UserError("worldclip leaderboard takes one or more runs or folders of results")
    board = leaderboard(*folders)
    if out is not None:
        page.write_leaderboard(out, board)
    text = page.csv_text(board) if csv else page.to_text(board)
    return page.to_record(board), text
