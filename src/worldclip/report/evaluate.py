"""Results of an evaluation: every number in one table, accuracy by language, published numbers, a gallery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldclip.core.job import Record
from worldclip.core.records import DatasetResult, EvaluateReport, GalleryImage, Headline, PublishedRow, TaskResult
from worldclip.report.by_language import languages_section
from worldclip.report.html import Html, html, join, tag
from worldclip.report.numbers import count, interval, percent
from worldclip.report.page import Bar, Card, Section, bars, code, folded, lang_name, legend, note, small_bar, words
from worldclip.report.page import cards as card_row
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

CLASSIFICATION = "zeroshot_classification"
MAX_BARS = 40  # languages shown as bars; for more, the plot by language says the same in less room
MAX_PARTS = 16  # rows of a dataset's parts that stay unfolded
SCORE_COLOURS = {"acc1": "var(--s1)", "acc5": "var(--s8)"}


def cards(report: EvaluateReport) -> list[Card]:
    """Return the mean accuracy on each dataset with zero-shot classification."""
    drawn = []
    for name, result in report["datasets"].items():
        if CLASSIFICATION in result["tasks"]:
            mean = result["tasks"][CLASSIFICATION]["mean"]
            metric, label = _top(mean["metrics"])
            remark = f"mean over {len(mean['languages'])} languages; chance {percent(mean['chance'][metric])}"
            if metric != "acc1":
                remark += f"; top-1 {percent(mean['metrics']['acc1'])}"
            drawn.append(Card(percent(mean["metrics"][metric]), f"{label} on {name}", remark))
    return drawn


def sections(report: EvaluateReport) -> list[Section]:
    """Return the parts that the evaluation has."""
    parts = [
        results_section(report),
        published_section(report),
        languages_section(report["datasets"]),
        accuracy_section(report["datasets"]),
        gallery_section(report["gallery"]),
    ]
    return [section for section in parts if section is not None]


def _top(metrics: Mapping[str, float]) -> tuple[str, str]:
    """Return the metric that stands for zero-shot classification, and what it is called."""
    return ("acc5", "top-5") if "acc5" in metrics else ("acc1", "top-1")


def _number(task: TaskResult) -> Callable[[float], str]:
    return percent if task.get("is_share", True) else "{:.3f}".format


def _is_averaged(task: TaskResult) -> bool:
    return task.get("is_averaged", len(task["languages"]) > 1)


def readable(name: str) -> str:
    """Return the name of a task or a metric for headings."""
    return name.removeprefix("cross_lingual_").replace("_", " ")


# --- results ----------------------------------------------------------------------------------------------------------


def results_section(report: EvaluateReport) -> Section | None:
    """Return every headline number in one table; None if nothing was measured."""
    rows: list[list[Any]] = []
    for dataset, result in report["datasets"].items():
        names = [dataset]  # the dataset and each task are named once, in the first of their rows
        for task, task_result in result["tasks"].items():
            for i, headline in enumerate(task_result.get("headlines", [])):
                name = names.pop() if names else None
                rows.append([name, None if i else readable(task), *_headline_cells(task_result, headline)])
    if not rows:
        return None
    labels = map(text_column, ("dataset", "task", "metric"))
    numbers = [Column("value"), text_column(""), *columns_of(("languages", "95% interval")), Column("queries", count)]
    results = Table([*labels, *numbers], rows).without_empty_columns()
    notes = [
        note(f"{name}: {count(result['num_bad_images'])} images could not be decoded and are left out.")
        for name, result in report["datasets"].items()
        if result["num_bad_images"]
    ]
    if "protocol" in report:
        notes.append(note(report["protocol"]))
    return Section(
        "Results",
        "One row per number; a mean over languages where there are several, with its 95% interval where there "
        "is one. The tick in a bar marks chance.",
        join([to_html(results), _suite(report.get("suite")), *notes]),
    )


def _headline_cells(task: TaskResult, headline: Headline) -> list[Any]:
    """Return metric, value, bar, languages, interval, number of queries."""
    number, value, bounds, langs = _number(task), headline["value"], headline["interval_95"], headline["languages"]
    bar = Bar(parts=[(value, "var(--s1)", number(value))], interval=bounds, mark=headline["chance"])
    return [
        readable(headline["metric"]),
        number(value),
        small_bar(bar) if task.get("is_share", True) else None,
        langs[0] if len(langs) == 1 else len(langs),
        interval(bounds, number),
        headline["n"],
    ]


def _suite(suite: Record | None) -> Html:
    if suite is None:
        return Html()
    if suite["mean"] is None:
        missing = suite["missing"]
        return note(f"No mean for suite {suite['name']}: {len(missing)} datasets are missing: {', '.join(missing)}.")
    return card_row([Card(percent(suite["mean"]), f"suite {suite['name']}", "mean over datasets")])


def published_section(report: EvaluateReport) -> Section | None:
    """Return our numbers beside published ones; None if the evaluation did not ask for them."""
    if "published" not in report:
        return None
    rows = report["published"]["rows"]
    protocols = [note(f"{row['title']}: {row['protocol']}") for row in rows]
    lead = f"Beside {report['published']['against']}, in percent. An exclamation mark flags a difference over 0.2."
    body = join([to_html(published_table(rows)), folded("Protocols", *protocols)])
    return Section("Published numbers", lead, body)


def published_table(rows: Sequence[PublishedRow]) -> Table:
    """Return our numbers beside published ones; `!` flags a row that differs."""
    cells = []
    for row in rows:
        difference = None if row["difference_pct"] is None else f"{row['difference_pct']:+.1f}"
        if row["differs"]:
            difference = f"{difference} !"
        source = f"{row['source']} (secondary)" if row["is_secondary"] else row["source"]
        cells.append([row["title"], row["ours_pct"], row["published_pct"], difference, row.get("over"), source])
    numbers = [*columns_of(("ours", "published"), "{:.1f}".format), Column("difference", html=bold_flagged)]
    return Table([text_column("figure"), *numbers, Column("languages"), text_column("source")], cells)


def bold_flagged(text: str) -> Html:
    """Return a number, in bold if it is flagged by `!` or `*`."""
    return tag("b", text) if text.endswith(("!", "*")) else html(text)


# --- accuracy by language ---------------------------------------------------------------------------------------------


def accuracy_section(datasets: Mapping[str, DatasetResult]) -> Section | None:
    """Return each dataset by language beside chance; None if nothing was measured."""
    if not datasets:
        return None
    scores = [(SCORE_COLOURS["acc1"], "top-1"), (SCORE_COLOURS["acc5"], "top-5")]
    colours = [*scores, ("var(--ink)", "95% interval"), ("var(--s2)", "chance")]
    return Section(
        "Accuracy by language",
        "Zero-shot classification of images among the class names of one language. The numbers of all tasks are "
        "folded below.",
        join([legend(colours), *(_dataset(name, result) for name, result in datasets.items())]),
    )


def _dataset(name: str, result: DatasetResult) -> Html:
    images = tag("small", code(f"{count(result['num_images'])} images"))
    parts = [tag("h3", name, " ", images)]
    for task, task_result in result["tasks"].items():
        if task == CLASSIFICATION:
            parts.append(_accuracy_bars(task_result))
        parts.append(_slices(task_result))
        parts.append(folded(f"{task.replace('_', ' ')} in numbers", to_html(_metrics_table(task_result))))
    return join(parts)


def _accuracy_bars(task: TaskResult) -> Html:
    mean, records = task["mean"], task["languages"]
    metric, _ = _top(mean["metrics"])
    rows = [
        _accuracy_bar(lang_name(lang), record["metrics"], record["chance"], metric, record["interval_95"][metric])
        for lang, record in sorted(records.items(), key=lambda item: -item[1]["metrics"][metric])
    ]
    if len(records) == 1:
        return bars(rows)
    mean_row = _accuracy_bar(tag("b", "mean"), mean["metrics"], mean["chance"], metric)
    langs = mean["languages"]
    over = tag("p", f"Mean over {len(langs)} languages: {' '.join(langs)}.", class_="lead")
    if len(rows) <= MAX_BARS:
        return bars([mean_row, *rows]) + over
    return bars([mean_row]) + folded(f"All {len(rows)} languages", bars(rows), over)


def _accuracy_bar(
    label: str,
    metrics: Mapping[str, float],
    chance: Mapping[str, float],
    metric: str,
    bounds: Sequence[float] | None = None,
) -> Bar:
    """Return a bar of top-1 and, if `metric` is acc5, top-5 behind it."""
    first, best = metrics["acc1"], metrics[metric]
    hover = f"top-1 {percent(first)}, top-5 {percent(best)}" if metric == "acc5" else f"top-1 {percent(first)}"
    hover += f", chance {percent(chance[metric])}"
    return Bar(
        label=label,
        parts=[(first, SCORE_COLOURS["acc1"], hover), (best - first, SCORE_COLOURS["acc5"], hover)],
        note=f"{percent(first)} · {percent(best)}" if metric == "acc5" else percent(first),
        interval=bounds,
        mark=chance[metric],
    )


def _slices(task: TaskResult) -> Html:
    """Return a dataset's parts: means over languages, or each language where a mean would mix questions."""
    slices = {lang: record.get("slices", {}) for lang, record in task["languages"].items()}
    names = list(dict.fromkeys(name for of_lang in slices.values() for name in of_lang))
    if not names:
        return Html()
    metrics = list(next(iter(next(iter(slices.values())).values()))["metrics"])
    means = task["mean"]["metrics"]
    if _is_averaged(task) or len(slices) == 1:
        titles = [readable(metric) for metric in metrics]
        values = {name: [means.get(f"{name}/{metric}") for metric in metrics] for name in names}
    else:
        titles = [f"{lang} {readable(metric)}" for lang in slices for metric in metrics]
        values = {
            name: [
                of_lang[name]["metrics"].get(metric) if name in of_lang else None
                for of_lang in slices.values()
                for metric in metrics
            ]
            for name in names
        }
    rows = [
        [name, *values[name], max(of_lang[name]["n"] for of_lang in slices.values() if name in of_lang)]
        for name in names
    ]
    part = text_column("part (mean over languages)" if _is_averaged(task) else "part")
    columns = [part, *columns_of(titles, percent), Column("queries", count)]
    drawn = to_html(Table(columns, rows))
    return drawn if len(rows) <= MAX_PARTS else folded(f"{len(rows)} parts", drawn)


