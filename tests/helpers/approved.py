"""Whole outputs as text that a person can read and approve: what a page shows, and what a command prints."""

from __future__ import annotations

import re
from html.parser import HTMLParser

LINES = {"h1", "h2", "h3", "h4", "h5", "p", "li", "tr", "dt", "dd", "div", "section", "summary", "svg", "path", "text"}
SHOWN = {"title", "style", "href", "alt", "lang", "dir", "d", "stroke", "class", "open"}
VOLATILE = [
    (r"\b\d+(?:\.\d+)? (?:s|min|ms)\b", "TIME"),
    (r"CPU time: .*", "CPU time: ..."),
    (r"\b(?:\d{4}-)?\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?|\b\d{4}-\d\d-\d\d\b", "DATE"),
    (r"worldclip \d[\w.+]*(?:, revision \w+)?", "worldclip VERSION"),
    (r"Versions: .*?\. ", "Versions: ... "),
    (r"\b[0-9a-f]{32,}\b", "DIGEST"),
    (r"(?<=\S) {2,}(?=\S)", "  "),  # a column is as wide as its paths
    (r"-{3,}", "---"),
]


class _Lines(HTMLParser):
    """The words of a page, one block per line, with what draws a bar, a curve or a colour."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.lines = [""]
        self.is_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.is_style = tag == "style"
        shown = [f"{name}={value}" for name, value in attrs if name in SHOWN]
        if tag in LINES:
            self.lines.append("")
        if tag in ("td", "th"):
            self.lines[-1] += " | "
        elif shown or tag in ("h2", "h3", "summary"):
            self.lines[-1] += f"<{' '.join([tag, *shown])}>"

    def handle_endtag(self, tag: str) -> None:
        self.is_style = False

    def handle_data(self, data: str) -> None:
        if not self.is_style:
            self.lines[-1] += data


def shown(html: str) -> str:
    """Return what HTML shows, as lines."""
    lines = _Lines(html).lines
    return "\n".join(line for line in map(str.strip, lines) if line)


def masked(text: str, **names: object) -> str:
    """Return a text without what differs between machines and days, and with names in place of these paths."""
    for name, value in sorted(names.items(), key=lambda item: -len(str(item[1]))):
        text = text.replace(str(value), name)
    for pattern, word in VOLATILE:
        text = re.sub(pattern, word, text)
    return re.sub(r"\d+\.\d{7,}(?:e-\d+)?", lambda digits: f"{float(digits[0]):.6g}", text)  # their last bits differ
