"""Decode the bytes of an image to upright RGB pixels: the one place that decides what is an image and what is not.

Training, evaluation, embedding, `pool check` and `pool hash` call it, so an image that one of them drops is dropped by
all.  Pillow decodes, and decides what is damaged.  JPEG and PNG are tried with torchvision first where it is installed:
a JPEG takes 0.6 of Pillow's time, with the same pixels (tests/model/test_decode.py compares them).

- An animation is its first frame.
- 16-bit levels keep their high byte.
- EXIF that cannot be read counts as none.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import require

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 2  # of the pixels; 2: 16-bit levels keep their high byte.  What was computed from others is computed again
MAX_PIXELS = 89_478_485  # a quarter of a GiB as 24-bit RGB: Pillow's limit for decompression bombs
MAX_ASPECT = 1000  # longer side / shorter side: a line of 1 x 65,535 pixels would be resized to 224 x 14,679,840
UNDECODABLE, BOMB = "undecodable_image", "decompression_bomb"
# The formats that are read.  Pillow knows more; one of them (EPS) starts another program.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "BMP", "DIB", "TIFF", "ICO", "PPM", "JPEG2000", "DDS")
TORCHVISION_FORMATS = ("JPEG", "PNG")
PNG_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # of EXIF, also after the pixels
ORIENTATION = 0x0112  # EXIF tag
MAX_DETAIL_CHARS = 200


class BadImage(ValueError):
    """An image that cannot be used; `reason` is UNDECODABLE or BOMB, `detail` one line that is the same in each run."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def decode(data: bytes, min_side: int | None = None, *, applies_exif: bool = True) -> np.ndarray:
    """Decode an image to (height, width, 3) uint8 RGB, upright and writable.  Raises BadImage.

    applies_exif: False leaves the pixels as they are stored, as the paper's evaluation does.

    min_side: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side keeps
    this many pixels; None decodes at full size.
    """
    with image_faults():
        image = open_image(data)
        if min_side is not None and image.format == "JPEG" and min(image.size) >= 2 * min_side:
            # libjpeg's scaled DCT averages blocks without a full-size image in between.
            image.draft("RGB", (min_side, min_side))
            return pixels_of(image, applies_exif=applies_exif)
        if image.format in TORCHVISION_FORMATS and (torchvision_decode := _torchvision()):
            pixels = torchvision_decode(data, image, applies_exif)
            if pixels is not None:
                return pixels
        return pixels_of(image, applies_exif=applies_exif)


@contextmanager
def image_faults() -> Iterator[None]:
    """Raise whatever a decoder raises as BadImage.

    Bytes of others make decoders raise nearly anything: OSError, SyntaxError, struct.error, KeyError, RuntimeError,
    NotImplementedError, MemoryError.  A list of them is never complete.
    """
    try:
        yield
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(UNDECODABLE, _one_line(error)) from error


def open_image(data: bytes) -> Image:
    """Return the image in `data`, with only its header read.  Raises BadImage for other data and for a bomb."""
    pillow = _pillow()
    with image_faults():
        try:
            image: Image = pillow.open(io.BytesIO(data), formats=_formats())
        except pillow.DecompressionBombError as error:
            raise BadImage(BOMB, str(error)) from error
        except pillow.UnidentifiedImageError as error:
            raise BadImage(UNDECODABLE, "no known image format") from error
        _check_size(*image.size)
        return image


def _check_size(width: int, height: int) -> None:
    """Raise BadImage for an image that is too large to decode, or too long to be resized by its shorter side."""
    if width < 1 or height < 1:
        raise BadImage(UNDECODABLE, f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise BadImage(BOMB, f"{width} x {height} pixels, more than {MAX_PIXELS}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(BOMB, f"{width} x {height} pixels, one side more than {MAX_ASPECT} times the other")


def pixels_of(image: Image, *, applies_exif: bool = True) -> np.ndarray:
    """Return the present frame of a Pillow image as (height, width, 3) uint8 RGB; otherwise as `decode`."""
    with image_faults():
        image.load()
        _check_size(*image.size)
        pixels = scale_16_bit(image)
        if pixels is None:
            pixels = np.array(image.convert("RGB"))
        else:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        return np.ascontiguousarray(upright(pixels, orientation_of(image) if applies_exif else 1))


def scale_16_bit(image: Image) -> np.ndarray | None:
    """Return (height, width) uint8 of an image of 16-bit levels, None for any other.

    Pillow's own conversion to 8 bits clips at 255 instead: nearly all of the picture would be white.
    """
    if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")):
        return None
    levels = np.asarray(image).astype(np.int32)
    return (levels >> 8).clip(0, 255).astype(np.uint8)


def orientation_of(image: Image) -> int:
    """Return the orientation by EXIF, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        return int(orientation) if orientation in _UPRIGHT else 1
    except Exception:  # noqa: BLE001  whatever the EXIF is, the pixels are good
        return 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view of (height, width, ...) pixels, turned as EXIF 2.3, tag 0x0112, says."""
    return _UPRIGHT[orientation](pixels)


_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def _one_line(error: BaseException) -> str:
    """Return the error in one line, without the memory addresses that Pillow puts into its messages."""
    text = re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", str(error))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= MAX_DETAIL_CHARS else text[: MAX_DETAIL_CHARS - 3] + "..."


# --- libraries --------------------------------------------------------------------------------------------------------


@functools.cache
def _pillow() -> Any:
    pillow: Any = require("PIL.Image", extra="pool")
    pillow.init()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # one per damaged tag of a million images; faults are raised
    return pillow


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of FORMATS that this build of Pillow reads (HEIF only with a plugin)."""
    return tuple(name for name in FORMATS if name in _pillow().OPEN)


@functools.cache
def _torchvision() -> Callable[[bytes, Any, bool], np.ndarray | None] | None:
    """Return the decoder of torchvision; None without it, and from 0.29 on, where its decoders are deprecated."""
    try:
        import torch
        import torchvision
        from torchvision.io import ImageReadMode, decode_image
    except ImportError:
        return None
    if tuple(int(number) for number in torchvision.__version__.split(".")[:2]) >= (0, 29):
        return None

    def decode_by_torchvision(data: bytes, image: Image, applies_exif: bool) -> np.ndarray | None:
        """Return the pixels; None where Pillow shall decide: damaged files, animations, 16 bits, EXIF anywhere."""
        if getattr(image, "is_animated", False) or any(mark in data for mark in PNG_MARKS if image.format == "PNG"):
            return None
        try:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            pixels_3HW = decode_image(buffer, mode=ImageReadMode.RGB)
        except RuntimeError:
            return None
        if pixels_3HW.dtype != torch.uint8 or pixels_3HW.shape[1:] != image.size[::-1]:
            return None
        orientation = orientation_of(image) if applies_exif else 1
        return np.ascontiguousarray(upright(pixels_3HW.permute(1, 2, 0).numpy(), orientation))

    return decode_by_torchvision
