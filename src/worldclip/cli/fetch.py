"""`worldclip fetch metadata`.  It stands apart from the other commands that take a recipe: its work imports numba."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from worldclip.config import load_recipe
from worldclip.core.command import Command
from worldclip.core.job import Run
from worldclip.tools.fetch_metadata import FetchConfig, fetch_metadata


def fetch(recipe: str, *, config: FetchConfig) -> Mapping[str, int]:
    """Download the dumps and page views of Wikipedias that a recipe needs.

    Examples:
        worldclip fetch metadata my.toml
        worldclip fetch metadata my.toml --langs en,sw
    """
    sections = load_recipe(recipe)
    return fetch_metadata(Run.of(Path(), sections.metadata, sections.languages), config)


FETCH_METADATA = Command(fetch, lambda counts, flags: f"{counts['files']:,} files, {counts['bytes']:,} bytes")
"""Download the dumps and page views of Wikipedias that a recipe needs into metadata.dumps."""
