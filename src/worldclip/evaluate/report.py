"""Means over languages, and what the report says of each task.

Means over languages are computed here only, with the list of languages that they are over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from worldclip.core.records import Headline, HeldOut, LanguageGroup, LanguageResult, SharedQueries, TaskResult
from worldclip.evaluate import slip, suites
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.interval import languages_interval, mean_interval
from worldclip.evaluate.tasks import LOCAL, Record
from worldclip.report.by_language import CLASSIFICATION, MIN_LANGUAGES, find_language, top_metric

TASK_METRICS = {  # the metrics that stand for a task, the first one in plots
    "zeroshot_classification": ("acc1", "acc5"),
    slip.TASK: ("acc1", "acc5"),
    "multilabel_classification": ("mean_average_precision",),
    "image_text_retrieval": ("text_retrieval_recall@1", "image_retrieval_recall@1"),
    "cross_lingual_consistency_classes": ("consistency@10",),
    "cross_lingual_consistency_captions": ("consistency@10",),
}
PROBES = ("few_shot", "linear_probe")  # tasks whose metrics have the names of a dataset's own
HELD = "_held"  # a dataset of this ending asks for a part of the pictures of the dataset without it
NUM_NAMES = ((3_000, "3,000 names or more"), (1_000, "1,000 to 3,000 names"), (200, "200 to 1,000 names"),
             (0, "fewer than 200 names"))  # fmt: skip
DISTANCE_TASKS = ("alignment_uniformity",)  # their metrics are not shares and not shown in percent


def mean_over_languages(records: Sequence[Record]) -> Record:
    """Return the plain means of the metrics, chances and slices that *all* records have, and their languages.

    records: of one dataset and one task.  A metric that one of them lacks has no mean.
    """
    flat = [flat_metrics(record) for record in records]
    shared = [name for name in flat[0] if all(name in metrics for metrics in flat)]
    return {
        "languages": [record["lang"] for record in records],
        "metrics": {name: float(np.mean([metrics[name] for metrics in flat])) for name in shared},
        "chance": {
            name: float(np.mean([record["chance"][name] for record in records])) for name in records[0]["chance"]
        },
    }


def flat_metrics(record: Record) -> dict[str, float]:
    """Return a record's metrics, those of its slices as slice/metric."""
    metrics = dict(record["metrics"])
    for part, inner in record.get("slices", {}).items():
        metrics |= {f"{part}/{name}": value for name, value in inner["metrics"].items()}
    return metrics


def by_dataset(records: Sequence[Record]) -> dict[str, dict[str, dict[str, Record]]]:
    """Return {dataset: {task: {language: record}}}, in the records' order."""
    grouped: dict[str, dict[str, dict[str, Record]]] = {}
    for record in records:
        grouped.setdefault(record["dataset"], {}).setdefault(record["task"], {})[record["lang"]] = record
    return grouped


def to_average(records: Mapping[str, Record]) -> list[list[Record]]:
    """Group a task's records by what one number may stand for: all languages, or each alone.

    English and local questions (CVQA) are two numbers.
    """
    return [[record] for record in records.values()] if LOCAL in records else [list(records.values())]


def task_result(dataset: str, task: str, records: Mapping[str, Record]) -> TaskResult:
    """Return what the report says of one task: records by language, their mean, and the numbers that stand for it."""
    headlines: list[Headline] = []
    for group in to_average(records):
        headlines += _headlines(dataset, task, group)
    result: Record = {
        "mean": mean_over_languages(list(records.values())),
        "languages": records,
        "headlines": headlines,
        "is_averaged": len(records) > 1 and LOCAL not in records,
        "is_share": task not in DISTANCE_TASKS,
    }
    if task in TASK_METRICS:
        result["plotted"] = TASK_METRICS[task][0]
        if result["is_averaged"] and result["is_share"]:
            metric = top_metric(result["mean"]["metrics"]) if task == CLASSIFICATION else result["plotted"]
            result["groups"] = group_languages(records, metric)
    return result  # type: ignore[return-value]  # a record holds more than the report reads


def _headlines(dataset: str, task: str, records: Sequence[Record]) -> list[Headline]:
    """Return the numbers that stand for a task: of its one record, or means over several."""
    mean = mean_over_languages(records)
    metrics: dict[str, float] = mean["metrics"]
    record = records[0] if len(records) == 1 else None
    if record is not None:
        metrics = with_made_metrics(dataset, record)
    return [
        {
            "metric": name,
            "value": metrics[name],
            "languages": mean["languages"],
            "interval_95": record["interval_95"].get(name) if record else None,
            "chance": mean["chance"].get(name),
            "n": record["n"] if record else None,
        }
        for name in main_metrics(dataset, task, metrics)
    ]


def with_made_metrics(dataset: str, record: Record) -> dict[str, float]:
    """Return a record's metrics and those that the catalog makes of several (a worst region, the mean of two)."""
    catalog_metrics = CATALOG[dataset].metrics if dataset in CATALOG else ()
    made = {metric: suites.value(metric, record) for metric in catalog_metrics}
    return record["metrics"] | {metric: value for metric, value in made.items() if value is not None}


