"""Records as files for people and other programs: Markdown, CSV, LaTeX, CLIP_benchmark's JSON, a page of two models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import write_json
from worldclip.core.records import PublishedRow
from worldclip.evaluate import slip
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.compare import Arm, Comparison
from worldclip.evaluate.report import (
    DISTANCE_TASKS,
    TASK_METRICS,
    by_dataset,
    flat_metrics,
    mean_over_languages,
    to_average,
)
from worldclip.evaluate.suites import AGREES_WITHIN_PCT, AVERAGED, languages_of, suite_mean, suite_rows
from worldclip.evaluate.tasks import LOCAL, Record
from worldclip.report.by_language import MAX_BARS
from worldclip.report.chart import Line, line_chart
from worldclip.report.evaluate import bold_flagged, published_table
from worldclip.report.html import Html, join, tag
from worldclip.report.metric_names import metric_name, task_name
from worldclip.report.page import Bar, Section, bars, figure, folded, lang_name, legend, note, write_page
from worldclip.report.table import Column, Table, columns_of, text_column, to_csv, to_html, to_latex, to_markdown

COLUMNS = (  # title, task, metric (of a slice: slice/metric)
    ("top-1", "zeroshot_classification", "acc1"),
    ("top-5", "zeroshot_classification", "acc5"),
    ("F1", "zeroshot_classification", "f1_macro"),
    ("ROC AUC", "zeroshot_classification", "roc_auc"),
    ("head top-5", "zeroshot_classification", "head/acc5"),
    ("middle top-5", "zeroshot_classification", "middle/acc5"),
    ("tail top-5", "zeroshot_classification", "tail/acc5"),
    ("top-1 (SLIP's names)", slip.TASK, "acc1"),
    ("top-5 (SLIP's names)", slip.TASK, "acc5"),
    ("ROC AUC (SLIP's names)", slip.TASK, "roc_auc"),
    ("mAP", "multilabel_classification", "mean_average_precision"),
    ("text > image R@1", "image_text_retrieval", "image_retrieval_recall@1"),
    ("R@5", "image_text_retrieval", "image_retrieval_recall@5"),
    ("image > text R@1", "image_text_retrieval", "text_retrieval_recall@1"),
    ("R@5", "image_text_retrieval", "text_retrieval_recall@5"),
    ("choice", "choice", "accuracy"),
    ("image choice", "image_choice", "accuracy"),
    ("text score", "matching", "text_acc"),
    ("image score", "matching", "image_acc"),
    ("group score", "matching", "acc"),
    ("Jaccard", "association", "jaccard"),
    ("consistency@10 (classes)", "cross_lingual_consistency_classes", "consistency@10"),
    ("consistency@10 (captions)", "cross_lingual_consistency_captions", "consistency@10"),
    ("alignment", "alignment_uniformity", "alignment"),
    ("uniformity (image)", "alignment_uniformity", "uniformity_image"),
    ("uniformity (text)", "alignment_uniformity", "uniformity_text"),
    ("country 5-shot", "few_shot_country", "acc1_5_shot"),
    ("10-shot", "few_shot_country", "acc1_10_shot"),
    ("25-shot", "few_shot_country", "acc1_25_shot"),
    ("region 5-shot", "few_shot_region", "acc1_5_shot"),
    ("10-shot", "few_shot_region", "acc1_10_shot"),
    ("25-shot", "few_shot_region", "acc1_25_shot"),
    ("linear probe (class)", "linear_probe_class", "acc1"),
    ("linear probe (country)", "linear_probe_country", "acc1"),
    ("linear probe (region)", "linear_probe_region", "acc1"),
)
TIES = {"against": "a wrong candidate that scores as high wins", "first": "of equal scores the first candidate wins"}
UNITS = {
    "choice": "questions",
    "image_choice": "sentences",
    "matching": "examples",
    "association": "cues",
}  # what tasks count; others: images
CSV_COLUMNS = ("run", "model", "dataset", "lang", "task", "part", "metric", "value", "low", "high", "chance", "n")
MAX_LANGUAGES_IN_TEXT = 30  # rows of a table; the pages, results.csv and --json have all
NUM_EXTREMES = 5  # best languages, and weakest ones, in a table of more than MAX_LANGUAGES_IN_TEXT
NUM_COLOURS = 6  # of a chart
LANGUAGES_COLUMN = 3  # of a comparison
CLIP_BENCHMARK_TASKS = {  # our task -> the name that CLIP_benchmark gives it; others keep ours
    "image_text_retrieval": "zeroshot_retrieval",
    "multilabel_classification": "zeroshot_classification",
    "choice": "image_caption_selection",
    "matching": "image_caption_selection",
}


def percent(value: float) -> str:
    """Write a share in percent, without the sign; below 1% with two decimals."""
    return f"{100 * value:.2f}" if 0 < value < 0.01 else f"{100 * value:.1f}"


def number_of(task: str) -> Callable[[float], str]:
    """Return how the metrics of a task are written: in percent, distances as they are."""
    return "{:.3f}".format if task in DISTANCE_TASKS else percent


def markdown_table(records: Sequence[Record]) -> str:
    """Return table.md: for each dataset its languages, their mean where there are several, and chance, in percent.

    With more than MAX_LANGUAGES_IN_TEXT languages: the best and the weakest by the first column.
    """
    return "\n".join(_dataset_text(dataset, tasks) for dataset, tasks in by_dataset(records).items())


def _dataset_text(dataset: str, tasks: dict[str, dict[str, Record]]) -> str:
    flat = {task: {lang: flat_metrics(record) for lang, record in by_lang.items()} for task, by_lang in tasks.items()}
    means = {task: mean_over_languages(list(by_lang.values())) for task, by_lang in tasks.items()}
    columns = [
        (title, task, metric)
        for title, task, metric in COLUMNS
        if any(metric in metrics for metrics in flat.get(task, {}).values())
    ]
    langs = list(dict.fromkeys(lang for by_lang in tasks.values() for lang in by_lang))
    rows: list[list[Any]] = [
        [lang, *(flat[task].get(lang, {}).get(metric) for _, task, metric in columns)] for lang in langs
    ]
    is_folded = len(rows) > MAX_LANGUAGES_IN_TEXT
    if is_folded:
        rows = _best_and_weakest(rows, is_low_best=columns[0][1] in DISTANCE_TASKS)
    totals = []
    if LOCAL not in langs and any(len(by_lang) > 1 for by_lang in tasks.values()):
        totals = [len(rows)]
        rows.append(["mean", *(means[task]["metrics"].get(metric) for _, task, metric in columns)])
    rows.append(["chance", *(means[task]["chance"].get(metric.split("/")[-1]) for _, task, metric in columns)])
    written = [Column(title, number_of(task)) for title, task, _ in columns]
    table = Table([text_column("language"), *written], rows, totals)
    num_queries = max(int(rec.get("num_images") or rec["n"]) for by_lang in tasks.values() for rec in by_lang.values())
    unit = next((UNITS[task] for task in tasks if task in UNITS), "images")
    note = (
        f"The {NUM_EXTREMES} best and {NUM_EXTREMES} weakest of {len(langs)} languages; results.csv has all."
        if is_folded
        else _languages_of_means(means)
    )
    parts = [f"### {dataset}", f"{num_queries:,} {unit}; percent.", to_markdown(table), note]
    return "\n\n".join(filter(None, parts)) + "\n"


def _best_and_weakest(rows: list[list[Any]], is_low_best: bool) -> list[list[Any]]:
    """Return the first and last rows after sorting by all columns, and between them a row that counts the others.

    Languages without a number come last.
    """
    sign = 1.0 if is_low_best else -1.0
    ranked = sorted(rows, key=lambda row: [math.inf if value is None else sign * value for value in row[1:]])
    between = [f"{len(rows) - 2 * NUM_EXTREMES} more", *([None] * (len(rows[0]) - 1))]
    return [*ranked[:NUM_EXTREMES], between, *ranked[-NUM_EXTREMES:]]


def _languages_of_means(means: dict[str, Record]) -> str:
    """Name the languages of each mean; "" if each task has one language."""
    if any(LOCAL in mean["languages"] for mean in means.values()):
        return f"`{LOCAL}`: each question in the language it was written in."
    langs = {task: tuple(mean["languages"]) for task, mean in means.items() if len(mean["languages"]) > 1}
    if len(set(langs.values())) == 1:
        langs = {"": next(iter(langs.values()))}
    return " ".join(
        f"Means{f' of {task}' if task else ''} are over {len(names)} languages: {' '.join(names)}."
        for task, names in langs.items()
    )


def csv_text(run: str, records: Sequence[Record]) -> str:
    """Return results.csv: one row per metric of a record and of each of its slices (`part`).

    run: name of the folder, so that the files of several runs can be joined.
    """
    rows: list[list[Any]] = []
    for record in records:
        about = [run, record["model"], record["dataset"], record["lang"], record["task"]]
        for metric, value in record["metrics"].items():
            low, high = record["interval_95"].get(metric, (None, None))
            rows.append([*about, None, metric, value, low, high, record["chance"].get(metric), record["n"]])
        for part, inner in record.get("slices", {}).items():
            for metric, value in inner["metrics"].items():
                rows.append([*about, part, metric, value, None, None, None, inner["n"]])
    return to_csv(Table(columns_of(CSV_COLUMNS), rows))


def latex_text(records: Sequence[Record]) -> str:
    """Return table.tex: the mean over languages of each dataset, task and metric, in percent.

    CVQA's English and local questions are not averaged.
    """
    rows = []
    for dataset, tasks in by_dataset(records).items():
        for task, by_lang in tasks.items():
            groups = to_average(by_lang)
            for mean in map(mean_over_languages, groups):
                langs = mean["languages"][0] if len(groups) > 1 else len(mean["languages"])
                rows += [[dataset, metric, langs, number_of(task)(value)] for metric, value in mean["metrics"].items()]
    columns = [text_column("dataset"), text_column("metric"), *columns_of(("languages", "mean"))]
    return to_latex(Table(columns, rows))


def suite_text(suite: str, records: Sequence[Record]) -> str:
    """Return a suite in Markdown: each dataset's number, and the mean over datasets where one stands for the suite."""
    rows = [
        [
            CATALOG[row.dataset].title,
            row.metric,
            languages_of(row),
            "missing" if row.value is None else f"{100 * row.value:.1f}",
        ]
        for row in suite_rows(suite, records)
    ]
    columns = [text_column("dataset"), text_column("metric"), *columns_of(("languages", "value"))]
    text = f"### Suite {suite}\n\nPercent.\n\n{to_markdown(Table(columns, rows))}\n"
    if suite not in AVERAGED:
        return text
    mean, missing = suite_mean(suite, records)
    if mean is None:
        return f"{text}\nNo mean: {len(missing)} datasets are missing: {', '.join(missing)}.\n"
    return f"{text}\nMean over datasets: {100 * mean:.1f}.\n"


