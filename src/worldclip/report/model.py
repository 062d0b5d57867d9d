"""What training and evaluation found, as parts of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from worldclip.evaluate.report import RAW
from worldclip.evaluate.tasks import LOCAL
from worldclip.report.charts import Line, line_chart
from worldclip.report.page import (
    Bar,
    Section,
    bars,
    count,
    figure,
    folded,
    lang_name,
    legend,
    note,
    percent,
    short,
    table,
    words,
)

Report = dict[str, Any]
CURVE_POINTS = 300  # of a training curve: more than a screen shows
MAX_BARS = 40  # languages shown as bars; of more the plot of languages says the same in less room
MAX_PARTS = 16  # of a data set in a table that stands open


def train_section(report: Report | None, log: Sequence[Mapping[str, Any]]) -> Section | None:
    """Loss, logit scale and learning rate over samples seen, and the run in numbers once it is finished.

    None where nothing is logged yet.
    """
    if not log:
        return None
    figures = ""
    for key, heading, colour in (
        ("loss", "Loss", "var(--s1)"),
        ("logit_scale", "Logit scale", "var(--s3)"),
        ("lr", "Learning rate", "var(--s5)"),
        ("samples_per_s", "Samples per second", "var(--s4)"),
    ):
        points = [(row["samples_seen"], row[key]) for row in log if row.get(key) is not None]
        if points:
            figures += _training_curve(heading, points, colour)
    lead = f"{short(log[-1]['samples_seen'])} samples seen in {count(log[-1]['step'])} steps."
    return Section(
        anchor="train",
        heading="Training",
        lead=lead if report is None else f"{lead} {_how_it_went(report)}",
        body=f'<div class="grid wide">{figures}</div>' + ("" if report is None else _faults(report)),
    )


def _how_it_went(report: Report) -> str:
    speed = f", {count(report['samples_per_s'])} samples a second" if report["samples_per_s"] else ""
    return (
        f"{report['epochs']:.1f} times over {count(report['pairs'])} pairs in {report['elapsed_s'] / 60:.1f} "
        f"minutes{speed}."
    )


def _faults(report: Report) -> str:
    """What training had to do without; nothing where there was nothing."""
    found = []
    if report["no_image"]:
        found.append(f"{count(report['no_image'])} kept pairs have no image in the pool and are not in the plan.")
    if report["skipped_steps"]:
        found.append(f"{count(report['skipped_steps'])} steps were skipped, as their loss was not a finite number.")
    found += [f"{count(n)} draws met an image that is no use ({reason})." for reason, n in report["bad"].items()]
    return "".join(map(note, found))


def _training_curve(heading: str, points: list[tuple[float, float]], colour: str) -> str:
    shown = _thinned(points)
    x, y = zip(*shown, strict=True)
    chart = line_chart([Line(name=heading, x=x, y=y, colour=colour)], x_label="samples seen", y_label=heading)
    return figure(heading, f"last {points[-1][1]:.4g}", chart)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of equal runs of points, at most CURVE_POINTS of them."""
    width = -(-len(points) // CURVE_POINTS)
    runs = [points[start : start + width] for start in range(0, len(points), width)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def accuracy_section(report: Report) -> Section | None:
    """Each data set by language beside chance; None where nothing was measured."""
    parts = [_dataset(name, found) for name, found in report["datasets"].items()]
    if not parts:
        return None
    keys = legend([("var(--s1)", "top-1"), ("var(--s8)", "top-5"), ("var(--ink)", "95% interval of top-5"),
                   ("var(--s2)", "chance of top-5")])  # fmt: skip
    return Section(
        anchor="accuracy",
        heading="Accuracy by language",
        lead="Images among all names of a language. Means name the languages they are over; other tasks' numbers are "
        "folded below.",
        body=keys + "".join(parts),
    )


def _dataset(name: str, found: Mapping[str, Any]) -> str:
    parts = [f"<h3>{escape(name)} <small><code>{count(found['num_images'])} images</code></small></h3>"]
    for task, of_task in found["tasks"].items():
        if task == "zeroshot_classification":
            parts.append(_accuracy_bars(of_task))
        parts.append(_parts(of_task))
        parts.append(folded(f"{task.replace('_', ' ')} in numbers", _metrics_table(of_task, is_raw=task in RAW)))
    return "".join(parts)


def _accuracy_bars(of_task: Mapping[str, Any]) -> str:
    shown = "acc5" if "acc5" in of_task["mean"]["metrics"] else "acc1"
    mean, records = of_task["mean"], of_task["languages"]
    rows = []
    for lang, record in sorted(records.items(), key=lambda item: -item[1]["metrics"][shown]):
        interval = record["interval_95"][shown]
        rows.append(_accuracy_bar(lang_name(lang), record["metrics"], record["chance"], interval, shown))
    if len(records) == 1:
        return bars(rows)
    mean_row = _accuracy_bar("<b>mean</b>", mean["metrics"], mean["chance"], None, shown)
    over = f"<p class=lead>Mean over {len(mean['languages'])} languages: {' '.join(mean['languages'])}.</p>"
    if len(rows) <= MAX_BARS:
        return bars([mean_row, *rows]) + over
    return bars([mean_row]) + folded(f"all {len(rows)} languages", bars(rows) + over)


def _accuracy_bar(
    label: str,
    metrics: Mapping[str, float],
    chance: Mapping[str, float],
    interval: Sequence[float] | None,
    shown: str,
) -> Bar:
    first, five = metrics["acc1"], metrics[shown]
    hover = f"top-1 {percent(first)}, top-5 {percent(five)}, chance {percent(chance[shown])}"
    return Bar(
        label=label,
        parts=[(first, "var(--s1)", hover), (five - first, "var(--s8)", hover)],
        note=f"{percent(first)} · {percent(five)}" if shown == "acc5" else percent(first),
        whisker=(interval[0], interval[1]) if interval is not None else None,
        mark=chance[shown],
    )


def _parts(of_task: Mapping[str, Any]) -> str:
    """A data set's parts (countries, incomes, head and tail): means over languages, of CVQA English and local."""
    records = of_task["languages"]
    parts = [record.get("slices", {}) for record in records.values()]
    names = list(dict.fromkeys(name for slices in parts for name in slices))
    if not names:
        return ""
    metrics = list(next(iter(parts[0].values()))["metrics"])
    columns: list[tuple[str, list[float | None]]]
    if LOCAL in records:
        columns = [
            (f"{lang} {metric}", [_of_part(record.get("slices", {}), name, metric) for name in names])
            for lang, record in records.items()
            for metric in metrics
        ]
    else:
        means = of_task["mean"]["metrics"]
        columns = [(metric, [means.get(f"{name}/{metric}") for name in names]) for metric in metrics]
    rows = [
        [
            escape(name),
            *("" if values[i] is None else percent(values[i] or 0.0) for _, values in columns),
            count(max(slices[name]["n"] for slices in parts if name in slices)),
        ]
        for i, name in enumerate(names)
    ]
    over = "" if LOCAL in records or len(records) == 1 else " (mean over languages)"
    drawn = table([f"part{over}", *(escape(head.replace("_", " ")) for head, _ in columns), "asked"], rows)
    return drawn if len(rows) <= MAX_PARTS else folded(f"{len(rows)} parts", drawn)


def _of_part(slices: Mapping[str, Any], name: str, metric: str) -> float | None:
    found: float | None = slices[name]["metrics"].get(metric) if name in slices else None
    return found


def _metrics_table(of_task: Mapping[str, Any], *, is_raw: bool) -> str:
    mean, records = of_task["mean"], of_task["languages"]
    metrics = [name for name in mean["metrics"] if "/" not in name]
    shown = "{:.3f}".format if is_raw else percent
    head = ["language", *(metric.replace("_", " ") for metric in metrics), "asked"]
    rows = [
        [lang_name(lang), *(shown(record["metrics"][name]) for name in metrics), count(record["n"])]
        for lang, record in records.items()
    ]
    chances = [mean["chance"].get(name) for name in metrics]
    if any(chance is not None for chance in chances):
        rows.append(["chance", *("" if chance is None else shown(chance) for chance in chances), ""])
    if LOCAL in records or len(records) == 1:  # English and local questions are not averaged
        return table(head, rows)
    rows.append([f"mean over {len(mean['languages'])}", *(shown(mean["metrics"][name]) for name in metrics), ""])
    return table(head, rows, last="total")


def gallery_section(report: Report) -> Section | None:
    """Held-out images and the names the model likes best; None where there are none."""
    if not report["gallery"]:
        return None
    parts = []
    for dataset in dict.fromkeys(image["dataset"] for image in report["gallery"]):
        shots = "".join(_shot(image) for image in report["gallery"] if image["dataset"] == dataset)
        parts.append(f'<h3>{escape(dataset)}</h3><div class="shots">{shots}</div>')
    return Section(
        anchor="gallery",
        heading="Gallery",
        lead="Images and the model's best names for them, in several languages. Chosen by hash, half of them right in "
        "the first language where there are as many.",
        body="".join(parts),
    )


def _shot(image: Mapping[str, Any]) -> str:
    first_lang, first = next(iter(image["names"].items()))
    is_right = first["best"][0]["is_right"]
    tag = '<span class="tag ok">right</span>' if is_right else '<span class="tag no">wrong</span>'
    lines = "".join(_answers(lang, names) for lang, names in image["names"].items())
    truth = words(first["truth"], first_lang)
    return (
        f'<div class="shot"><img src="{escape(image["image"])}" alt="{escape(first["truth"])}">'
        f'<div class="t">{truth}<small><code>{escape(image["key"])}</code></small>{tag}</div><dl>{lines}</dl></div>'
    )


def _answers(lang: str, names: Mapping[str, Any]) -> str:
    best, *rest = names["best"]
    kind = "ok" if best["is_right"] else "no"
    mark = "✓ " if best["is_right"] else ""
    others = " · ".join(
        f'<b class="ok">✓ {words(other["name"], lang)}</b>' if other["is_right"] else words(other["name"], lang)
        for other in rest
    )
    return (
        f'<dt><code>{escape(lang)}</code></dt><dd><span class="{kind}">{mark}{words(best["name"], lang)}</span>'
        f'<div class="rest">{others}</div></dd>'
    )
