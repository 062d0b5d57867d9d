"""Suites by name: their data sets, the number that stands for each, and the mean over them.

A number is a metric of a record, or made of some:
    acc1                                  a metric
    acc1+acc5                             the plain mean of two
    mean_recall@1                         the plain mean of recall@1 in both directions
    worst region/acc1                     the smallest over the parts whose name begins with `region`
    candidates 10-12/jaccard              a metric of one part
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.suite_lists import SUITES

Record = dict[str, Any]

AVERAGED = ("imagenet", "slip26", "datacomp38")  # suites that one number stands for: the plain mean over data sets


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A data set of a suite: its number (0 to 1) over the languages named, None where it was not measured."""

    dataset: str
    metric: str
    value: float | None
    languages: tuple[str, ...]


def suite_rows(suite: str, records: Sequence[Record]) -> list[Row]:
    """Every data set of `suite` in its order, one row a metric; means over languages where there are several.

    Data sets that are asked in English are counted in English, whatever else they were asked in; CVQA has a row for
    `en` and one for `local`.
    """
    rows = []
    for name in SUITES[suite]:
        info = CATALOG[name]
        lists = {"1": [("en",)], "en and local": [("en",), ("local",)]}.get(info.languages, [()])
        rows += [dataset_row(name, metric, records, langs) for langs in lists for metric in info.metrics]
    return rows


def dataset_row(dataset: str, metric: str, records: Sequence[Record], languages: Sequence[str] = ()) -> Row:
    """A data set's number: the mean over languages (those given, else all measured) of `value`."""
    found: dict[str, float] = {}
    for record in records:
        if record["dataset"] == dataset and (not languages or record["lang"] in languages):
            number = value(metric, record)
            if number is not None:
                found[record["lang"]] = number
    mean = float(np.mean(list(found.values()))) if found else None
    return Row(dataset=dataset, metric=metric, value=mean, languages=tuple(found))


def languages_of(row: Row) -> str:
    """The languages a row is over as tables have them: the one, or their number, of how many where some are missing."""
    num_upstream = CATALOG[row.dataset].languages
    if len(row.languages) == 1:
        return row.languages[0]
    if num_upstream.isdigit() and 0 < len(row.languages) < int(num_upstream):
        return f"{len(row.languages)} of {num_upstream}"
    return str(len(row.languages))


def suite_mean(suite: str, records: Sequence[Record]) -> tuple[float | None, list[str]]:
    """The plain mean over the suite's data sets, and those that it lacks; None where one is missing."""
    rows = suite_rows(suite, records)
    missing = [row.dataset for row in rows if row.value is None]
    return (None, missing) if missing else (float(np.mean([row.value for row in rows])), [])


def value(metric: str, record: Mapping[str, Any]) -> float | None:
    """The number that `metric` makes of a record, None where the record has not what it takes."""
    if "+" in metric:
        return _mean([value(part, record) for part in metric.split("+")])
    if metric.startswith("mean_recall@"):
        k = metric.removeprefix("mean_recall@")
        return _mean([value(f"{way}_retrieval_recall@{k}", record) for way in ("image", "text")])
    part, slash, name = metric.rpartition("/")
    if not slash:
        found: float | None = record["metrics"].get(metric)
        return found
    parts = record.get("slices", {})
    if part.startswith("worst "):
        prefix = part.removeprefix("worst ") + " "
        worst = [inner["metrics"][name] for key, inner in parts.items() if key.startswith(prefix)]
        return min(worst, default=None)
    return parts[part]["metrics"].get(name) if part in parts else None


def _mean(numbers: Sequence[float | None]) -> float | None:
    there = [number for number in numbers if number is not None]
    return float(np.mean(there)) if len(there) == len(numbers) else None
