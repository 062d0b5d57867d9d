"""The style of search pages, which the server and the exported page share."""

from __future__ import annotations

from pathlib import Path

from worldclip.report.page import style


def search_style() -> str:
    """Return the style sheet: the report's, then that of search pages."""
    return style() + (Path(__file__).parent / "search.css").read_text(encoding="utf-8")
