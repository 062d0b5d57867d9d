"""HTML that escapes by construction: only `Html` is markup, every other value is text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID_TAGS = frozenset({"img", "link", "meta"})


class Html(str):
    """Markup written by this package.  Any other string is text (a caption, a key, a file name) and gets escaped."""

    __slots__ = ()

    def __add__(self, other: str) -> Html:
        return Html(str.__add__(self, html(other)))


def html(value: object) -> Html:
    """Return markup as it is, anything else escaped."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def join(parts: Iterable[object], separator: object = "") -> Html:
    """Concatenate parts, with text escaped and None left out."""
    return Html(html(separator).join(html(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element.

    attributes: `class_` stands for class, any other `_` for a hyphen; None and "" leave an attribute out.
    """
    start = f"<{name}"
    for key, value in attributes.items():
        if value is not None and value != "":
            start += f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
    end = "" if name in VOID_TAGS else f"</{name}>"
    return Html(f"{start}>{join(children)}{end}")
