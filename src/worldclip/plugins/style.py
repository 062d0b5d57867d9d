"""The style of search pages, which the server and the exported page share; the report's style sheet goes before it."""

from __future__ import annotations

from pathlib import Path

from worldclip.report.html import Html


def search_style() -> Html:
    """Return the style sheet."""
    return Html((Path(__file__).parent / "search.css").read_text(encoding="utf-8"))
