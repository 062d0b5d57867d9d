"""Entry lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldclip.cli.command import Command, Flags
from worldclip.config import load_recipe
from worldclip.core.job import Run
from worldclip.tools.fetch_metadata import FetchConfig, fetch_metadata
from worldclip.tools.pack import default_folder, pack, unpack


def fetch(recipe: str, *, config: FetchConfig) -> Mapping[str, int]:
    """Download the dumps and page views of Wikipedias that a recipe needs."""
    sections = load_recipe(recipe)
    run = Run.of(Path(), sections.metadata, sections.languages)
    return fetch_metadata(run, config)


def _pack_text(report: Mapping[str, Any], flags: Flags) -> str:
    lines = [f"{report['lists']:,} lists, {report['entries']:,} entries, {report['bytes']:,} bytes: {flags.out}"]
    return "\n".join([*lines, *(f"  {name}: {', '.join(lists)}" for name, lists in report["licences"].items())])


def _unpack_text(report: Mapping[str, Any], flags: Flags) -> str:
    lists = report["lists"]
    entries = sum(counts["entries"] for counts in lists.values())
    return f"{len(lists):,} lists, {entries:,} entries: {flags.out or default_folder(flags.source)}"


FETCH = Command(fetch, lambda counts, flags: f"{counts['files']:,} files, {counts['bytes']:,} bytes")
"""Download the dumps and page views of Wikipedias that a recipe needs into metadata.dumps."""

PACK = Command(pack, _pack_text)
"""Write all entry lists of a run to one file, with sources, licences and digests."""

UNPACK = Command(unpack, _unpack_text)
"""Make a run with finished metadata from packed entry lists."""
