"""Records -> means and tables.  Means over languages are made here only, with the list of languages they are over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldclip.evaluate.tasks import LOCAL

Record = dict[str, Any]

COLUMNS = {  # heading -> (task, metric), a metric of a slice as slice/metric
    "top-1": ("zeroshot_classification", "acc1"),
    "top-5": ("zeroshot_classification", "acc5"),
    "F1": ("zeroshot_classification", "f1_macro"),
    "ROC AUC": ("zeroshot_classification", "roc_auc"),
    "head top-5": ("zeroshot_classification", "head/acc5"),
    "middle top-5": ("zeroshot_classification", "middle/acc5"),
    "tail top-5": ("zeroshot_classification", "tail/acc5"),
    "mAP": ("multilabel_classification", "mean_average_precision"),
    "text > image R@1": ("image_text_retrieval", "image_retrieval_recall@1"),
    "R@5 ": ("image_text_retrieval", "image_retrieval_recall@5"),
    "image > text R@1": ("image_text_retrieval", "text_retrieval_recall@1"),
    "R@5": ("image_text_retrieval", "text_retrieval_recall@5"),
    "choice": ("choice", "accuracy"),
    "text score": ("matching", "text_acc"),
    "image score": ("matching", "image_acc"),
    "group score": ("matching", "acc"),
    "Jaccard": ("association", "jaccard"),
    "consistency@10 (classes)": ("cross_lingual_consistency_classes", "consistency@10"),
    "consistency@10 (captions)": ("cross_lingual_consistency_captions", "consistency@10"),
    "alignment": ("alignment_uniformity", "alignment"),
    "uniformity (image)": ("alignment_uniformity", "uniformity_image"),
    "uniformity (text)": ("alignment_uniformity", "uniformity_text"),
    "country 5-shot": ("few_shot_country", "acc1_5_shot"),
    "10-shot": ("few_shot_country", "acc1_10_shot"),
    "25-shot": ("few_shot_country", "acc1_25_shot"),
    "region 5-shot": ("few_shot_region", "acc1_5_shot"),
    "10-shot ": ("few_shot_region", "acc1_10_shot"),
    "25-shot ": ("few_shot_region", "acc1_25_shot"),
    "linear probe (class)": ("linear_probe_class", "acc1"),
    "linear probe (country)": ("linear_probe_country", "acc1"),
    "linear probe (region)": ("linear_probe_region", "acc1"),
}
UNITS = {"choice": "questions", "matching": "examples", "association": "cues"}  # what tasks ask; others images
RAW = ("alignment_uniformity",)  # tasks whose metrics are no shares: shown as they are, not in percent


def mean_over_languages(records: Sequence[Record]) -> Record:
    """Plain means of the metrics, chances and slices that *all* of `records` have: one data set, one task.

    The languages are named; a metric that one of them lacks has no mean.
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
    """A record's metrics, those of its slices as slice/metric."""
    found = dict(record["metrics"])
    for part, inner in record.get("slices", {}).items():
        found |= {f"{part}/{name}": value for name, value in inner["metrics"].items()}
    return found


def by_dataset(records: Sequence[Record]) -> dict[str, dict[str, dict[str, Record]]]:
    """data set -> task -> language -> record, in the records' order."""
    found: dict[str, dict[str, dict[str, Record]]] = {}
    for record in records:
        found.setdefault(record["dataset"], {}).setdefault(record["task"], {})[record["lang"]] = record
    return found


def markdown_table(records: Sequence[Record]) -> str:
    """table.md: for each data set its languages, their mean where there are several, and chance, in percent."""
    parts = []
    for dataset, tasks in by_dataset(records).items():
        columns = {heading: where for heading, where in COLUMNS.items() if _has(tasks, *where)}
        languages = list(dict.fromkeys(lang for task in tasks.values() for lang in task))
        means = {task: mean_over_languages(list(of_task.values())) for task, of_task in tasks.items()}
        rows = [["language", *(heading.strip() for heading in columns)]]
        for lang in languages:
            values = [flat_metrics(tasks[task][lang]).get(name) if lang in tasks[task] else None
                      for task, name in columns.values()]  # fmt: skip
            rows.append([lang, *map(shown, columns.values(), values)])
        if LOCAL not in languages and any(len(of_task) > 1 for of_task in tasks.values()):
            mean_values = [means[task]["metrics"].get(name) for task, name in columns.values()]
            rows.append(["**mean**", *map(shown, columns.values(), mean_values)])
        chances = [means[task]["chance"].get(name.split("/")[-1]) for task, name in columns.values()]
        rows.append(["chance", *map(shown, columns.values(), chances)])
        num_asked = max(int(rec.get("num_images") or rec["n"]) for task in tasks.values() for rec in task.values())
        unit = next((UNITS[task] for task in tasks if task in UNITS), "images")
        told = [f"### {dataset}", f"{num_asked:,} {unit}; percent.", aligned(rows), _over(means)]
        parts.append("\n\n".join(filter(None, told)) + "\n")
    return "\n".join(parts)


def _has(tasks: dict[str, dict[str, Record]], task: str, metric: str) -> bool:
    return any(metric in flat_metrics(record) for record in tasks.get(task, {}).values())


def _over(means: dict[str, Record]) -> str:
    """The languages of each mean; nothing where a task has one alone."""
    if any(LOCAL in mean["languages"] for mean in means.values()):
        return f"`{LOCAL}`: each question in the language it was written in."
    means = {task: mean for task, mean in means.items() if len(mean["languages"]) > 1}
    lists = list(dict.fromkeys(tuple(mean["languages"]) for mean in means.values()))
    if len(lists) == 1:
        return f"Means are over {len(lists[0])} languages: {' '.join(lists[0])}."
    return " ".join(
        f"Means of {task} are over {len(mean['languages'])} languages: {' '.join(mean['languages'])}."
        for task, mean in means.items()
    )


def shown(where: tuple[str, str], value: float | None) -> str:
    """A number of (task, metric) as tables have it."""
    return f"{value:.3f}" if where[0] in RAW and value is not None else _percent(value)


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if value >= 0.01 or value == 0 else f"{100 * value:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first row its heading; the first column reads from the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    rule = [("-" * width) if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])
