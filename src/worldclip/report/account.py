"""The account of a run, from the rows of its pool to the kept pairs."""

from __future__ import annotations

from pathlib import Path

from worldclip.contracts.summary import account
from worldclip.report.html import tag
from worldclip.report.page import Section


def sections(run_dir: Path) -> list[Section]:
    """Return the steps as log, status and data card say them; nothing before the stage pool is finished."""
    lines = [tag("li", step) for step in account(run_dir)]
    lead = (
        "A row is a row of a table, or the members of a tar with one name. A sample has a key, and one pair per stored "
        "text; one without text is one pair."
    )
    return [Section("From rows to kept pairs", lead, tag("ul", *lines))] if lines else []
