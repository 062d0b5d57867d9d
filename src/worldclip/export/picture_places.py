"""Which pictures of a folder of embeddings may be opened: somebody else may have written its manifest and tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from worldclip.core.errors import UserError
from worldclip.core.inputs import is_remote
from worldclip.core.job import Report
from worldclip.core.safe_path import is_safe_name
from worldclip.pool.config import without_revision


def file_of(roots: Sequence[str], place: int, file: str) -> str:
    """Return the path or URL of `file` in a row of EMBEDDED_IMAGES.  Raises UserError for a place that is not there."""
    if place < 0:
        return file
    if place >= len(roots):
        raise UserError(f"{file} lies in place {place + 1} of the pool, of {len(roots)}; embed the pool again")
    return f"{roots[place].rstrip('/')}/{file}"


def picture_places(manifest: Report, pictures_from: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the folders and URLs whose pictures may be read: `pictures_from`, by default the pool's local folders.

    The manifest, too, may be somebody else's: a URL in it is not read unless the user repeats it.  Raises UserError for
    a folder that does not exist, and for a URL without a host or bucket.
    """
    if not pictures_from:
        return tuple(os.path.realpath(place) for place in manifest.get("places", []) if not is_remote(place))
    problems = []
    for place in pictures_from:
        if is_remote(place) and not place.rpartition("://")[2].strip("/"):
            problems.append(f"pictures_from = {place!r}: names no host or bucket; give one, as in https://example.org")
        if not is_remote(place) and not os.path.isdir(place):
            problems.append(f"pictures_from = {place!r}: no such folder; give the folder of the pool's pictures")
    if problems:
        raise UserError(problems)
    return tuple(place if is_remote(place) else os.path.realpath(place) for place in pictures_from)


def is_below(file: str, place: str) -> bool:
    """Return whether a file lies below a folder, links followed, or at a URL below another."""
    if not is_remote(place):
        return not is_remote(file) and Path(os.path.realpath(file)).is_relative_to(place)
    prefix = f"{without_revision(place).rstrip('/')}/"
    url = without_revision(file)
    below = unquote(url.removeprefix(prefix))
    return url.startswith(prefix) and is_safe_name(below) and "::" not in below  # `::` chains URLs in fsspec
