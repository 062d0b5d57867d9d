"""Open images of any kind as RGB PIL images: paths, PIL images, bytes of files, arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import UserError
from worldclip.core.regular_file import read_regular
from worldclip.model.decode import BOMB, UNDECODABLE, BadImage, decode, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image

URL_STARTS = ("http://", "https://")
_MEANING = {UNDECODABLE: "is not an image that can be decoded", BOMB: "is a decompression bomb"}


def as_list(images: Any) -> list[Any]:
    """Return one image or many as a list; an array of two or three dimensions is one image, of four a batch.

    A file or tensor, which `open_image` refuses, is one too: its lines or planes are no images.
    """
    is_array = isinstance(images, np.ndarray) or hasattr(images, "dim")
    is_one = isinstance(images, str | Path | bytes | bytearray | memoryview) or hasattr(images, "read")
    if is_one or not isinstance(images, Iterable) or (is_array and getattr(images, "ndim", 4) < 4):
        return [images]
    return list(images)


def to_pillow(pixels: np.ndarray) -> Image:
    """Return (height, width, 3) uint8 as a Pillow image."""
    from PIL import Image as PillowImage

    return PillowImage.fromarray(pixels)


def open_image(image: Any, *, applies_exif: bool, prepare: Callable[[np.ndarray], Any] = to_pillow) -> Any:
    """Return what `prepare` makes of (height, width, 3) uint8 RGB, or the reason why an image cannot be used.

    applies_exif: turn the image upright as its EXIF orientation says; False: leave it as it is stored.
    """
    try:
        pixels = _pixels(image, applies_exif)
    except BadImage as error:
        return f"{_MEANING[error.reason]} ({error.detail})"
    except ValueError as error:
        return str(error)
    return prepare(pixels)


def require_files(images: Iterable[Any], *, decodes: bool = False) -> None:
    """Raise UserError that names each path among images that is no file, or does not decode; needs no model."""
    problems: dict[str | Path, str] = {}
    for image in images:
        if isinstance(image, str | Path) and (decodes or not Path(image).is_file()):
            reason = open_image(image, applies_exif=False)
            if isinstance(reason, str):
                problems[image] = f"{image}: {reason}"
    if problems:
        raise UserError(list(problems.values()))


def _pixels(image: Any, applies_exif: bool) -> np.ndarray:
    """Return (height, width, 3) uint8.  Raises BadImage, and ValueError for what is no image file at all."""
    if isinstance(image, str) and image.startswith(URL_STARTS):
        raise ValueError("is a URL; download it and give the file")
    if isinstance(image, str | Path):
        try:
            content = read_regular(Path(image))
        except FileNotFoundError as error:
            raise ValueError("does not exist") from error
        except IsADirectoryError as error:
            raise ValueError("is a directory; name the image files in it") from error
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from error
        return decode(content, applies_exif=applies_exif)
    from PIL import Image as PillowImage

    if isinstance(image, np.ndarray):
        is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not is_image or image.size == 0:
            hint = ""
            if image.ndim == 3 and image.shape[0] in (1, 3):
                hint = "; array.transpose(1, 2, 0) puts the channels last"
            raise ValueError(f"is an array {image.shape} of {image.dtype}; give (height, width[, 3]) uint8{hint}")
        return pixels_of(PillowImage.fromarray(image))
    if isinstance(image, bytes):
        return decode(image, applies_exif=applies_exif)
    if isinstance(image, PillowImage.Image):
        return pixels_of(image, applies_exif=applies_exif)
    raise ValueError(
        f"has the type {type(image).__name__}; give a path, a PIL image, the bytes of a file (file.read()) or a numpy "
        "array (height, width[, 3]) of uint8"
    )