def beside_text(rows: Sequence[PublishedRow], against: str) -> str:
    """Return our numbers beside published ones in Markdown; `!` flags a difference over AGREES_WITHIN_PCT."""
    protocols = "\n".join(f"- {row['title']}: {row['protocol']}" for row in rows)
    return (
        f"### Beside {against}\n\nPercent; `!` flags a difference over {AGREES_WITHIN_PCT}.\n\n"
        f"{to_markdown(published_table(rows))}\n\n{protocols}\n"
    )


# --- two models -------------------------------------------------------------------------------------------------------


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison in Markdown, in percent; a star marks significant differences.

    Results by language follow where there are several and a terminal has room for them.
    """
    parts = [to_markdown(_comparison(comparison)), "", *_means_over(comparison.rows), *_preprocessing_of(comparison)]
    for title, table in _by_language(comparison):
        if len(table.rows) <= MAX_LANGUAGES_IN_TEXT:
            parts += ["", f"{title}:", "", to_markdown(table)]
    return "\n".join([*parts, ""])


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write a comparison as a page: who is compared, the main metrics, results by language, all metrics."""
    arms = comparison.arms
    names = [
        tag("dt", tag("i", style=f"background:{_colour(i)}"), arm.name) + tag("dd", ", ".join(map(str, arm.folders)))
        for i, arm in enumerate(arms)
    ]
    main_rows = [row for row in comparison.rows if _is_main(row)]
    notes = map(note, [*_means_over(comparison.rows), *_preprocessing_of(comparison)])
    results = [tag("dl", *names, class_="about"), to_html(_readable(comparison, main_rows)), *notes]
    if len(main_rows) < len(comparison.rows):
        all_metrics = to_html(_readable(comparison, comparison.rows))
        results.append(folded(f"All {len(comparison.rows)} metrics", all_metrics))
    lead = (
        f"In percent; differences are from {arms[0].name}. A star marks differences whose 95% interval excludes 0: "
        "resamples of the images, the same for all runs and languages, and of the seeds within each row of runs."
    )
    sections = [Section("Results", lead, join(results))]
    by_language = [_languages_part(comparison, rows) for rows in _plotted(comparison).values()]
    if by_language:
        lead = f"Sorted by the result of {arms[0].name}; in percent."
        sections.append(Section("By language", lead, join(by_language)))
    title = f"Comparison of {' and '.join(arm.name for arm in arms)}" if len(arms) == 2 else "Comparison"
    write_page(path, title, "Made with worldclip.", sections)


