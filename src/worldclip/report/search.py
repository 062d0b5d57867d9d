"""The results of a search as a contact sheet: one page that opens anywhere, its pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import write_text
from worldclip.core.errors import BadShard
from worldclip.evaluate.gallery import thumbnail
from worldclip.pool.read import read_member
from worldclip.report.page import Section, document, figure, words

_PICTURE = "display:block;width:100%;height:11rem;object-fit:contain"
_SHORT_KEY = 60  # characters


def write_contact_sheet(path: Path, results: Sequence[Mapping[str, Any]], folder: str | Path) -> None:
    """Results of worldclip.search.search over `folder` into the .html file `path`."""
    sections = [
        Section(
            anchor=f"query-{number}",
            heading=str(result["query"]),
            lead=f"The {len(result['hits'])} nearest, by cosine.",
            body=f'<div class="grid">{"".join(map(_hit, result["hits"]))}</div>',
        )
        for number, result in enumerate(results, start=1)
    ]
    write_text(path, document("Search", escape(f"In {folder}. Made with worldclip."), sections))


def _hit(hit: Mapping[str, Any]) -> str:
    key = str(hit["key"])
    shown = f"<code>{escape(key if len(key) <= _SHORT_KEY else f'…{key[-_SHORT_KEY:]}')}</code>"
    return figure(shown, f"{hit['score']:.3f}", words(str(hit["text"])) if "text" in hit else _picture(hit))


def _picture(hit: Mapping[str, Any]) -> str:
    try:
        shown = thumbnail(read_member(hit["file"], hit["offset"], hit["size"]))
    except (BadShard, OSError, ValueError, SyntaxError) as error:  # the pool moved, or what Pillow raises of a bad file
        return f"<p>{escape(str(error))}</p>"
    return f'<img style="{_PICTURE}" alt="{escape(str(hit["key"]))}" src="{shown}">'
