"""Suites by name: their datasets, the number that represents each, and the mean over them.

A number is a metric of a record, or computed from several:
    acc1                                  a metric
    acc1+acc5                             the plain mean of two
    mean_recall@1                         the plain mean of recall@1 in both directions
    worst region/acc1                     the smallest over the parts whose name starts with `region`
    candidates 10-12/jaccard              a metric of one part

Published numbers to compare with, each with its source and protocol:
figures.csv: figure, title, dataset (or suite:NAME), metric, languages (empty: all that were measured), protocol.
published.csv: model, figure, value in percent, source, and whether the source is secondary: an account of the paper
(arXiv:2507.22062) rather than its abstract or the README of its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldclip.core.artifacts import Json
from worldclip.evaluate.catalog import CATALOG, SUITES, read_csv
from worldclip.report.metrics import CLASSIFICATION, SLIP_CLASSIFICATION
from worldclip.report.results import ResultRecord

AGREES_WITHIN_PCT = 0.2  # a larger difference from the published number is flagged
SLIP_NAMED = ("slip26", "paper")  # suites whose numbers are those with SLIP's names, as the paper's protocol asks
AVERAGED = ("imagenet", "slip26", "datacomp38")  # suites with one number: the plain mean over datasets


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRow:
    """A dataset of a suite: its number (0 to 1) over some languages, None if it was not measured."""

    dataset: str
    metric: str
    value: float | None
    languages: tuple[str, ...]


def suite_rows(suite: str, records: Sequence[ResultRecord]) -> list[DatasetRow]:
    """Return a row per metric of every dataset of `suite`, in its order; means over languages if there are several.

    A dataset that is published in English counts in English only, even if it was measured in more languages; CVQA has
    a row for `en` and one for `local`.
    """
    # SLIP-26, and the paper's table, take the records with SLIP's class names where there are any; others never do.
    unused_task = dict.fromkeys(SUITES[suite], SLIP_CLASSIFICATION)
    for record in records:
        if suite in SLIP_NAMED and record["task"] == SLIP_CLASSIFICATION:
            unused_task[record["dataset"]] = CLASSIFICATION
    records = [record for record in records if record["task"] != unused_task.get(record["dataset"])]
    rows = []
    for name in SUITES[suite]:
        info = CATALOG[name]
        # Languages of each row, () for all that were measured.
        langs_of_rows = {"1": [("en",)], "en and local": [("en",), ("local",)]}.get(info.languages, [()])
        for langs in langs_of_rows:
            rows += [dataset_row(name, metric, records, langs) for metric in info.metrics]
    return rows


def dataset_row(
    dataset: str, metric: str, records: Sequence[ResultRecord], languages: Sequence[str] = ()
) -> DatasetRow:
    """Return a dataset's number: the mean of `value` over languages (default: all that were measured)."""
    numbers: dict[str, float] = {}
    for record in records:
        if record["dataset"] == dataset and (not languages or record["lang"] in languages):
            number = value(metric, record)
            if number is not None:
                numbers[record["lang"]] = number
    mean = float(np.mean(list(numbers.values()))) if numbers else None
    return DatasetRow(dataset=dataset, metric=metric, value=mean, languages=tuple(numbers))


def languages_of(row: DatasetRow) -> str:
    """Return the languages of a row as tables show them: the only one, or `4 of 11` if some are missing, or `11`."""
    num_upstream = CATALOG[row.dataset].languages
    if len(row.languages) == 1:
        return row.languages[0]
    if num_upstream.isdigit() and 0 < len(row.languages) < int(num_upstream):
        return f"{len(row.languages)} of {num_upstream}"
    return str(len(row.languages))


def suite_mean(suite: str, records: Sequence[ResultRecord]) -> tuple[float | None, list[str]]:
    """Return the plain mean over the suite's datasets (None if one is missing), and the missing ones."""
    values = []
    missing = []
    for row in suite_rows(suite, records):
        if row.value is None:
            missing.append(row.dataset)
        else:
            values.append(row.value)
    return None if missing else float(np.mean(values)), missing


def value(metric: str, record: ResultRecord) -> float | None:
    """Return the number that `metric` (see above) gives for a record, None if the record lacks what it needs."""
    if "+" in metric:
        return _mean(metric.split("+"), record)
    if metric.startswith("mean_recall@"):
        recall = metric.removeprefix("mean_")
        return _mean((f"image_retrieval_{recall}", f"text_retrieval_{recall}"), record)
    part, slash, name = metric.rpartition("/")
    if not slash:
        number: float | None = record["metrics"].get(metric)
        return number
    parts = record.get("slices", {})
    if part.startswith("worst "):
        prefix = part.removeprefix("worst ") + " "
        numbers = [scores["metrics"][name] for key, scores in parts.items() if key.startswith(prefix)]
        return min(numbers, default=None)
    return parts[part]["metrics"].get(name) if part in parts else None


def _mean(metrics: Sequence[str], record: ResultRecord) -> float | None:
    numbers = []
    for metric in metrics:
        number = value(metric, record)
        if number is None:
            return None
        numbers.append(number)
    return float(np.mean(numbers))


# --- published numbers


def beside(records: Sequence[ResultRecord], against: str) -> list[Json]:
    """Return a row for each figure that was measured or that `against` has published.

    Values are in percent, None where the model has none.
    """
    published = {row["figure"]: row for row in read_csv("published.csv") if row["model"] == against}
    rows: list[Json] = []
    for figure in read_csv("figures.csv"):
        missing: list[str] = []
        if figure["dataset"].startswith("suite:"):
            value, missing = suite_mean(figure["dataset"].removeprefix("suite:"), records)
            languages = ["en"]
            over = "en"
        else:
            row = dataset_row(figure["dataset"], figure["metric"], records, figure["languages"].split())
            value = row.value
            languages = list(row.languages)
            over = languages_of(row)
        theirs = published.get(figure["figure"])
        if value is None and theirs is None:
            continue
        ours = None if value is None else 100 * value
        published_pct = None if theirs is None else float(theirs["value_pct"])
        difference = None if ours is None or published_pct is None else ours - published_pct
        rows.append(
            {
                "figure": figure["figure"],
                "title": figure["title"],
                "ours_pct": ours,
                "published_pct": published_pct,
                "difference_pct": difference,
                "differs": difference is not None and abs(difference) > AGREES_WITHIN_PCT,
                "languages": languages,
                "over": "" if value is None else over,
                "missing": missing,
                "protocol": figure["protocol"],
                "source": theirs["source"] if theirs else None,
                "is_secondary": theirs is not None and theirs["secondary"] == "yes",
            }
        )
    return rows
