"""Means over languages, and what the report says of each task.

Means over languages are computed here only, with the list of languages that they are over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from worldclip.core.records import Headline, TaskResult
from worldclip.evaluate import slip, suites
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.tasks import LOCAL, Record

TASK_METRICS = {  # the metrics that stand for a task, the first one in plots
    "zeroshot_classification": ("acc1", "acc5"),
    slip.TASK: ("acc1", "acc5"),
    "multilabel_classification": ("mean_average_precision",),
    "image_text_retrieval": ("text_retrieval_recall@1", "image_retrieval_recall@1"),
    "cross_lingual_consistency_classes": ("consistency@10",),
    "cross_lingual_consistency_captions": ("consistency@10",),
}
PROBES = ("few_shot", "linear_probe")  # tasks whose metrics have the names of a dataset's own
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
    return result  # type: ignore[return-value]  # a record holds more than the report reads


def _headlines(dataset: str, task: str, records: Sequence[Record]) -> list[Headline]:
    """Return the numbers that stand for a task: of its one record, or means over several."""
    catalog_metrics = CATALOG[dataset].metrics if dataset in CATALOG else ()
    mean = mean_over_languages(records)
    metrics: dict[str, float] = mean["metrics"]
    record = records[0] if len(records) == 1 else None
    if record is not None:
        # numbers made of several metrics (a worst region, the mean of two) are defined for one record
        made = {metric: suites.value(metric, record) for metric in catalog_metrics}
        metrics = record["metrics"] | {metric: value for metric, value in made.items() if value is not None}
    names = [] if task.startswith(PROBES) else [metric for metric in catalog_metrics if metric in metrics]
    names = names or [metric for metric in TASK_METRICS.get(task, tuple(metrics)) if metric in metrics]
    return [
        {
            "metric": name,
            "value": metrics[name],
            "languages": mean["languages"],
            "interval_95": record["interval_95"].get(name) if record else None,
            "chance": mean["chance"].get(name),
            "n": record["n"] if record else None,
        }
        for name in names
    ]
