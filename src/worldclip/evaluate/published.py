"""Published numbers to stand beside: the paper's and the README's, with their source and protocol.

figures.csv: figure, title, dataset (or suite:NAME), metric, languages (empty: all measured), protocol.
published.csv: model, figure, value in percent, source, and whether the source is a secondary account of the paper
(arXiv:2507.22062) rather than its abstract or the README of its code.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError
from worldclip.evaluate.suites import dataset_row, languages_of, suite_mean

Record = dict[str, Any]

FOLDER = Path(__file__).parent
AGREES_WITHIN_PCT = 0.2  # a larger difference from the published number is flagged


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What a column of a paper's table measures."""

    figure: str
    title: str
    dataset: str
    metric: str
    languages: tuple[str, ...]
    protocol: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A number of a model, in percent."""

    model: str
    figure: str
    value_pct: float
    source: str
    is_secondary: bool


def figures() -> dict[str, Figure]:
    return {
        row["figure"]: Figure(
            figure=row["figure"],
            title=row["title"],
            dataset=row["dataset"],
            metric=row["metric"],
            languages=tuple(row["languages"].split()),
            protocol=row["protocol"],
        )
        for row in _read("figures.csv")
    }


def published() -> list[Published]:
    return [
        Published(
            model=row["model"],
            figure=row["figure"],
            value_pct=float(row["value_pct"]),
            source=row["source"],
            is_secondary=row["secondary"] == "yes",
        )
        for row in _read("published.csv")
    ]


def _read(name: str) -> list[dict[str, str]]:
    with open(FOLDER / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def of_model(model: str) -> dict[str, Published]:
    """figure -> a model's number; UserError where there is none."""
    found = {row.figure: row for row in published() if row.model == model}
    if not found:
        models = "; ".join(dict.fromkeys(row.model for row in published()))
        raise UserError(f"evaluate.against is {model!r}, which published.csv has not; it has {models}")
    return found


def beside(records: Sequence[Record], against: str) -> list[dict[str, Any]]:
    """A row for each figure that was measured or that `against` has: ours, theirs, the difference and its flag.

    Values in percent, None where there is none.  UserError where `against` is no published model.
    """
    theirs = of_model(against)
    rows = []
    for figure in figures().values():
        ours, languages, over, missing = _ours(figure, records)
        known = theirs.get(figure.figure)
        if ours is None and known is None:
            continue
        difference = None if ours is None or known is None else ours - known.value_pct
        rows.append(
            {
                "figure": figure.figure,
                "title": figure.title,
                "ours_pct": ours,
                "published_pct": known and known.value_pct,
                "difference_pct": difference,
                "differs": difference is not None and abs(difference) > AGREES_WITHIN_PCT,
                "languages": languages,
                "over": over,
                "missing": missing,
                "protocol": figure.protocol,
                "source": known and known.source,
                "is_secondary": bool(known and known.is_secondary),
            }
        )
    return rows


def _ours(figure: Figure, records: Sequence[Record]) -> tuple[float | None, list[str], str, list[str]]:
    """(percent, languages it is over, the same in short, data sets of the suite that are missing)."""
    if figure.dataset.startswith("suite:"):
        mean, missing = suite_mean(figure.dataset.removeprefix("suite:"), records)
        return (None if mean is None else 100 * mean), ["en"], "" if mean is None else "en", missing
    row = dataset_row(figure.dataset, figure.metric, records, figure.languages)
    percent = None if row.value is None else 100 * row.value
    return percent, list(row.languages), "" if percent is None else languages_of(row), []
