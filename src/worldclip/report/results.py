"""Results as one long table, and as groups: every table, page and comparison is made from them.

A record is a line of results.jsonl: what one model scored in one task of a dataset, in one language.  A row of the long
table is one number of a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from worldclip.core.artifacts import Json

LOCAL = "local"  # instead of a language: each question in the language it was written in
NO_LANGUAGE = "und"  # instead of a language: tasks without texts, such as probes of the images

ResultRecord: TypeAlias = dict[str, Any]
"""A line of results.jsonl; docs/design.md lists its keys."""


class Number(NamedTuple):
    """A row of the long table, in the order of the columns of results.csv."""

    dataset: str
    lang: str
    task: str
    part: str
    """The slice of the dataset; empty: all of it."""
    metric: str
    value: float
    low: float | None
    """Of the 95% interval; parts have none."""
    high: float | None
    chance: float | None
    n: int


def long_table(records: Iterable[Mapping[str, Any]]) -> list[Number]:
    """Return a row per metric of each record and of each of its parts, in the order of the records."""
    numbers = []
    for record in records:
        about = (record["dataset"], record["lang"], record["task"])
        for metric, value in record["metrics"].items():
            low, high = record["interval_95"].get(metric, (None, None))
            numbers.append(Number(*about, "", metric, value, low, high, record["chance"].get(metric), record["n"]))
        for part, scores in record.get("slices", {}).items():
            for metric, value in scores["metrics"].items():
                numbers.append(Number(*about, part, metric, value, None, None, None, scores["n"]))
    return numbers


def by_dataset(records: Iterable[ResultRecord]) -> dict[str, dict[str, dict[str, ResultRecord]]]:
    """Return {dataset: {task: {language: record}}}, in the order of the records."""
    datasets: dict[str, dict[str, dict[str, ResultRecord]]] = {}
    for record in records:
        tasks = datasets.setdefault(record["dataset"], {})
        tasks.setdefault(record["task"], {})[record["lang"]] = record
    return datasets


def by_task_of_runs(
    runs: Sequence[Sequence[ResultRecord]],
) -> dict[tuple[str, str, str], list[dict[str, ResultRecord]]]:
    """Return {(dataset, task, language or ""): for each run its records by language}.

    English and local questions (CVQA) are never averaged: for such datasets the language belongs to the key.
    """
    # A run may have only one of the two: what all runs have decides, so that groups of different runs match.
    with_local = {record["dataset"] for record in chain.from_iterable(runs) if record["lang"] == LOCAL}
    groups: dict[tuple[str, str, str], list[dict[str, ResultRecord]]] = {}
    for number, run in enumerate(runs):
        for record in run:
            lang = record["lang"] if record["dataset"] in with_local else ""
            by_lang_of_runs = groups.setdefault((record["dataset"], record["task"], lang), [{} for _ in runs])
            by_lang_of_runs[number][record["lang"]] = record
    return groups


def is_averaged(languages: Iterable[str]) -> bool:
    """Return whether the mean over the languages of a task is a number of interest."""
    languages = list(languages)
    return len(languages) > 1 and LOCAL not in languages


def mean_over_languages(records: Sequence[ResultRecord]) -> Json:
    """Return the plain means of the metrics, chances and parts that *all* records have, and their languages.

    records: those of one dataset and one task.  A metric or a chance that one of them lacks has no mean; a metric of
    a part is named `part/metric`.
    """
    metrics = {}
    values_of_names: dict[str, list[float]] = {}
    for number in long_table(records):
        name = f"{number.part}/{number.metric}" if number.part else number.metric
        values_of_names.setdefault(name, []).append(number.value)
    for name, values in values_of_names.items():
        if len(values) == len(records):
            metrics[name] = float(np.mean(values))
    chances = {}
    for metric in records[0]["chance"]:
        values = [record["chance"][metric] for record in records if metric in record["chance"]]
        if len(values) == len(records):
            chances[metric] = float(np.mean(values))
    return {"languages": [record["lang"] for record in records], "metrics": metrics, "chance": chances}
