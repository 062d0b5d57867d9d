"""Each task in report.json: its numbers by language, and the few that summarise it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from worldclip.core.artifacts import Json
from worldclip.evaluate import suites
from worldclip.evaluate.catalog import CATALOG
from worldclip.pool.config import held_out_names
from worldclip.report.metrics import task_info, top_metric
from worldclip.report.results import ResultRecord, is_averaged, mean_over_languages

PROBES = ("few_shot", "linear_probe")  # tasks whose metrics have the names of a dataset's own
HELD = "_held"  # a held-out set of this ending asks for a part of the pictures of the one without it
LEVELS = ("high", "mid", "low")  # resource levels, the best first


def task_result(dataset: str, task: str, records: Mapping[str, ResultRecord]) -> Json:
    """Return what the report says of one task: records by language, their mean, and the numbers that stand for it.

    One number stands for all languages, or for each one where a mean would mix English and local questions.
    """
    info = task_info(task)
    mean = mean_over_languages(list(records.values()))
    headlines: list[Json] = []
    if is_averaged(records):
        headlines += _headlines(dataset, task, list(records.values()))
    else:
        for record in records.values():
            headlines += _headlines(dataset, task, [record])
    result: Json = {
        "mean": mean,
        "languages": dict(records),
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
    metrics = dict(mean["metrics"])
    intervals: Mapping[str, Sequence[float]] = {}
    num_queries = None
    if len(records) == 1:
        record = records[0]
        intervals = record["interval_95"]
        num_queries = record["n"]
        metrics = dict(record["metrics"])
        # The catalog derives some metrics from several: a worst region, the mean of two.
        for name in _catalog_metrics(dataset):
            value = suites.value(name, record)
            if value is not None:
                metrics[name] = value
    return [
        {
            "metric": name,
            "value": metrics[name],
            "languages": mean["languages"],
            "interval_95": intervals.get(name),
            "chance": mean["chance"].get(name),
            "n": num_queries,
        }
        for name in main_metrics(dataset, task, metrics)
    ]


def main_metrics(dataset: str, task: str, available: Collection[str]) -> list[str]:
    """Return which of the available metrics stand for a task: those of the catalog, else of the task, else all."""
    names: list[str] = []
    if not task.startswith(PROBES):
        names = [metric for metric in _catalog_metrics(dataset) if metric in available]
    return names or [metric for metric in task_info(task).metrics or available if metric in available]


def _catalog_metrics(dataset: str) -> tuple[str, ...]:
    return CATALOG[dataset].metrics if dataset in CATALOG else ()


# --- combinations held out of training --------------------------------------------------------------------------------


def held_out_combinations(by_lang_of: Mapping[str, Mapping[str, ResultRecord]]) -> list[Json]:
    """Return a row for each language of a drawn pool's set NAME with another NAME_held: accuracy on both pictures.

    by_lang_of: {dataset: {language: record of zero-shot classification}}.  NAME_held asks for a part of the pictures of
    NAME among the same names, so what NAME has more are the pictures whose name was in training (`seen`).  Datasets
    of others with such names may hold anything.
    """
    rows: list[Json] = []
    set_names = held_out_names()
    for dataset in set_names:
        if f"{dataset}{HELD}" not in set_names:
            continue
        for lang, held in by_lang_of.get(f"{dataset}{HELD}", {}).items():
            whole = by_lang_of.get(dataset, {}).get(lang)
            # Comparable: among the same names, and with other pictures than the held-out ones.
            if whole is None or whole["chance"] != held["chance"] or whole["n"] <= held["n"]:
                continue
            metric = top_metric(held["metrics"])
            num_seen = whole["n"] - held["n"]
            num_right = round(whole["n"] * whole["metrics"][metric]) - round(held["n"] * held["metrics"][metric])
            row = {"dataset": dataset, "lang": lang, "metric": metric, "chance": held["chance"][metric]}
            row |= {"seen": num_right / num_seen, "num_seen": num_seen}
            rows.append(row | {"held": held["metrics"][metric], "num_held": held["n"]})
    return rows
