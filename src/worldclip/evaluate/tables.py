"""Records as files for people and other programs: Markdown and CSV."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from worldclip.core.artifacts import Json
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.report import main_metrics
from worldclip.evaluate.suites import AGREES_WITHIN_PCT, AVERAGED, languages_of, suite_mean, suite_rows
from worldclip.report.evaluate import published_table
from worldclip.report.metrics import metric_name, task_info, task_name
from worldclip.report.numbers import interval
from worldclip.report.results import LOCAL, ResultRecord, by_dataset, long_table, mean_over_languages
from worldclip.report.table import Column, Table, columns_of, text_column, to_csv, to_markdown

TIES = {"against": "a wrong candidate that scores as high wins", "first": "of equal scores the first candidate wins"}
CSV_COLUMNS = ("run", "model", "dataset", "lang", "task", "part", "metric", "value", "low", "high", "chance", "n")
IMAGE_KEYS = {"resize", "crop", "interpolation", "implementation", "exif"}  # of a record's preprocessing
MAX_LANGUAGES_IN_TEXT = 30  # rows of a table; the pages, results.csv and --json have all
NUM_EXTREMES = 5  # best languages, and weakest ones, in a table of more than MAX_LANGUAGES_IN_TEXT


def markdown_table(records: Sequence[ResultRecord]) -> str:
    """Return table.md: for each dataset its languages with 95% intervals and the number of classes, mean, and chance.

    Chance is the last row, or a column next to the numbers where it differs between languages.  Of more than
    MAX_LANGUAGES_IN_TEXT languages only the best and the weakest by the first column are shown.
    """
    return "\n".join(_dataset_text(dataset, tasks) for dataset, tasks in by_dataset(records).items())


def _dataset_text(dataset: str, tasks: Mapping[str, Mapping[str, ResultRecord]]) -> str:
    columns: list[tuple[str, str]] = []  # task and metric
    means: dict[str, Json] = {}
    num_classes: dict[str, Any] = {}  # by language
    langs_of_tasks: dict[str, None] = {}
    largest = 0
    unit = "images"
    scale = "percent"
    for task, by_lang in tasks.items():
        available: dict[str, None] = {}
        for lang, record in by_lang.items():
            langs_of_tasks[lang] = None
            available |= dict.fromkeys(record["metrics"])
            if "num_classes" in record:
                num_classes[lang] = record["num_classes"]
            if record["interval_95"]:
                scale = "percent, 95% intervals in brackets"
            largest = max(largest, int(record.get("num_images") or record["n"]))
        if unit == "images":
            unit = task_info(task).unit
        columns += [(task, metric) for metric in main_metrics(dataset, task, available)]
        means[task] = mean_over_languages(list(by_lang.values()))
    langs = list(langs_of_tasks)
    shown: list[str | None] = list(langs)
    note = _languages_of_means(means)
    if columns and len(langs) > MAX_LANGUAGES_IN_TEXT:  # a terminal shows no 300 rows
        task, metric = columns[0]
        values = {lang: record["metrics"].get(metric) for lang, record in tasks[task].items()}
        shown = _best_and_weakest(langs, values, is_low_best=not task_info(task).is_share)
        note = f"The {NUM_EXTREMES} best and {NUM_EXTREMES} weakest of {len(langs)} languages; results.csv has all."
    has_own_chance = _chance_differs(columns, tasks)
    rows: list[list[Any]] = []
    empty = [None] * len(columns)
    for shown_lang in shown:
        if shown_lang is None:
            rows.append([f"{len(langs) - 2 * NUM_EXTREMES} more", None, *_next_to(empty, empty, has_own_chance)])
            continue
        numbers = [_with_interval(tasks[task].get(shown_lang), metric) for task, metric in columns]
        chances = [_chance(tasks[task].get(shown_lang), metric) for task, metric in columns]
        rows.append([shown_lang, num_classes.get(shown_lang), *_next_to(numbers, chances, has_own_chance)])
    totals = []
    mean_chances = _means("chance", means, columns)
    if LOCAL not in langs and any(len(by_lang) > 1 for by_lang in tasks.values()):
        totals.append(len(rows))
        mean_values = _means("metrics", means, columns)
        rows.append(["mean", None, *_next_to(mean_values, mean_chances, has_own_chance)])
    if not all(has_own_chance):
        common = [None if differs else chance for chance, differs in zip(mean_chances, has_own_chance, strict=True)]
        rows.append(["chance", None, *_next_to(common, empty, has_own_chance)])
    titled = _titled(columns, has_own_chance)
    if not num_classes:
        del titled[1]
        for row in rows:
            del row[1]
    at_chance = [lang for lang in langs if _is_at_chance(lang, tasks)]
    if at_chance:
        few = ", ".join(at_chance[:MAX_LANGUAGES_IN_TEXT])
        note += f"\n\nNot above chance (every 95% interval begins at or below what guessing gives): {few}."
    table = to_markdown(Table(titled, rows, totals))
    parts = [f"### {dataset}", f"{largest:,} {unit}; {scale}.", table, note.strip()]
    return "\n\n".join(filter(None, parts)) + "\n"


def _titled(columns: Sequence[tuple[str, str]], has_own_chance: Sequence[bool]) -> list[Column]:
    """Return the columns of a table: language, classes, each metric, and after it the chance that differs."""
    titled = [text_column("language"), Column("classes", "{:,}".format)]
    times = Counter(metric for _, metric in columns)
    for (task, metric), differs in zip(columns, has_own_chance, strict=True):
        title = metric_name(metric)
        if times[metric] > 1:  # several tasks have it
            title += f" ({task_name(task)})"
        titled.append(Column(title))
        if differs:
            titled.append(Column("chance"))
    return titled


def _is_at_chance(lang: str, tasks: Mapping[str, Mapping[str, ResultRecord]]) -> bool:
    """Return whether the intervals of all metrics of a language that have one, and a chance, reach down to chance."""
    has_interval = False
    for by_lang in tasks.values():
        if lang not in by_lang:
            continue
        bounds = by_lang[lang]["interval_95"]
        for name, chance in by_lang[lang]["chance"].items():
            if name in bounds:
                has_interval = True
                if bounds[name][0] > chance:
                    return False
    return has_interval


def _with_interval(record: ResultRecord | None, metric: str) -> str | None:
    """Return a number of a record with its interval, `18.7 (16.1 to 21.4)`; None where it has none."""
    value = None if record is None else record["metrics"].get(metric)
    if record is None or value is None:
        return None
    number = task_info(record["task"]).number
    bounds = interval(record["interval_95"].get(metric), number)
    return number(value) if bounds is None else f"{number(value)} ({bounds})"


def _chance(record: ResultRecord | None, metric: str) -> str | None:
    """Return what guessing gives of a metric of a record; None where it is not known."""
    chance = None if record is None else record["chance"].get(metric)
    return None if record is None or chance is None else task_info(record["task"]).number(chance)


def _chance_differs(columns: Sequence[tuple[str, str]], tasks: Mapping[str, Mapping[str, ResultRecord]]) -> list[bool]:
    """Return of each column whether languages have different chances."""
    differs = []
    for task, metric in columns:
        chances = {_chance(record, metric) for record in tasks[task].values()}
        differs.append(len(chances - {None}) > 1)
    return differs


def _next_to(numbers: Sequence[Any], chances: Sequence[Any], has_own_chance: Sequence[bool]) -> list[Any]:
    """Return a cell per number, and after it one of its chance where the column has chances of its own."""
    cells = []
    for number, chance, is_shown in zip(numbers, chances, has_own_chance, strict=True):
        cells += [number, chance] if is_shown else [number]
    return cells


def _means(kind: str, means: Mapping[str, Json], columns: Sequence[tuple[str, str]]) -> list[str | None]:
    """Return the mean of each column.  kind: metrics or chance."""
    cells: list[str | None] = []
    for task, metric in columns:
        mean = means[task][kind].get(metric)
        cells.append(None if mean is None else task_info(task).number(mean))
    return cells


def _best_and_weakest(langs: Sequence[str], values: Mapping[str, float | None], is_low_best: bool) -> list[str | None]:
    """Return the first and last languages by their numbers, and between them None for the others.

    Languages without a number come last.
    """
    sign = 1.0 if is_low_best else -1.0

    def place(lang: str) -> float:
        value = values.get(lang)
        return math.inf if value is None else sign * value

    ranked = sorted(langs, key=place)
    return [*ranked[:NUM_EXTREMES], None, *ranked[-NUM_EXTREMES:]]


def _languages_of_means(means: Mapping[str, Json]) -> str:
    """Name the languages of each mean; "" if each task has one language."""
    if any(LOCAL in mean["languages"] for mean in means.values()):
        return f"`{LOCAL}`: each question in the language it was written in."
    langs = {task: tuple(mean["languages"]) for task, mean in means.items() if len(mean["languages"]) > 1}
    # Most datasets have the same languages in all tasks: say them once, without the task.
    if len(set(langs.values())) == 1:
        langs = {"": next(iter(langs.values()))}
    sentences = []
    for task, names in langs.items():
        subject = f"Means of {task}" if task else "Means"
        sentences.append(f"{subject} are over {len(names)} languages: {' '.join(names)}.")
    return " ".join(sentences)


def csv_text(run: str, records: Sequence[ResultRecord]) -> str:
    """Return results.csv: one row per metric of a record and of each of its slices (`part`).

    run: the name of the folder, by which the files of several runs can be joined.
    """
    rows: list[list[Any]] = []
    for record in records:
        rows += [[run, record["model"], *number] for number in long_table([record])]
    return to_csv(Table(columns_of(CSV_COLUMNS), rows))


def suite_text(suite: str, records: Sequence[ResultRecord]) -> str:
    """Return a suite in Markdown: each dataset's number, and the mean over datasets where one stands for the suite."""
    rows = []
    for row in suite_rows(suite, records):
        number = "missing" if row.value is None else f"{100 * row.value:.1f}"
        rows.append([CATALOG[row.dataset].title, row.metric, languages_of(row), number])
    columns = [text_column("dataset"), text_column("metric"), *columns_of(("languages", "value"))]
    text = f"### Suite {suite}\n\nPercent.\n\n{to_markdown(Table(columns, rows))}\n"
    if suite not in AVERAGED:
        return text
    mean, missing = suite_mean(suite, records)
    if mean is None:
        return f"{text}\nNo mean: {len(missing)} datasets are missing: {', '.join(missing)}.\n"
    return f"{text}\nMean over datasets: {100 * mean:.1f}.\n"


