"""The words for tasks and metrics: one for each, on every page."""

from __future__ import annotations

import re

METRIC_NAMES = {
    "acc1": "top-1",
    "acc5": "top-5",
    "f1_macro": "F1",
    "roc_auc": "ROC AUC",
    "mean_average_precision": "mAP",
    "jaccard": "Jaccard",
    "text_acc": "text score",
    "image_acc": "image score",
    "acc": "group score",
}
RECALL_NAMES = {"image_retrieval": "text > image", "text_retrieval": "image > text"}  # query > what it finds


def metric_name(metric: str) -> str:
    """Return the name of a metric for readers: acc1 is top-1, image_retrieval_recall@1 is text > image R@1.

    A metric of a slice (tail/acc5) is named after it: tail top-5.
    """
    part, _, name = metric.rpartition("/")
    recall = re.fullmatch(r"(image_retrieval|text_retrieval)_recall@(\d+)", name)
    if recall:
        name = f"{RECALL_NAMES[recall[1]]} R@{recall[2]}"
    else:
        name = METRIC_NAMES.get(name, name.replace("_", " "))
    return f"{part.replace('_', ' ')} {name}".lstrip()


def task_name(task: str) -> str:
    """Return the name of a task for readers."""
    return task.removeprefix("cross_lingual_").replace("zeroshot", "zero-shot").replace("_", " ")