def main_metrics(dataset: str, task: str, available: Collection[str]) -> list[str]:
    """Return which of the available metrics stand for a task: those of the catalog, else of the task."""
    catalog_metrics = CATALOG[dataset].metrics if dataset in CATALOG and not task.startswith(PROBES) else ()
    names = [metric for metric in catalog_metrics if metric in available]
    return names or [metric for metric in TASK_METRICS.get(task, tuple(available)) if metric in available]


# --- groups of languages ----------------------------------------------------------------------------------------------


def group_languages(records: Mapping[str, Record], metric: str) -> dict[str, list[LanguageGroup]]:
    """Return {what they have in common: [group]} of the languages with `metric` that are in the table of languages.

    Empty if there are fewer than MIN_LANGUAGES of them.  Groups are in the order of their sizes; levels of resources
    and numbers of names in their own.
    """
    rows = {lang: find_language(lang) for lang, record in records.items() if metric in record["metrics"]}
    known = {lang: language for lang, language in rows.items() if language is not None}
    if len(known) < MIN_LANGUAGES:
        return {}
    level_order = ("high", "mid", "low").index
    name_order = [name for _, name in NUM_NAMES].index
    groups = {
        "all": _group(records, metric, dict.fromkeys(known, "all languages")),
        "resource level": _group(
            records, metric, {lang: row.resource_level for lang, row in known.items()}, level_order
        ),
        "script": _group(records, metric, {lang: row.script for lang, row in known.items()}),
        "family": _group(records, metric, {lang: row.family or "none" for lang, row in known.items()}),
    }
    if all("num_classes" in records[lang] for lang in known):
        groups["number of names"] = _group(records, metric, {lang: _size(records[lang]) for lang in known}, name_order)
    return groups


def _size(record: Record) -> str:
    return next(name for least, name in NUM_NAMES if record["num_classes"] >= least)


def _group(
    records: Mapping[str, Record],
    metric: str,
    group_of: Mapping[str, str],
    order: Callable[[str], int] | None = None,
) -> list[LanguageGroup]:
    """Return the mean of each group; order: place of a group's name (default: the largest group first)."""
    members: dict[str, list[str]] = {}
    for lang, name in group_of.items():
        members.setdefault(name, []).append(lang)
    by_size = sorted(members, key=lambda name: (-len(members[name]), name))
    names = sorted(by_size, key=order) if order is not None else by_size
    return [_mean_of(name, {lang: records[lang] for lang in members[name]}, metric) for name in names]


def _mean_of(name: str, records: Mapping[str, Record], metric: str) -> LanguageGroup:
    values = [record["metrics"][metric] for record in records.values()]
    chances = [record["chance"][metric] for record in records.values() if metric in record["chance"]]
    return {
        "name": name,
        "languages": list(records),
        "value": float(np.mean(values)),
        "interval_95": list(languages_interval(values, [record["n"] for record in records.values()])),
        "chance": float(np.mean(chances)) if len(chances) == len(values) else None,
    }


# --- combinations held out of training --------------------------------------------------------------------------------


def held_out_combinations(by_lang_of: Mapping[str, Mapping[str, Record]]) -> list[HeldOut]:
    """Return, for each dataset NAME with another NAME_held, both kinds of pictures beside each other.

    by_lang_of: {dataset: {language: record of zero-shot classification}}.  NAME_held asks for a part of the pictures of
    NAME among the same names, so what NAME has more are the pictures whose name was in training.
    """
    results: list[HeldOut] = []
    for held, records in by_lang_of.items():
        whole = by_lang_of.get(held.removesuffix(HELD), {}) if held.endswith(HELD) else {}
        langs: dict[str, Any] = {
            lang: {"seen": _without(whole[lang], record), "held": record}
            for lang, record in records.items()
            if lang in whole and whole[lang]["chance"] == record["chance"] and whole[lang]["n"] > record["n"]
        }
        if langs:
            means = {metric: _means(langs, metric) for metric in next(iter(langs.values()))["seen"]["metrics"]}
            results.append({"dataset": held.removesuffix(HELD), "held": held, "languages": langs, "means": means})
    return results


def _means(langs: Mapping[str, SharedQueries], metric: str) -> list[LanguageGroup]:
    seen = {lang: dict(pair["seen"]) for lang, pair in langs.items()}
    held = {lang: dict(pair["held"]) for lang, pair in langs.items()}
    return [_mean_of("seen", seen, metric), _mean_of("held out", held, metric)]


def _without(whole: Record, part: Record) -> LanguageResult:
    """Return the record of the queries of `whole` that are not among those of `part`."""
    n = whole["n"] - part["n"]
    metrics, interval_95 = {}, {}
    for metric in part["chance"]:
        num_right = round(whole["n"] * whole["metrics"][metric]) - round(part["n"] * part["metrics"][metric])
        metrics[metric] = num_right / n
        interval_95[metric] = list(mean_interval(np.arange(n) < num_right))
    return {"n": n, "metrics": metrics, "chance": dict(whole["chance"]), "interval_95": interval_95}
