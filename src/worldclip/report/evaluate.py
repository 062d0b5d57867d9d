"""Results of an evaluation: a gallery, every headline number in one table, published numbers, results by language."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

from worldclip.core.artifacts import Json
from worldclip.language.table import Languages
from worldclip.report.by_language import languages_section
from worldclip.report.html import Html, html, join, tag
from worldclip.report.metrics import CLASSIFICATION, DISTANCE, metric_name, task_name, top_metric
from worldclip.report.numbers import count, interval, percent
from worldclip.report.page import (
    Bar,
    Card,
    Section,
    bar_line,
    code,
    first_and_more,
    folded,
    language_column,
    language_name,
    note,
    words,
)
from worldclip.report.page import cards as card_row
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

MAX_OPEN_SETS = 2  # datasets whose images are in sight
MAX_SHOTS = 3  # images of a dataset in sight, the others are folded


def cards_and_datasets(report: Json, further_cards: Sequence[Card] = ()) -> Html:
    """Return large figures, those of the evaluation first, and what each dataset holds, where the report says it."""
    about = []
    for name, result in report["datasets"].items():
        if "about" in result:
            about.append(tag("dt", name) + tag("dd", result["about"]))
    figures = card_row([*cards(report), *further_cards])
    if not about:
        return figures
    return figures + tag("dl", *about, class_="about")


def cards(report: Json) -> list[Card]:
    """Return the mean accuracy on each dataset with zero-shot classification."""
    mean_cards = []
    for name, result in report["datasets"].items():
        if CLASSIFICATION not in result["tasks"]:
            continue
        mean = result["tasks"][CLASSIFICATION]["mean"]
        metric = top_metric(mean["metrics"])
        remark = f"mean over {len(mean['languages'])} languages; chance {percent(mean['chance'][metric])}"
        if metric != "acc1":
            remark += f"; top-1 {percent(mean['metrics']['acc1'])}"
        mean_cards.append(Card(percent(mean["metrics"][metric]), f"{metric_name(metric)} on {name}", remark))
    return mean_cards


def sections(report: Json, languages: Languages) -> list[Section]:
    """Return the parts that the evaluation has."""
    parts = [
        gallery_section(report["gallery"], languages),
        results_section(report, languages),
        held_out_section(report, languages),
        published_section(report),
        languages_section(report["datasets"], languages),
    ]
    return list(filter(None, parts))


# --- results ----------------------------------------------------------------------------------------------------------


def results_section(report: Json, languages: Languages) -> Section | None:
    """Return every headline number in one table; None if nothing was measured."""
    rows: list[list[Any]] = []
    notes = []
    for dataset, result in report["datasets"].items():
        name: str | None = dataset
        for task, task_result in result["tasks"].items():
            title: str | None = task_name(task)
            for headline in task_result["headlines"]:
                rows.append([name, title, *_headline_cells(task_result, headline, languages)])
                # The dataset and each task are named once, in the first of their rows.
                name = None
                title = None
        num_bad = result["num_bad_images"]
        if num_bad:
            notes.append(note(f"{dataset}: {count(num_bad)} images could not be decoded and are left out."))
    if not rows:
        return None
    labels = map(text_column, ("dataset", "task", "metric"))
    numbers = [*columns_of(("languages", "95% interval")), Column("queries", count)]
    results = Table([*labels, Column("value"), text_column("chart"), *numbers], rows)
    if "protocol" in report:
        notes.append(note(report["protocol"]))
    lead = (
        "One row per number; a mean over languages where there are several, with its 95% interval where there "
        "is one. The tick in a bar marks chance."
    )
    parts = [to_html(results)]
    suite = report.get("suite")
    if suite is not None and suite["mean"] is not None:
        parts.append(card_row([Card(percent(suite["mean"]), f"suite {suite['name']}", "mean over datasets")]))
    elif suite is not None:
        missing = f"{len(suite['missing'])} datasets are missing: {', '.join(suite['missing'])}"
        parts.append(note(f"No mean for suite {suite['name']}: {missing}."))
    return Section("Results", lead, join([*parts, *notes]))


def _headline_cells(task: Json, headline: Json, languages: Languages) -> list[Any]:
    """Return metric, value, bar, languages, interval, number of queries."""
    number = percent if task["is_share"] else DISTANCE
    value = headline["value"]
    bounds = headline["interval_95"]
    langs = headline["languages"]
    drawn = None
    if task["is_share"]:
        bar = Bar(parts=[(value, "var(--s1)", number(value))], interval=bounds, mark=headline["chance"])
        drawn = tag("span", bar_line(bar), class_="bars cell")
    shown_langs: Any = len(langs)
    if len(langs) == 1:
        shown_langs = language_name(langs[0], languages) or langs[0]
    return [metric_name(headline["metric"]), number(value), drawn, shown_langs, interval(bounds, number), headline["n"]]


def held_out_section(report: Json, languages: Languages) -> Section | None:
    """Return pictures whose name was held out of training next to others, by language; None if no dataset has them."""
    combinations = sorted(report.get("held_out", []), key=lambda row: (row["dataset"], -row["held"]))
    if not combinations:
        return None
    lead = (
        "Pictures whose name in this language no training pair has, while their names in other languages occur: does "
        "the model carry a concept across languages? Beside them, in the same languages and among the same names, "
        "the pictures whose name is in training."
    )
    labels = [
        text_column("dataset"),
        language_column("language", languages),
        Column("metric", metric_name, align="left"),
    ]
    shares = columns_of(("seen", "held out", "chance"), percent)
    columns = [*labels, *shares, *columns_of(("pictures seen", "held out"), count)]
    keys = ("dataset", "lang", "metric", "seen", "held", "chance", "num_seen", "num_held")
    rows: list[list[Any]] = []
    rows_of_sets: dict[str, list[Json]] = {}
    for combination in combinations:
        rows.append(list(map(combination.get, keys)))
        rows_of_sets.setdefault(combination["dataset"], []).append(combination)
    for dataset, rows_of_set in rows_of_sets.items():
        means = []
        for key in ("seen", "held", "chance"):
            total = sum(row[key] for row in rows_of_set)
            means.append(total / len(rows_of_set))
        rows.append([dataset, f"mean over {len(rows_of_set)}", rows_of_set[0]["metric"], *means, None, None])
    return Section("Held-out combinations", lead, to_html(Table(columns, rows)))


def published_section(report: Json) -> Section | None:
    """Return our numbers next to published ones; None if the evaluation did not ask for them."""
    if "published" not in report:
        return None
    rows = report["published"]["rows"]
    protocols = [note(f"{row['title']}: {row['protocol']}") for row in rows]
    lead = f"Beside {report['published']['against']}, in percent. An exclamation mark flags a difference over 0.2."
    body = join([to_html(published_table(rows)), folded("Protocols", *protocols)])
    return Section("Published numbers", lead, body)


def published_table(rows: Sequence[Json]) -> Table:
    """Return our numbers next to published ones; `!` flags a row that differs."""
    cells = []
    for row in rows:
        difference = None
        if row["difference_pct"] is not None:
            difference = f"{row['difference_pct']:+.1f}"
        if row["differs"]:
            difference = f"{difference} !"
        source = f"{row['source']} (secondary)" if row["is_secondary"] else row["source"]
        cells.append([row["title"], row["ours_pct"], row["published_pct"], difference, row.get("over"), source])
    flagged_bold = Column("difference", html=lambda text: tag("b", text) if text.endswith("!") else html(text))
    numbers = [*columns_of(("ours", "published"), "{:.1f}".format), flagged_bold]
    return Table([text_column("figure"), *numbers, Column("languages"), text_column("source")], cells)


# --- gallery ----------------------------------------------------------------------------------------------------------


def gallery_section(gallery: Sequence[Json], languages: Languages) -> Section | None:
    """Return held-out images with the model's best names; None if there are none."""
    if not gallery:
        return None
    parts = []
    images_of_sets: dict[str, list[Json]] = {}
    for image in gallery:
        images_of_sets.setdefault(image["dataset"], []).append(image)
    for number, (dataset, images) in enumerate(images_of_sets.items()):
        shots = [_shot(image, languages) for image in in_turn(images)]
        if number < MAX_OPEN_SETS:
            parts.append(tag("h3", dataset))
            parts.append(first_and_more(shots, MAX_SHOTS, "more images", _side_by_side))
        else:
            parts.append(folded(f"{dataset}: {len(shots)} images", _side_by_side(shots)))
    lead = (
        "Images and the model's best names for them in several languages. Chosen by hash; half are right in the "
        "first language, where there are enough."
    )
    return Section("Gallery", lead, join(parts))