def beside_text(rows: Sequence[Json], against: str) -> str:
    """Return our numbers next to published ones in Markdown; `!` flags a difference over AGREES_WITHIN_PCT."""
    protocols = "\n".join(f"- {row['title']}: {row['protocol']}" for row in rows)
    return (
        f"### Beside {against}\n\nPercent; `!` flags a difference over {AGREES_WITHIN_PCT}.\n\n"
        f"{to_markdown(published_table(rows))}\n\n{protocols}\n"
    )


def protocol_text(records: Sequence[ResultRecord]) -> str:
    """Return how images became pixels and who wins a tie, for each such protocol among the records."""
    images: dict[str, None] = {}
    ties: dict[str, None] = {}
    for record in records:
        protocol = record["protocol"]
        text = image_text(protocol.get("preprocess", {}))
        if text:
            images[f"Images: {text}."] = None
        if "ties" in protocol:
            ties[f"Ties (`{protocol['ties']}`): {TIES[protocol['ties']]}."] = None
    lines = [*images, *ties]
    return " ".join(lines) + "\n" if lines else ""


def image_text(preprocess: Any) -> str:
    """Return how images became pixels; "" where a record, which may be somebody else's, does not state it."""
    if not isinstance(preprocess, dict) or not preprocess.keys() >= IMAGE_KEYS:
        return ""
    return (
        f"resize {preprocess['resize']}, crop {preprocess['crop']}, {preprocess['interpolation']} by "
        f"{preprocess['implementation']}, EXIF {preprocess['exif']}"
    )
