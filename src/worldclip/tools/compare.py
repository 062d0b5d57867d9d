"""The command `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.evaluate.compare import compare
from worldclip.evaluate.comparison_page import comparison_text, write_comparison


@Command
def compare_runs(runs: Sequence[Path], *, out: Path | None = None) -> tuple[Any, str]:
    """Compare evaluations query by query, with confidence intervals over images and seeds.

    runs: runs, or folders that evaluate wrote.  Runs that differ in seeds alone count as one, with several seeds.
    out: page to write (.html).
    """
    if len(runs) < 2:
        raise UserError("worldclip compare takes two or more runs")
    comparison = compare(*runs)
    if out is not None:
        write_comparison(out, comparison)
    record = {
        "arms": [{"name": arm.name, "folders": list(map(str, arm.folders))} for arm in comparison.arms],
        "rows": comparison.rows,
        "by_language": comparison.by_language,
    }
    return record, comparison_text(comparison)