def _colour(arm: int) -> str:
    return f"var(--s{1 + arm % NUM_COLOURS})"


def _is_main(row: Record) -> bool:
    """Return whether a row's metric stands for its task; tasks without such metrics show all."""
    return row["metric"] in TASK_METRICS.get(row["task"], (row["metric"],))


def _readable(comparison: Comparison, rows: Sequence[Record]) -> Table:
    """Return the comparison's table in the words of the report; a dataset and a task are named once.

    Without the column of languages where all rows are over the same ones, which the page names below.
    """
    table = _comparison(dataclasses.replace(comparison, rows=list(rows)))
    cells, last = [], ("", "")
    for dataset, task, metric, *others in table.rows:
        is_new = (dataset != last[0], (dataset, task) != last)
        cells.append([dataset if is_new[0] else None, task_name(task) if is_new[1] else None,
                      metric_name(metric), *others])  # fmt: skip
        last = (dataset, task)
    if len({tuple(row["languages"]) for row in comparison.rows}) == 1 and len(comparison.rows[0]["languages"]) > 1:
        for row in cells:
            row[LANGUAGES_COLUMN] = None  # an empty column is not drawn
    return Table(table.columns, cells)


def _languages_part(comparison: Comparison, rows: Sequence[Record]) -> Html:
    """Return one task by language: a bar per language and arm, or lines where there are many; all numbers."""
    first, arms = rows[0], comparison.arms
    remark = f"{task_name(first['task'])}, {metric_name(first['metric'])}"
    heading = tag("h3", first["dataset"], " ", tag("small", remark))
    colours = legend((_colour(i), arm.name) for i, arm in enumerate(arms))
    is_share = first["task"] not in DISTANCE_TASKS
    if is_share and len(rows) <= MAX_BARS:
        return join([heading, colours, bars(bar for row in rows for bar in _language_bars(arms, row))])
    columns = [text_column("language", lang_name), *columns_of((arm.name for arm in arms), number_of(first["task"]))]
    numbers = to_html(Table(columns, [[row["lang"], *row["values"]] for row in rows]))
    chart = figure(remark, "%" if is_share else "", _language_chart(comparison, rows))
    return join([heading, colours, chart, folded(f"{len(rows)} languages in numbers", numbers)])


