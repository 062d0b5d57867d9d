"""The style of search pages, which the server and the exported page share; the report's style sheet goes before it."""

from __future__ import annotations

from pathlib import Path


def search_style() -> str:
    """Return the style sheet."""
    return (Path(__file__).parent / "search.css").read_text(encoding="utf-8")
