"""Images inside a page, as data: URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

from worldclip.core.errors import require
from worldclip.model.decode import open_image, pixels_of

MAX_BYTES = 20_000  # smaller files are embedded as they are
THUMBNAIL_PX = 192
_MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"RIFF", "webp"), (b"GIF8", "gif"))


def data_uri(content: bytes) -> str:
    """Return an image file as a data: URI, shrunk to THUMBNAIL_PX where it is larger than MAX_BYTES.

    Raises BadImage (a ValueError) for a file that cannot be decoded.
    """
    if len(content) > MAX_BYTES:
        content = shrink(content)
    return f"data:image/{_kind_of(content) or 'octet-stream'};base64,{base64.b64encode(content).decode()}"


def thumbnail(content: bytes) -> tuple[bytes, str]:
    """Return an image file that browsers show, and its suffix: the file itself where it is small, else a JPEG.

    Raises BadImage (a ValueError) for a file that cannot be decoded.
    """
    open_image(content)
    kind = _kind_of(content)
    if kind is None or len(content) > MAX_BYTES:
        return shrink(content), "jpeg"
    return content, kind


def _kind_of(content: bytes) -> str | None:
    return next((name for magic, name in _MAGIC if content.startswith(magic)), None)


def shrink(content: bytes, max_px: int = THUMBNAIL_PX) -> bytes:
    """Return an image as a JPEG whose longer side is at most `max_px`.  Raises as data_uri."""
    pillow: Any = require("PIL.Image", extra="pool")
    opened = open_image(content)
    opened.draft("RGB", (max_px, max_px))  # a JPEG at its smallest sufficient scale; nothing for other formats
    image = pillow.fromarray(pixels_of(opened))
    image.thumbnail((max_px, max_px))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
