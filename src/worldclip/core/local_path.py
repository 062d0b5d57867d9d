"""Refuse a URL where only a local path will do: as a path, `s3://bucket/run` would be a new folder named `s3:`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from worldclip.core.errors import UserError
from worldclip.core.suggest import nearest

# A scheme, or several as in `simplecache::s3://bucket`; Path has made one slash of two.
_URL = re.compile(r"((?:[\w+.-]+::)*[A-Za-z][\w+.-]+):/+(.*)", re.DOTALL)


_SURROGATE = re.compile("[\ud800-\udfff]")  # Python's stand-in for a byte of a name that is not UTF-8


def url_problem(path: str | Path, setting: str) -> str | None:
    """Return what is wrong with a path that must be local and UTF-8; None if nothing is.  setting: what names it."""
    if has_surrogate(str(path)):
        return f"{setting} {str(path)!r}: its bytes are not UTF-8, which Arrow and JSON need; choose another name"
    match = _URL.fullmatch(str(path))
    if match is None:
        return None
    scheme, address = match.groups()
    return (
        f"{setting} {scheme}://{address}: must be a local path, not a URL; work in a local folder and copy it from or "
        "to the store"
    )


def has_surrogate(text: str) -> bool:
    """Return whether a str holds half of a surrogate pair, the only character that UTF-8 cannot encode."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def nearest_path(path: str) -> str:
    """Return `did you mean PATH? ` of a missing path, if its folder holds a similar name, else nothing."""
    folder, name = os.path.split(path.rstrip("/"))
    names = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = nearest(name, names)
    return f"did you mean {os.path.join(folder, near[0])}? " if near else ""


def require_local(path: str | Path, setting: str) -> Path:
    """Return a path to read or write as a file or folder of this machine.

    Raises UserError for a URL, and for a name that is not UTF-8.
    """
    problem = url_problem(path, setting)
    if problem is not None:
        raise UserError(problem)
    return Path(path)
