"""Each task in report.json: its numbers by language, and the few that summarise it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

import numpy as np

from worldclip.core.artifacts import Json
from worldclip.evaluate import suites
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.interval import mean_interval, mean_of_shares_interval
from worldclip.report.metrics import task_info
from worldclip.report.results import ResultRecord, groups_to_average, is_averaged, mean_over_languages

PROBES = ("few_shot", "linear_probe")  # tasks whose metrics have the names of a dataset's own
HELD = "_held"  # a dataset of this ending asks for a part of the pictures of the dataset without it
LEVELS = ("high", "mid", "low")  # resource levels, the best first


def task_result(dataset: str, task: str, records: Mapping[str, ResultRecord]) -> Json:
    """Return what the report says of one task: records by language, their mean, and the numbers that stand for it."""
    info = task_info(task)
    mean = mean_over_languages(list(records.values()))
    headlines: list[Json] = []
    for group in groups_to_average(records):
        headlines += _headlines(dataset, task, group)
    result: Json = {
        "mean": mean,
        "languages": {lang: cast(Json, record) for lang, record in records.items()},
        "headlines": headlines,
        "is_averaged": is_averaged(records),
        "is_share": info.is_share,
    }
    if info.metrics:
        result["plotted"] = info.metrics[0]
    return result


def _headlines(dataset: str, task: str, records: Sequence[ResultRecord]) -> list[Json]:
    """Return the numbers that stand for a task: of its one record, or means over several."""
    mean = mean_over_languages(records)
    metrics = mean["metrics"]
    only = records[0] if len(records) == 1 else None
    if only is not None:
        metrics = with_derived_metrics(dataset, only)
    return [
        {
            "metric": name,
            "value": metrics[name],
            "languages": mean["languages"],
            "interval_95": only["interval_95"].get(name) if only else None,
            "chance": mean["chance"].get(name),
            "n": only["n"] if only else None,
        }
        for name in main_metrics(dataset, task, metrics)
    ]


def with_derived_metrics(dataset: str, record: ResultRecord) -> dict[str, float]:
    """Return a record's metrics and those that the catalog derives from several (a worst region, the mean of two)."""
    metrics = dict(record["metrics"])
    for name in _catalog_metrics(dataset):
        value = suites.value(name, record)
        if value is not None:
            metrics[name] = value
    return metrics


def main_metrics(dataset: str, task: str, available: Collection[str]) -> list[str]:
    """Return which of the available metrics stand for a task: those of the catalog, else of the task, else all."""
    of_catalog = () if task.startswith(PROBES) else _catalog_metrics(dataset)
    names = [metric for metric in of_catalog if metric in available]
    return names or [metric for metric in task_info(task).metrics or available if metric in available]


def _catalog_metrics(dataset: str) -> tuple[str, ...]:
    return CATALOG[dataset].metrics if dataset in CATALOG else ()


# --- combinations held out of training --------------------------------------------------------------------------------


def held_out_combinations(by_lang_of: Mapping[str, Mapping[str, ResultRecord]]) -> list[Json]:
    """Return, for each dataset NAME with another NAME_held, both kinds of pictures side by side.

    by_lang_of: {dataset: {language: record of zero-shot classification}}.  NAME_held asks for a part of the pictures of
    NAME among the same names, so what NAME has more are the pictures whose name was in training.
    """
    results: list[Json] = []
    for held, records in by_lang_of.items():
        name = held.removesuffix(HELD)
        if name == held or name not in by_lang_of:
            continue
        langs: dict[str, Json] = {}
        for lang, record in records.items():
            whole = by_lang_of[name].get(lang)
            # Comparable: among the same names, and with other pictures than the held-out ones.
            if whole is not None and whole["chance"] == record["chance"] and whole["n"] > record["n"]:
                langs[lang] = {"seen": _without(whole, record), "held": cast(Json, record)}
        if langs:
            metrics = next(iter(langs.values()))["seen"]["metrics"]
            means = {metric: _means(langs, metric) for metric in metrics}
            results.append({"dataset": name, "held": held, "languages": langs, "means": means})
    return results


def _means(langs: Mapping[str, Json], metric: str) -> list[Json]:
    seen = {lang: dict(pair["seen"]) for lang, pair in langs.items()}
    held = {lang: dict(pair["held"]) for lang, pair in langs.items()}
    return [_mean_of("seen", seen, metric), _mean_of("held out", held, metric)]


def _mean_of(name: str, records: Mapping[str, ResultRecord], metric: str) -> Json:
    values = [record["metrics"][metric] for record in records.values()]
    num_queries = [record["n"] for record in records.values()]
    chances = [record["chance"][metric] for record in records.values() if metric in record["chance"]]
    return {
        "name": name,
        "languages": list(records),
        "value": float(np.mean(values)),
        "interval_95": list(mean_of_shares_interval(values, num_queries)),
        "chance": float(np.mean(chances)) if len(chances) == len(values) else None,
    }


def _without(whole: ResultRecord, part: ResultRecord) -> Json:
    """Return the record of the queries of `whole` that are not among those of `part`."""
    n = whole["n"] - part["n"]
    metrics = {}
    interval_95 = {}
    for metric in part["chance"]:
        num_right = round(whole["n"] * whole["metrics"][metric]) - round(part["n"] * part["metrics"][metric])
        metrics[metric] = num_right / n
        interval_95[metric] = list(mean_interval(np.arange(n) < num_right))
    return {"n": n, "metrics": metrics, "chance": dict(whole["chance"]), "interval_95": interval_95}
