"""The results of a search as a contact sheet: one page that opens anywhere, its images inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldclip.core.errors import BadShard
from worldclip.core.job import Record
from worldclip.model.decode import open_image
from worldclip.pool.read import read_member
from worldclip.report.html import Html, tag
from worldclip.report.images import data_uri
from worldclip.report.page import Section, code, figure, grid, words, write_page

if TYPE_CHECKING:
    from worldclip.tools.search import Embedded

MAX_KEY_CHARS = 60  # of a caption; the end of a key tells more than its beginning


def write_contact_sheet(path: Path, results: Sequence[Record], embedded: Embedded) -> None:
    """Write the results of tools.search.search over `embedded` as the page `path`."""
    sections = []
    for result in results:
        lead = f"The {len(result['hits'])} nearest by cosine similarity."
        sections.append(Section(str(result["query"]), lead, grid(_hit(hit, embedded) for hit in result["hits"])))
    write_page(path, "Search", f"In {embedded.folder}. Made with worldclip.", sections)


def _hit(hit: Record, embedded: Embedded) -> Html:
    key = str(hit["key"])
    shown_key = key if len(key) <= MAX_KEY_CHARS else f"…{key[-MAX_KEY_CHARS:]}"
    if "text" in hit:
        content = words(str(hit["text"]))
    else:
        try:
            image = read_member(embedded.image_file(dict(hit)), hit["offset"], hit["size"])
            open_image(image)  # nothing but an image gets into the page
            content = tag("img", src=data_uri(image), alt=hit["key"], class_="hit")
        except (BadShard, OSError, ValueError) as error:  # its file is gone or elsewhere, or it cannot be decoded
            content = tag("p", error)
    return figure(code(shown_key), f"{hit['score']:.3f}", content)
