"""report.html of a check: removals by rule and language, distances, and removed images next to what they copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow.parquet as pq

from worldclip.check.duplicates import BYTE_DUPLICATE
from worldclip.check.shown import Images, ReadImage, Removed, evaluation_set
from worldclip.check.similarity import Similarities
from worldclip.language.table import INSTALLED, Languages
from worldclip.report.html import Html, join, tag
from worldclip.report.numbers import count
from worldclip.report.page import (
    Bar,
    Card,
    Section,
    bars,
    cards,
    figure,
    first_and_more,
    folded,
    grid,
    lang_name,
    language_column,
    legend,
    note,
    write_page,
)
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

MAX_FIGURES = 6  # groups, and removals of a rule, in sight; the others are folded
MAX_LANGUAGES = 15  # languages with a bar that is not folded
RULE_COLOURS = ("var(--s2)", "var(--s4)", "var(--s3)", "var(--s6)", "var(--s5)", "var(--s7)")


class Written(TypedDict):
    """The content of a pool written by write = "tars"."""

    pairs: int
    texts: int
    blurred: int
    """Images with a blurred face."""


class Counts(TypedDict):
    """Pairs by what became of them."""

    pairs_in: int
    valid: int
    removed: dict[str, int]
    """By rule."""
    by_language: dict[str, dict[str, int]]
    """By language and rule, or `valid`."""
    written: NotRequired[Written]


class Texts(TypedDict):
    """Texts by the rule that rejects them."""

    read: int
    rejected: dict[str, int]


class CheckReport(TypedDict):
    """The report.json of a check."""

    counts: Counts
    images: dict[str, int]
    texts: Texts
    keys_in_several_shards: int
    duplicate_groups: int
    pairs_by_distance: list[int]
    radius: int
    against: dict[str, str]
    similarity: NotRequired[Similarities]


def write_report(
    folder: Path, report: CheckReport, readers: Mapping[str, ReadImage], languages: Languages = INSTALLED
) -> None:
    """Write folder/report.html from the report and the lists in the folder.

    readers: functions from an image's name to its bytes, for evaluation sets whose hash files have no offsets.
    """
    removed = Removed.read(folder / "removed.parquet")
    images = Images.locate(folder, removed, report["against"], readers)
    sections = [
        _summary(report),
        *_groups(report, removed, images),
        _languages(report["counts"]["by_language"], languages),
        *_rejected_texts(report["texts"]),
        *_similarities(report.get("similarity"), languages),
        *_decontamination(folder, report, removed),
        *_gallery(report["counts"]["removed"], removed, images),
        *_distances(report, removed),
    ]
    write_page(folder / "report.html", "Pool check", "Made with worldclip.", sections)


def _summary(report: CheckReport) -> Section:
    counts, images = report["counts"], report["images"]
    pairs_in = counts["pairs_in"]
    figures = [
        Card(count(counts["valid"]), "valid pairs", f"{_share(counts['valid'], pairs_in)} of {count(pairs_in)}"),
        Card(count(pairs_in - counts["valid"]), "removed pairs", "by the first rule that applies"),
        Card(count(images["images"]), "images", f"{count(images['undecodable'])} undecodable"),
    ]
    if images["nearly_blank"]:
        figures.append(Card(count(images["nearly_blank"]), "nearly blank images", "compared by their bytes only"))
    rules = []
    for i, (rule, number) in enumerate(sorted(counts["removed"].items())):
        parts = [(number / pairs_in, _colour(i), f"{rule}: {count(number)}")]
        rules.append(Bar(label=rule, parts=parts, note=f"{count(number)} · {_share(number, pairs_in)}"))
    lead = "Removed pairs by rule, as shares of all pairs. removed.parquet lists them, valid_keys.parquet the others."
    return Section("Summary", lead, join([cards(figures), bars(rules)]))


def _colour(rule: int) -> str:
    return RULE_COLOURS[rule % len(RULE_COLOURS)]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else ""


def _rejected_texts(texts: Texts) -> list[Section]:
    if not texts["rejected"]:
        return []
    lead = 'A rejected text leaves the pool with its pair, or when write = "tars" rewrites the pool.'
    columns = [text_column("rule"), Column("texts", count), Column("share")]
    rows = [[rule, number, _share(number, texts["read"])] for rule, number in texts["rejected"].items()]
    return [Section("Rejected texts", lead, to_html(Table(columns, rows)))]


def _similarities(similarities: Similarities | None, languages: Languages) -> list[Section]:
    """Return the distribution of similarities by language, the largest first."""
    if similarities is None:
        return []
    by_language = similarities["by_language"]
    rows = []
    for lang in sorted(by_language, key=lambda lang: (-by_language[lang]["texts"], lang)):
        row = by_language[lang]
        deciles = [row["deciles"][at] for at in (0, 4, 8)]
        rows.append([lang, row["texts"], *deciles, row["threshold"], row["below"], _share(row["below"], row["texts"])])
    columns = [
        language_column("language", languages),
        Column("texts", count),
        *columns_of(("10%", "median", "90%", "threshold"), "{:.4f}".format),
        Column("below", count),
        Column("share"),
    ]
    body = [to_html(Table(columns, rows))]
    if similarities["pool_wide"]:
        body.append(note(f"Few texts, so the threshold of the whole pool: {', '.join(similarities['pool_wide'])}."))
    if similarities["unmeasured"]:
        body.append(note(f"{count(similarities['unmeasured'])} texts have no image that the model can use."))
    lead = "Cosine of the embeddings of image and text; texts below the threshold of their language are rejected."
    return [Section("Similarity", lead, join(body))]


def _languages(by_language: Mapping[str, Mapping[str, int]], languages: Languages) -> Section:
    """Return what became of the pairs of each language, the largest first."""
    rules = sorted({rule for counts in by_language.values() for rule in counts} - {"valid"})
    langs = sorted(by_language, key=lambda lang: (-sum(by_language[lang].values()), lang))
    ends = {"valid": "var(--s1)", **{rule: _colour(i) for i, rule in enumerate(rules)}}
    rows = [_language_bar(lang, by_language[lang], ends, languages) for lang in langs]
    numbers = []
    for lang in langs:
        counts = by_language[lang]
        numbers.append([lang, sum(counts.values()), *(counts.get(end) for end in ends)])
    columns = [language_column("language", languages), *columns_of(("pairs", *ends), count)]
    body = [
        legend((colour, end) for end, colour in ends.items()),
        first_and_more(rows, MAX_LANGUAGES, "more languages", bars),
        folded("In numbers", to_html(Table(columns, numbers))),
    ]
    return Section("By language", "What became of the pairs; bars show shares within a language.", join(body))


def _language_bar(lang: str, counts: Mapping[str, int], ends: Mapping[str, str], languages: Languages) -> Bar:
    total = sum(counts.values())
    parts = []
    for end, colour in ends.items():
        if counts.get(end):
            parts.append((counts[end] / total, colour, f"{count(counts[end])} {end}"))
    return Bar(label=lang_name(lang, languages), parts=parts, note=f"{count(counts.get('valid', 0))} of {count(total)}")


def _distances(report: CheckReport, removed: Removed) -> list[Section]:
    """Return how near pairs of images are, and removed images to what they copy."""
    parts = []
    if any(report["pairs_by_distance"]):
        heading = f"Pairs of images with different hashes, within {report['radius']} bits"
        parts.append(tag("h3", heading) + _distance_bars(report["pairs_by_distance"]))
    for rule, counts in sorted(removed.distances.items()):
        if rule != BYTE_DUPLICATE:
            heading = f"{rule}: removed images, and the image that stays"
            parts.append(tag("h3", heading) + _distance_bars(np.trim_zeros(counts, "b").tolist()))
    lead = "Images by Hamming distance of their hashes, in bits; distances without images are left out."
    return [Section("Distances", lead, join(parts))] if parts else []


def _distance_bars(counts: Sequence[int]) -> Html:
    largest = max(*counts, 1)
    rows = []
    for distance, number in enumerate(counts):
        if number:
            part = (number / largest, "var(--s1)", f"distance {distance}")
            rows.append(Bar(label=str(distance), parts=[part], note=count(number)))
    return bars(rows)


def _decontamination(folder: Path, report: CheckReport, removed: Removed) -> list[Section]:
    """Return what was removed for each evaluation set."""
    rows = []
    for name, source in sorted(report["against"].items()):
        rule = f"against:{name}"
        num_images = pq.read_metadata(folder / "against" / f"{name}.parquet").num_rows
        num_removed = report["counts"]["removed"].get(rule, 0)
        rows.append([name, source, num_images, num_removed, len(removed.copied.get(rule, ()))])
    if not rows:
        return []
    titles = ("images", "pairs removed", "images that these pairs show")
    columns = [text_column("set"), text_column("from"), *columns_of(titles, count)]
    lead = "Pairs whose image is in an evaluation set."
    body = to_html(Table(columns, rows))
    return [Section("Decontamination", lead, body)]


def _groups(report: CheckReport, removed: Removed, images: Images) -> list[Section]:
    """Return sampled groups of duplicates: the pair that stays, then those removed for it."""
    if not removed.groups:
        return []
    figures = []
    for stays, group in removed.groups.items():
        keys, num_removed = group["key"].to_pylist(), removed.group_sizes[stays]
        num_hidden = num_removed - len(keys)
        more = f" and {num_hidden:,} more" if num_hidden else ""
        pictures = join(map(images.thumbnail, (stays, *keys)))
        names = folded(f"{num_removed:,} removed for it", tag("p", f"{', '.join(keys)}{more}"))
        figures.append(figure(f"{stays} stays", "", join([pictures, names])))
    lead = f"{len(figures)} of {report['duplicate_groups']:,}, chosen by hash. The pair that stays comes first."
    return [Section("Groups of duplicates", lead, _pictures(figures))]


def _gallery(counts: Mapping[str, int], removed: Removed, images: Images) -> list[Section]:
    """Return sampled removals per rule, next to the image that stays or the image of the evaluation set."""
    parts = []
    for rule, sample in sorted(removed.samples.items()):
        figures = [_removal(rule, row, images) for row in sample.to_pylist()]
        of_all = tag("small", f"{sample.num_rows} of {counts[rule]:,}")
        parts += [tag("h3", rule, " ", of_all), _pictures(figures)]
    lead = "By rule, chosen by hash: the removed image, then what it copies."
    return [Section("Removed pairs", lead, join(parts))] if parts else []


def _pictures(figures: Sequence[Html]) -> Html:
    """Return figures side by side, the first few in sight."""
    return first_and_more(figures, MAX_FIGURES, "more", lambda some: tag("div", grid(some, "mid"), class_="pictures"))


def _removal(rule: str, row: Mapping[str, str | int | None], images: Images) -> Html:
    key = str(row["key"])
    other_key = row["other_key"]
    pictures = [images.thumbnail(key)]
    if other_key is not None:
        pictures.append(images.thumbnail(str(other_key), evaluation_set(rule)))
    distance = None if row["distance"] is None else f"distance {row['distance']}"
    caption = " · ".join(str(part) for part in (key, row["detail"], other_key, distance) if part)
    return figure(caption, "", join(pictures))