def _language_bars(arms: Sequence[Arm], row: Record) -> Iterator[Bar]:
    number = number_of(row["task"])
    for i, (arm, value) in enumerate(zip(arms, row["values"], strict=True)):
        hover = f"{arm.name}: {number(value)}%"
        yield Bar(label="" if i else lang_name(row["lang"]), parts=[(value, _colour(i), hover)], note=number(value))


def _comparison(comparison: Comparison) -> Table:
    names = [arm.name for arm in comparison.arms]
    cells: list[list[Any]] = []
    for row in comparison.rows:
        task, langs = row["task"], row["languages"]
        number = number_of(task)
        cell = [row["dataset"], task, row["metric"], langs[0] if len(langs) == 1 else len(langs)]
        cell += [number(value) for value in row["values"]]
        for i, difference in enumerate(row["differences"]):
            bounds = row["intervals"][i] if "intervals" in row else None
            is_significant = "intervals" in row and row["is_significant"][i]
            cell.append(_signed(task, difference) + (" *" if is_significant else ""))
            cell.append(None if bounds is None else " to ".join(_signed(task, bound) for bound in bounds))
        cells.append(cell)
    columns = [*map(text_column, ("dataset", "task", "metric")), *columns_of(("languages", *names))]
    for name in names[1:]:
        columns.append(Column("difference" if len(names) == 2 else f"{name} - {names[0]}", html=bold_flagged))
        columns.append(text_column("95% interval"))
    return Table(columns, cells)


