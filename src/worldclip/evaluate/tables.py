"""Records as files for people and other programs: Markdown and CSV."""

from __future__ import annotations

import itertools
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
    return "\n".join(itertools.starmap(_dataset_text, by_dataset(records).items()))


def _dataset_text(dataset: str, tasks: Mapping[str, Mapping[str, ResultRecord]]) -> str:
    columns: list[tuple[str, str]] = []  # task and metric
    means: dict[str, Json] = {}
    times = Counter[str]()  # tasks that have a metric
    num_classes: dict[str, Any] = {}  # by language
    has_mean = False
    langs_of_tasks: dict[str, None] = {}
    for task, by_lang in tasks.items():
        available: dict[str, None] = {}
        for lang, record in by_lang.items():
            langs_of_tasks[lang] = None
            available |= dict.fromkeys(record["metrics"])
            if isinstance(record.get("num_classes"), int):  # a few-shot probe has a number for each number of shots
                num_classes[lang] = record["num_classes"]
        for metric in main_metrics(dataset, task, available):
            columns.append((task, metric))
            times[metric] += 1
        has_mean |= len(by_lang) > 1
        means[task] = mean_over_languages(list(by_lang.values()))
    langs = list(langs_of_tasks)
    shown = langs
    note = _languages_of_means(means)
    if columns and len(langs) > MAX_LANGUAGES_IN_TEXT:  # a terminal shows no 300 rows
        task, metric = columns[0]
        shown = _best_and_weakest(langs, tasks[task], metric, is_low_best=not task_info(task).is_share)
        note = f"The {NUM_EXTREMES} best and {NUM_EXTREMES} weakest of {len(langs)} languages; results.csv has all."
    # Column by column: a cell per language, then the mean, and the chance where all languages have the same.
    has_mean &= LOCAL not in langs
    has_common_chance = False
    titled = [text_column("language")]
    cells: list[list[Any]] = [[*shown, "mean", "chance"]]
    if num_classes:
        titled.append(Column("classes", "{:,}".format))
        cells.append([*map(num_classes.get, shown), None, None])
    for task, metric in columns:
        title = metric_name(metric)
        if times[metric] > 1:
            title += f" ({task_name(task)})"
        titled.append(Column(title))
        values = [_with_interval(tasks[task].get(lang), metric) for lang in shown]
        mean = _number(means[task]["metrics"].get(metric), task)
        mean_chance = _number(means[task]["chance"].get(metric), task)
        chance_of_lang = {lang: _number(record["chance"].get(metric), task) for lang, record in tasks[task].items()}
        if len({*chance_of_lang.values()} - {None}) > 1:  # languages differ in chance
            titled.append(Column("chance"))
            chances = [chance_of_lang.get(lang) for lang in shown]
            cells += [[*values, mean, None], [*chances, mean_chance, None]]
        else:
            has_common_chance = True
            cells.append([*values, mean, mean_chance])
    rows = list(map(list, zip(*cells, strict=True)))
    if not has_common_chance:
        rows.pop()
    if not has_mean:
        del rows[len(shown)]
    table = to_markdown(Table(titled, rows, totals=[len(shown)] if has_mean else []))
    parts = [f"### {dataset}", _counted_and_scale(tasks), table, note, _remark_on_chance(langs, tasks)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _counted_and_scale(tasks: Mapping[str, Mapping[str, ResultRecord]]) -> str:
    """Return what the numbers of a dataset count, and how they are written: `1,000 images; percent.`"""
    largest = 0
    unit = "images"
    scale = "percent"
    for task, by_lang in tasks.items():
        if unit == "images":
            unit = task_info(task).unit
        for record in by_lang.values():
            largest = max(largest, int(record.get("num_images") or record["n"]))
            if record["interval_95"]:
                scale = "percent, 95% intervals in brackets"
    return f"{largest:,} {unit}; {scale}."


def _best_and_weakest(
    langs: Sequence[str], records: Mapping[str, ResultRecord], metric: str, *, is_low_best: bool
) -> list[str]:
    """Return the first and last languages by a metric, and a line for those between; without a number comes last."""
    ascending: dict[str, float] = {}
    for lang, record in records.items():
        value = record["metrics"].get(metric)
        if value is not None:
            ascending[lang] = value if is_low_best else -value
    ranked = sorted(langs, key=lambda lang: ascending.get(lang, math.inf))
    return [*ranked[:NUM_EXTREMES], f"{len(langs) - 2 * NUM_EXTREMES} more", *ranked[-NUM_EXTREMES:]]


def _remark_on_chance(langs: Sequence[str], tasks: Mapping[str, Mapping[str, ResultRecord]]) -> str:
    """Name the languages that are not above chance; "" for none."""
    at_chance = [lang for lang in langs if _is_at_chance(lang, tasks)]
    few = ", ".join(at_chance[:MAX_LANGUAGES_IN_TEXT])
    return few and f"Not above chance (every 95% interval begins at or below what guessing gives): {few}."


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


def _number(value: float | None, task: str) -> str | None:
    """Return a number of a task as its tables write it; None stays None."""
    return None if value is None else task_info(task).number(value)


def _languages_of_means(means: Mapping[str, Json]) -> str:
    """Name the languages of each mean; "" if each task has one language."""
    langs: dict[str, tuple[str, ...]] = {}
    for task, mean in means.items():
        if LOCAL in mean["languages"]:
            return f"`{LOCAL}`: each question in the language it was written in."
        if len(mean["languages"]) > 1:
            langs[task] = tuple(mean["languages"])
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
