"""The results of a search as a contact sheet: one page that opens anywhere, its images inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worldclip.core.errors import BadShard
from worldclip.core.job import Record
from worldclip.pool.read import read_member
from worldclip.report.html import Html, tag
from worldclip.report.images import data_uri
from worldclip.report.page import Section, code, figure, grid, words, write_page

MAX_KEY_CHARS = 60  # of a caption; the end of a key tells more than its beginning


def write_contact_sheet(path: Path, results: Sequence[Record], folder: str | Path) -> None:
    """Write the results of tools.search.search over `folder` as the page `path`."""
    sections = []
    for result in results:
        lead = f"The {len(result['hits'])} nearest by cosine similarity."
        sections.append(Section(str(result["query"]), lead, grid(map(_hit, result["hits"]))))
    write_page(path, "Search", f"In {folder}. Made with worldclip.", sections)


def _hit(hit: Record) -> Html:
    key = str(hit["key"])
    shown_key = key if len(key) <= MAX_KEY_CHARS else f"…{key[-MAX_KEY_CHARS:]}"
    if "text" in hit:
        content = words(str(hit["text"]))
    else:
        try:
            source = data_uri(read_member(hit["file"], hit["offset"], hit["size"]))
            content = tag("img", src=source, alt=hit["key"], class_="hit")
        except (BadShard, OSError, ValueError, SyntaxError) as error:  # its file is gone, or it cannot be decoded
            content = tag("p", error)
    return figure(code(shown_key), f"{hit['score']:.3f}", content)