def _metrics_table(task: TaskResult) -> Table:
    """Return every metric by language, with chance and the mean."""
    mean, records = task["mean"], task["languages"]
    metrics = [name for name in mean["metrics"] if "/" not in name]
    numbers = columns_of(map(readable, metrics), _number(task))
    columns = [text_column("language", lang_name), *numbers, Column("queries", count)]
    rows: list[list[Any]] = [
        [lang, *(record["metrics"][name] for name in metrics), record["n"]] for lang, record in records.items()
    ]
    if any(name in mean["chance"] for name in metrics):
        rows.append([Html("chance"), *map(mean["chance"].get, metrics), None])
    if not _is_averaged(task):
        return Table(columns, rows)
    rows.append([Html(f"mean over {len(mean['languages'])}"), *(mean["metrics"][name] for name in metrics), None])
    return Table(columns, rows, totals=[len(rows) - 1])


# --- gallery ----------------------------------------------------------------------------------------------------------


def gallery_section(gallery: Sequence[GalleryImage]) -> Section | None:
    """Return held-out images with the model's best names; None if there are none."""
    if not gallery:
        return None
    parts = []
    for dataset in dict.fromkeys(image["dataset"] for image in gallery):
        shots = [_shot(image) for image in gallery if image["dataset"] == dataset]
        parts += [tag("h3", dataset), tag("div", *shots, class_="shots")]
    return Section(
        "Gallery",
        "Images and the model's best names for them in several languages. Chosen by hash; half are right in the "
        "first language, where there are enough.",
        join(parts),
    )


def _shot(image: GalleryImage) -> Html:
    first_lang, first = next(iter(image["names"].items()))
    is_right = first["best"][0]["is_right"]
    verdict = tag("span", "right" if is_right else "wrong", class_=f"tag {'ok' if is_right else 'no'}")
    title = [words(first["truth"], first_lang), tag("small", code(image["key"])), verdict]
    answers = [_answers(lang, names["best"]) for lang, names in image["names"].items()]
    picture = tag("img", src=image["image"], alt=first["truth"])
    return tag("div", picture, tag("div", *title, class_="t"), tag("dl", *answers), class_="shot")


def _answers(lang: str, names: Sequence[Record]) -> Html:
    best, *others = names
    shown = [
        tag("b", "✓\N{NO-BREAK SPACE}", words(name["name"], lang), class_="ok")
        if name["is_right"]
        else words(name["name"], lang)
        for name in others
    ]
    mark = "✓\N{NO-BREAK SPACE}" if best["is_right"] else ""
    first = tag("span", mark, words(best["name"], lang), class_="ok" if best["is_right"] else "no")
    return tag("dt", code(lang)) + tag("dd", first, tag("div", join(shown, " · "), class_="rest"))
