"""A picture of any part as a PNG."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from worldclip.core.errors import require
from worldclip.core.safe_path import safe_join
from worldclip.plugins.drawings import draw_openmoji, render
from worldclip.plugins.world import appstream, gcompris, iconify, packages, stamps
from worldclip.plugins.world.parts import Picture

# What resvg, Pillow and the readers of files raise for a picture that will not decode.
UNDRAWABLE = (ValueError, OSError, SyntaxError, EOFError, struct.error)
FORMATS = ("PNG", "WEBP", "JPEG", "GIF")  # image formats of the parts; Pillow's other decoders are never run
MAX_PIXELS = 40_000_000  # largest picture to decode: a larger one is a decompression bomb


def draw(picture: Picture, folders: Mapping[str, Path | str], image_px: int, is_varied: bool = False) -> bytes:
    """Return the PNG of a picture on white, image_px to a side.

    folders: the folder of each part.  is_varied: take background, rotation and scale from the key (OpenMoji only).
    Raises one of UNDRAWABLE for a picture that will not decode.
    """
    if picture.part == packages.OPENMOJI:
        return draw_openmoji(picture.file, picture.key, image_px, is_varied)
    return draw_file(_READ[picture.part](Path(folders[picture.part]), picture.file), image_px)


_READ: dict[str, Callable[[Path, str], bytes]] = {
    iconify.FLUENT: iconify.drawing,
    iconify.FLAGS: iconify.drawing,
    stamps.NAME: lambda folder, file: safe_join(folder, file).read_bytes(),
    appstream.NAME: appstream.icon_file,
    gcompris.NAME: gcompris.photograph,
}
"""Part -> the function that returns the file of a picture, given the part's folder and the picture's place in it."""


def draw_file(content: bytes, image_px: int) -> bytes:
    """Return the PNG of an SVG or of an image file of FORMATS, centred on white, image_px to a side."""
    if b"<svg" in content[:4096]:
        return render(content.decode("utf-8"), image_px)
    image_module = require("PIL.Image", extra="world")
    try:
        with image_module.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels: too large to decode")
            image = image.convert("RGBA")
    except image_module.DecompressionBombError as error:  # Pillow's own limit, checked first
        raise ValueError(str(error)) from error
    scale = image_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, image_module.Resampling.LANCZOS, reducing_gap=3.0)
    square = image_module.new("RGBA", (image_px, image_px), "white")
    square.alpha_composite(image, ((image_px - size[0]) // 2, (image_px - size[1]) // 2))
    buffer = io.BytesIO()
    square.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