def _plotted(comparison: Comparison) -> dict[str, list[Record]]:
    """Return the rows by language of each task's first metric, best first, under `dataset, task, metric`."""
    first = {(row["dataset"], row["task"]): row["metric"] for row in reversed(comparison.rows)}
    groups: dict[str, list[Record]] = {}
    for row in comparison.by_language:
        if first[row["dataset"], row["task"]] == row["metric"]:
            groups.setdefault(f"{row['dataset']}, {row['task']}, {row['metric']}", []).append(row)
    return {title: sorted(rows, key=lambda row: -row["values"][0]) for title, rows in groups.items() if len(rows) > 1}


def _by_language(comparison: Comparison) -> list[tuple[str, Table]]:
    names = [arm.name for arm in comparison.arms]
    tables = []
    for title, rows in _plotted(comparison).items():
        columns = [text_column("language"), *columns_of(names, number_of(rows[0]["task"]))]
        tables.append((title, Table(columns, [[row["lang"], *row["values"]] for row in rows])))
    return tables


def _language_chart(comparison: Comparison, rows: Sequence[Record]) -> Html:
    """Return a line per arm over the languages, in the order of the first arm."""
    scale = 1 if rows[0]["task"] in DISTANCE_TASKS else 100
    lines = [
        Line(
            name=arm.name,
            x=range(1, len(rows) + 1),
            y=[scale * row["values"][i] for row in rows],
            colour=_colour(i),
        )
        for i, arm in enumerate(comparison.arms)
    ]
    return line_chart(lines, x_label="languages, best first", y_label=metric_name(rows[0]["metric"]))


def _signed(task: str, difference: float) -> str:
    return f"{difference:+.3f}" if task in DISTANCE_TASKS else f"{100 * difference:+.1f}"


def _means_over(rows: Sequence[Record]) -> list[str]:
    langs = dict.fromkeys(" ".join(row["languages"]) for row in rows if len(row["languages"]) > 1)
    return [f"Means over: {names}." for names in langs]


def _preprocessing_of(comparison: Comparison) -> list[str]:
    """Return a sentence on how each arm turns images into pixels, where they differ."""
    ways = dict.fromkeys(tuple(map(_image_text, row.get("preprocess", ()))) for row in comparison.rows)
    names = [arm.name for arm in comparison.arms]
    return [
        f"Images are preprocessed differently. {'; '.join(map(': '.join, zip(names, texts, strict=True)))}."
        for texts in ways
        if len(set(texts)) > 1
    ]


def protocol_text(records: Sequence[Record]) -> str:
    """Return how images became pixels and who wins a tie, for each such protocol among the records."""
    protocols = [record["protocol"] for record in records]
    images = dict.fromkeys(_image_text(protocol.get("preprocess", {})) for protocol in protocols)
    ties = dict.fromkeys(protocol["ties"] for protocol in protocols if "ties" in protocol)
    lines = [f"Images: {text}." for text in images if text]
    lines += [f"Ties (`{rule}`): {TIES[rule]}." for rule in ties]
    return " ".join(lines) + "\n" if lines else ""


def _image_text(preprocess: Record) -> str:
    if not preprocess:
        return ""
    return (
        f"resize {preprocess['resize']}, crop {preprocess['crop']}, {preprocess['interpolation']} by "
        f"{preprocess['implementation']}, EXIF {preprocess['exif']}"
    )


# --- files ------------------------------------------------------------------------------------------------------------


def write_clip_benchmark(folder: Path, records: Sequence[Record]) -> None:
    """Write one JSON file per record, as `clip_benchmark build` reads them."""
    for record in records:
        name = "_".join([record["dataset"], record["lang"], record["task"], record["model_digest"][:8]])
        write_json(
            folder / f"{name}.json",
            {
                "dataset": record["dataset"],
                "model": record["model"],
                "pretrained": record["model_digest"],
                "task": CLIP_BENCHMARK_TASKS.get(record["task"], record["task"]),
                "metrics": record["metrics"],
                "language": record["lang"],
            },
        )
