"""Published numbers to compare with, each with its source and protocol.

figures.csv: figure, title, dataset (or suite:NAME), metric, languages (empty: all that were measured), protocol.
published.csv: model, figure, value in percent, source, and whether the source is secondary: an account of the paper
(arXiv:2507.22062) rather than its abstract or the README of its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worldclip.core.errors import UserError
from worldclip.evaluate.catalog import read_csv
from worldclip.evaluate.suites import dataset_row, languages_of, suite_mean
from worldclip.evaluate.tasks import Record
from worldclip.report.evaluate import PublishedRow

AGREES_WITHIN_PCT = 0.2  # a larger difference from the published number is flagged


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What one column of a paper's table measures."""

    figure: str
    title: str
    dataset: str
    metric: str
    languages: tuple[str, ...]
    protocol: str


@dataclass(frozen=True, slots=True)
class Published:
    """One published number of a model, in percent."""

    model: str
    figure: str
    value_pct: float
    source: str
    is_secondary: bool


def figures() -> dict[str, Figure]:
    """Read figures.csv, by the name of the figure."""
    rows = [Figure(languages=tuple(row.pop("languages").split()), **row) for row in read_csv("figures.csv")]
    return {row.figure: row for row in rows}


def published() -> list[Published]:
    """Read published.csv."""
    return [
        Published(row["model"], row["figure"], float(row["value_pct"]), row["source"], row["secondary"] == "yes")
        for row in read_csv("published.csv")
    ]


def of_model(model: str) -> dict[str, Published]:
    """Return a model's numbers by figure.  Raises UserError for a model without any."""
    rows = published()
    numbers = {row.figure: row for row in rows if row.model == model}
    if not numbers:
        known = "; ".join(dict.fromkeys(row.model for row in rows))
        raise UserError(f"unknown model {model!r} in evaluate.against; known models: {known}")
    return numbers


def beside(records: Sequence[Record], against: str) -> list[PublishedRow]:
    """Return a row for each figure that was measured or that `against` has published.

    Values are in percent, None where there is none.  Raises UserError for an unknown model.
    """
    theirs = of_model(against)
    rows: list[PublishedRow] = []
    for figure in figures().values():
        row, theirs_row = _ours(figure, records), theirs.get(figure.figure)
        if row["ours_pct"] is None and theirs_row is None:
            continue
        if theirs_row is not None:
            row["published_pct"] = theirs_row.value_pct
            row["source"] = theirs_row.source
            row["is_secondary"] = theirs_row.is_secondary
            if row["ours_pct"] is not None:
                difference = row["ours_pct"] - theirs_row.value_pct
                row["difference_pct"] = difference
                row["differs"] = abs(difference) > AGREES_WITHIN_PCT
        rows.append(row)
    return rows


def _ours(figure: Figure, records: Sequence[Record]) -> PublishedRow:
    """Return a row with our number alone."""
    missing: list[str] = []
    if figure.dataset.startswith("suite:"):
        value, missing = suite_mean(figure.dataset.removeprefix("suite:"), records)
        languages, over = ["en"], "en"
    else:
        row = dataset_row(figure.dataset, figure.metric, records, figure.languages)
        value, languages, over = row.value, list(row.languages), languages_of(row)
    return {
        "figure": figure.figure,
        "title": figure.title,
        "ours_pct": None if value is None else 100 * value,
        "published_pct": None,
        "difference_pct": None,
        "differs": False,
        "languages": languages,
        "over": "" if value is None else over,
        "missing": missing,
        "protocol": figure.protocol,
        "source": None,
        "is_secondary": False,
    }
