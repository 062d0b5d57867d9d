"""The account from the rows of the pool to the kept pairs, and the shards that were skipped."""

from __future__ import annotations

from pathlib import Path

from worldclip.contracts.records import skipped_shards
from worldclip.contracts.summary import account
from worldclip.report.numbers import count, percent
from worldclip.report.page import Section, skipped_sections
from worldclip.report.table import Column, Table, text_column, to_html


def sections(run_dir: Path) -> list[Section]:
    """Return the account of a run, if its stage pool is finished, and its skipped shards."""
    return [*_account(run_dir), *skipped_sections(skipped_shards(run_dir))]


def _account(run_dir: Path) -> list[Section]:
    steps = account(run_dir)
    if not steps:
        return []
    columns = [text_column("step"), Column("number", count), Column("of", count), Column("share", percent)]
    rows = []
    for step in steps:
        others = "; ".join(f"{number:,} {why}" for why, number in step.dropped.items())
        share = step.kept / step.total if step.total else None
        rows.append([f"{step.unit} {step.verb}", step.kept, step.total, share, others or None])
    table = Table([*columns, text_column("the others")], rows)
    lead = (
        "A row of a table, or a sample of a tar, is a row of the pool. Each sample has a key, and one pair per stored "
        "text; a sample without text is one pair."
    )
    return [Section("From rows to kept pairs", lead, to_html(table))]