def _side_by_side(shots: Sequence[Html]) -> Html:
    return tag("div", *shots, class_="shots", tabindex=0)


def in_turn(images: Sequence[Json]) -> list[Json]:
    """Return images that are right in their first language and wrong ones in turn, so that the first few show both."""
    right: list[Json] = []
    wrong: list[Json] = []
    for image in images:
        if _is_right(image):
            right.append(image)
        else:
            wrong.append(image)
    return list(filter(None, chain.from_iterable(zip_longest(right, wrong))))


def _is_right(image: Json) -> bool:
    first = next(iter(image["names"].values()))
    return bool(first["best"][0]["is_right"])


def _shot(image: Json, languages: Languages) -> Html:
    first_lang, first = next(iter(image["names"].items()))
    verdict = tag("span", "wrong", class_="tag no")
    if _is_right(image):
        verdict = tag("span", "right", class_="tag ok")
    title = [words(first["truth"], first_lang), tag("small", code(image["key"])), verdict]
    answers = []
    for lang, names in image["names"].items():
        texts = []
        for i, answer in enumerate(names["best"]):
            text = words(answer["name"], lang)
            element = "b" if i else "span"
            if answer["is_right"]:
                text = tag(element, "✓\N{NO-BREAK SPACE}", text, class_="ok")
            elif i == 0:
                text = tag(element, text, class_="no")
            texts.append(text)
        others = tag("div", join(texts[1:], " · "), class_="rest")
        name = language_name(lang, languages) or lang
        answers.append(tag("dt", name) + tag("dd", texts[0], others))
    picture = tag("img", src=image["image"], alt=first["truth"])
    return tag("div", picture, tag("div", *title, class_="t"), tag("dl", *answers), class_="shot")
