"""Tasks and metrics, described once for every page and table: names, units, and how their numbers are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import NamedTuple

from worldclip.report.numbers import bare_percent

CLASSIFICATION = "zeroshot_classification"
SLIP_CLASSIFICATION = "zeroshot_classification_slip"
METRIC_NAMES = {
    "acc1": "top-1",
    "acc5": "top-5",
    "f1_macro": "F1",
    "roc_auc": "ROC AUC",
    "mean_average_precision": "mAP",
    "jaccard": "Jaccard",
    "acc": "group score",
}
DISTANCE = "{:.3f}".format
RECALL_NAMES = {"image_retrieval": "text > image", "text_retrieval": "image > text"}  # query > what it finds


class TaskInfo(NamedTuple):
    """A task as tables and pages show it."""

    metrics: tuple[str, ...] = ()
    """The metrics that stand for the task, the first one in plots; empty: all of its metrics."""
    unit: str = "images"
    """Plural of what the task counts."""
    is_share: bool = True
    """Whether the metrics are shares, shown in percent, rather than distances."""

    @property
    def number(self) -> Callable[[float], str]:
        """Return how tables write the task's metrics: in percent without the sign, distances with three decimals."""
        return bare_percent if self.is_share else DISTANCE


TASKS = {
    CLASSIFICATION: TaskInfo(("acc1", "acc5")),
    SLIP_CLASSIFICATION: TaskInfo(("acc1", "acc5")),
    "multilabel_classification": TaskInfo(("mean_average_precision",)),
    "image_text_retrieval": TaskInfo(("text_retrieval_recall@1", "image_retrieval_recall@1")),
    "choice": TaskInfo(unit="questions"),
    "association": TaskInfo(unit="cues"),
    "alignment_uniformity": TaskInfo(is_share=False),
}


def task_info(task: str) -> TaskInfo:
    """Return how a task is shown; a task that is not in the table (a probe, a task of mteb) has the defaults."""
    return TASKS.get(task, TaskInfo())


def top_metric(metrics: Collection[str]) -> str:
    """Return the metric that stands for zero-shot classification: top-5 where there are more than five classes."""
    return "acc5" if "acc5" in metrics else "acc1"


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
    return task.replace("zeroshot", "zero-shot").replace("_", " ")
