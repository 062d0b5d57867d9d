"""The results of a search as a contact sheet: one page that opens anywhere, its images inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import BadShard
from worldclip.core.job import Record
from worldclip.model.decode import open_image
from worldclip.pool.read import read_member
from worldclip.report.html import Html, join, tag
from worldclip.report.images import data_uri
from worldclip.report.page import Section, code, words, write_page

if TYPE_CHECKING:
    from worldclip.pool.embedded import Embedded

MAX_KEY_CHARS = 60  # characters shown; the end of a key tells more than its beginning
THUMBNAIL_PX = 480  # longer side: sharp at twice the density of a sheet's column
UNREADABLE = (BadShard, OSError, ValueError)  # a file is gone or elsewhere, or it cannot be decoded


def write_contact_sheet(
    path: Path, results: Sequence[Record], embedded: Embedded, query_images: Mapping[str, Any] | None = None
) -> None:
    """Write the results of tools.search.search over `embedded` as the page `path`.

    query_images: by the query's name, the image file that was searched for.
    """
    sections = []
    for result in results:
        name, hits = str(result["query"]), result["hits"]
        lead = f"The {len(hits)} nearest by cosine similarity."
        captions = embedded.captions(hits)
        body = [tag("div", *(_hit(hit, embedded, captions) for hit in hits), class_="sheet")]
        if query_images and name in query_images:
            body.insert(0, _query_picture(name, query_images[name]))
        sections.append(Section(name, lead, join(body)))
    write_page(path, "Search", f"In {embedded.folder}. Made with worldclip.", sections)


def _query_picture(name: str, image: Any) -> Html:
    """Return the picture that was searched for; its reason where its file cannot be shown."""
    try:
        picture = _picture(Path(image).read_bytes(), name)
    except (*UNREADABLE, TypeError) as error:  # TypeError: an array or a picture of another library
        picture = tag("p", f"The query picture is not shown: {error}", class_="lead")
    return tag("div", picture, tag("small", "query"), class_="query")


def _hit(hit: Record, embedded: Embedded, captions: Mapping[tuple[str, str], list[str]]) -> Html:
    """Return one result: picture, score and key, caption or text, and a link to the file that holds the picture."""
    key = str(hit["key"])
    shown_key = key if len(key) <= MAX_KEY_CHARS else f"…{key[-MAX_KEY_CHARS:]}"
    parts = [tag("p", tag("b", f"{hit['score']:.3f}"), " ", tag("span", code(shown_key), title=key))]
    texts = captions.get((hit["shard"], key), [hit["text"]] if "text" in hit else [])
    if texts:
        parts.append(tag("p", words(texts[0]), class_="caption"))
    if "file" not in hit:
        return tag("div", *parts, class_="hit")
    try:
        file = embedded.image_file(dict(hit))  # a link only to what lies in the pool
        parts.append(tag("p", tag("a", file, href=file.as_uri()), class_="path"))
        picture = _picture(read_member(file, hit["offset"], hit["size"]), key)
    except UNREADABLE as error:
        picture = tag("p", error, class_="lead")
    return tag("div", picture, *parts, class_="hit")


def _picture(content: bytes, alt: str) -> Html:
    open_image(content)  # nothing but an image gets into the page
    return tag("img", src=data_uri(content, THUMBNAIL_PX), alt=alt)
