"""The results of a search as a contact sheet: one page that opens anywhere, its images inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldclip.core.errors import BadShard
from worldclip.pool.read import read_member
from worldclip.report.html import Html, tag
from worldclip.report.images import data_uri
from worldclip.report.page import Section, code, figure, grid, words, write_page

MAX_KEY_CHARS = 60  # of a caption; the end of a key tells more than its beginning


def write_contact_sheet(path: Path, results: Sequence[Mapping[str, Any]], folder: str | Path) -> None:
    """Write the results of tools.search.search over `folder` as the page `path`."""
    sections = []
    for result in results:
        lead = f"The {len(result['hits'])} nearest by cosine similarity."
        sections.append(Section(str(result["query"]), lead, grid(map(_hit, result["hits"]))))
    write_page(path, "Search", f"In {folder}. Made with worldclip.", sections)


def _hit(hit: Mapping[str, Any]) -> Html:
    key = str(hit["key"])
    shown_key = key if len(key) <= MAX_KEY_CHARS else f"…{key[-MAX_KEY_CHARS:]}"
    content = words(str(hit["text"])) if "text" in hit else _image(hit)
    return figure(code(shown_key), f"{hit['score']:.3f}", content)


def _image(hit: Mapping[str, Any]) -> Html:
    """Return the image, or the reason why it cannot be shown: its file is gone, or it cannot be decoded."""
    try:
        source = data_uri(read_member(hit["file"], hit["offset"], hit["size"]))
    except (BadShard, OSError, ValueError, SyntaxError) as error:
        return tag("p", error)
    return tag("img", src=source, alt=hit["key"], class_="hit")
