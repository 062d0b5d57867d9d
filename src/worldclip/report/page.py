"""The building blocks of a report: a page is one file that opens anywhere, everything inline."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from worldclip.core.artifacts import write_text
from worldclip.language.table import OTHER, Language, Languages, scheme_of
from worldclip.report.chart import chart_style
from worldclip.report.html import Html, html, join, tag
from worldclip.report.table import Column, Table, text_column, to_html

NO_LANGUAGE_NAMES = {"und": "no language", "merged": "all lists as one", "local": "local languages"}  # no languages

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a page."""

    heading: str
    lead: str
    """One or two sentences about the section."""
    body: Html
    group: str = ""
    """Heading of the links to this part and its neighbours; "" where a page has few parts."""


@dataclass(frozen=True, slots=True)
class Card:
    """One large figure."""

    value: str
    name: str
    remark: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One horizontal bar.  Lengths and positions are shares of its full width, 0 to 1."""

    label: str = ""
    parts: Sequence[tuple[float, str, str]]
    """Laid end to end: length, colour, hover text."""
    note: str = ""
    interval: Sequence[float] | None = None
    """Drawn as a thin line from low to high."""
    mark: float | None = None
    """Drawn as a tick."""


def skipped_sections(skipped: Mapping[str, str]) -> list[Section]:
    """Return the list of broken shards, and why each cannot be read, if some were skipped."""
    if not skipped:
        return []
    table = Table([text_column("shard"), text_column("reason")], list(map(list, skipped.items())))
    lead = f'{len(skipped):,} in all: pool.broken_shards = "skip" goes on without them.'
    return [Section("Skipped shards", lead, to_html(table))]


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    """Write a self-contained page (no script, no font, no image from elsewhere) and return its path."""
    parts = []
    links: dict[str, list[Html]] = {}  # of each group
    for section in sections:
        anchor = re.sub(r"\W+", "-", section.heading.lower()).strip("-")
        lead = tag("p", section.lead, class_="lead")
        parts.append(tag("section", tag("h2", section.heading), lead, section.body, id=anchor))
        links.setdefault(section.group, []).append(tag("a", section.heading, href=f"#{anchor}"))
    lines = []
    for group, links_of_group in links.items():
        heading = tag("b", group) if group else None
        lines.append(tag("div", heading, *links_of_group))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),  # else a browser asks the server for one that is not there
        tag("style", Html(style())),
    )
    header = tag("header", tag("p", "worldclip", class_="brand"), tag("h1", title), tag("p", subtitle, class_="sub"))
    footer = tag("footer", tag("a", "Back to top", href="#", class_="top"))
    navigation = tag("nav", *lines, aria_label="Parts of this page")
    body = tag("body", header, navigation, tag("main", *parts), footer)
    write_text(path, f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")
    return path


@functools.cache
def style() -> str:
    """Return the style sheet of every page."""
    return chart_style() + (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def cards(items: Iterable[Card]) -> Html:
    """Return large figures side by side."""
    drawn = []
    for card in items:
        texts = [tag("b", card.value), tag("span", card.name), tag("small", card.remark)]
        drawn.append(tag("div", *texts, class_="card"))
    return tag("div", *drawn, class_="cards")


def legend(items: Iterable[tuple[str, str]]) -> Html:
    """Explain colours; items: (colour, name)."""
    entries = [tag("span", tag("i", style=f"background:{colour}"), name) for colour, name in items]
    return tag("p", *entries, class_="legend")


def bars(rows: Iterable[Bar]) -> Html:
    """Return bars below each other, label on the left, note on the right."""
    lines = [tag("span", row.label, class_="l") + bar_line(row) + tag("span", row.note, class_="v") for row in rows]
    return tag("div", *lines, class_="bars")


def bar_line(bar: Bar) -> Html:
    """Return a bar without label and note."""
    parts = []
    for length, colour, hover in bar.parts:
        if length > 0:
            parts.append(tag("i", style=f"width:{100 * length:.3f}%;background:{colour}", title=hover))
    if bar.interval is not None:
        low, high = bar.interval
        parts.append(tag("u", style=f"left:{100 * low:.3f}%;width:{100 * (high - low):.3f}%"))
    if bar.mark is not None:
        parts.append(tag("s", style=f"left:{100 * bar.mark:.3f}%"))
    return tag("span", *parts, class_="b")


def folded(summary: str, *body: Html) -> Html:
    """Return content that opens on a click."""
    return tag("details", tag("summary", summary), *body)


def first_and_more(items: Sequence[_Item], limit: int, name: str, draw: Callable[[Sequence[_Item]], Html]) -> Html:
    """Return the first `limit` items, the others folded below.  name: of the others, as in `12 more lists`."""
    drawn = draw(items[:limit])
    if len(items) > limit:
        drawn += folded(f"{len(items) - limit} {name}", draw(items[limit:]))
    return drawn


def figure(caption: str, remark: str, content: Html) -> Html:
    """Return a framed chart or image."""
    return tag("figure", tag("figcaption", caption, " ", tag("small", remark)), content)


def grid(figures: Iterable[Html], size: str = "") -> Html:
    """Return figures side by side, as many as fit; a telephone scrolls through them.  size: "" or "wide"."""
    return tag("div", *figures, class_=f"grid {size}".rstrip(), tabindex=0)


def note(text: str) -> Html:
    """Return a remark that should not be overlooked; text between backticks is code."""
    parts = text.split("`")
    parts[1::2] = map(code, parts[1::2])
    return tag("p", *parts, class_="note")


def code(text: str) -> Html:
    """Return a key, code or name as it is typed."""
    return tag("code", text)


def find_language(code: str, languages: Languages) -> Language | None:
    """Return the language of a code of ours, of Wikipedia or of FLORES; None if it is unknown."""
    lang = languages.by_wikipedia().get(code, OTHER)
    if lang == OTHER and scheme_of(code) == "glotlid":
        lang = languages.from_lid(code, "glotlid")
    return None if lang == OTHER else languages.get(lang)


def language_name(lang: str, languages: Languages) -> str:
    """Return a language's English name, "" for an unknown code."""
    row = languages.by_code().get(lang) or find_language(lang, languages)
    return row.name if row else NO_LANGUAGE_NAMES.get(lang, "")


def lang_name(lang: str, languages: Languages) -> Html:
    """Return a language's English name with its code; a code that is no language is only named."""
    name = language_name(lang, languages)
    if lang in NO_LANGUAGE_NAMES:
        return html(name)
    if not name:
        return code(lang)
    return join([name, code(lang)], " ")


def language_column(title: str, languages: Languages) -> Column:
    """Return a column of codes that are drawn with the languages' names."""
    return text_column(title, partial(lang_name, languages=languages))


def words(text: str, lang: str = "") -> Html:
    """Return text of any script: it reads in its own direction and does not disturb its surroundings."""
    if lang in ("merged", "und", "other"):
        lang = ""
    return tag("bdi", text, dir="auto", lang=lang)
