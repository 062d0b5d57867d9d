"""The part of a model card on the results of a run: metadata that the hub reads, and languages at chance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from worldclip.core.job import Record
from worldclip.report.metrics import CLASSIFICATION, metric_name, task_name, top_metric

INTENDED = (
    "Intended use: search and sorting of pictures by texts in the languages above, zero-shot classification with names "
    "of your choice, research. Not intended: decisions about people, and other languages. The biases of the pool's "
    "pictures and texts are in the model; this training neither measures nor removes them."
)
LICENCE = (
    "Licence: worldclip states none for these weights (`license: unknown`). Their publisher chooses one, with regard "
    "to the licences of the sources below."
)


def model_index(name: str, records: Sequence[Record]) -> list[str]:
    """Return the lines of `model-index` (JSON is YAML): metrics that know their chance, in percent as in table.md."""
    results = [_result(record) for record in records if _measured(record)]
    if not results:
        return []
    head = ["model-index:", f"- name: {json.dumps(name, ensure_ascii=False)}", "  results:"]
    return head + [f"  - {json.dumps(result, ensure_ascii=False)}" for result in results]


def _result(record: Record) -> Record:
    is_classification = record["task"] == CLASSIFICATION
    task = "zero-shot-image-classification" if is_classification else record["task"].replace("_", "-")
    dataset, lang = record["dataset"], record["lang"]
    metrics = [
        {"type": metric, "name": metric_name(metric), "value": _percent(record["metrics"][metric])}
        for metric in _measured(record)
    ]
    return {
        "task": {"type": task},
        "dataset": {"type": dataset, "name": f"{dataset} ({lang})", "config": lang},
        "metrics": metrics,
    }


def _measured(record: Record) -> list[str]:
    """Return the metrics of a record that know their chance."""
    return [metric for metric in record["chance"] if metric in record["metrics"]]


def _percent(value: float) -> float:
    return round(100 * value, 2 if value < 0.01 else 1)


def limits(records: Sequence[Record], languages: Sequence[str]) -> str:
    """Return intended use, limits and licence: languages not above chance, and unmeasured ones."""
    measured = {record["lang"] for record in records}
    unmeasured = [lang for lang in languages if lang not in measured]
    lines = [
        INTENDED,
        "",
        "Languages not above chance, where the 95% interval begins at or below it:",
        "",
        *(f"- {line}" for line in _at_chance(records)),
    ]
    if unmeasured:
        lines.append(f"- Not measured: {', '.join(unmeasured)}.")
    return "\n".join([*lines, "", LICENCE])


def _at_chance(records: Sequence[Record]) -> Iterator[str]:
    """Yield a line per dataset and task, by the metric that stands for it: which languages are not above chance."""
    is_low: dict[str, dict[str, bool]] = {}
    for record in records:
        metrics = [metric for metric in _measured(record) if metric in record["interval_95"]]
        if not metrics:
            continue
        metric = top_metric(metrics) if record["task"] == CLASSIFICATION else metrics[0]
        of_task = is_low.setdefault(f"{record['dataset']}, {task_name(record['task'])}, {metric_name(metric)}", {})
        of_task[record["lang"]] = record["interval_95"][metric][0] <= record["chance"][metric]
    for name, by_lang in is_low.items():
        low = [lang for lang in by_lang if by_lang[lang]]
        names = f" ({', '.join(low)})" if low else ""
        yield f"{name}: {len(low) or 'none'} of {len(by_lang)}{names}."
