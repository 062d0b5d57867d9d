"""Decode the bytes of an image to upright RGB pixels: the one place that decides what is an image and what is not.

Training, evaluation, embedding and `pool check` call it, so an image that one of them drops is dropped by all.  Pillow
decodes, and decides what is damaged.  A JPEG of RGB or grey levels that EXIF does not turn is tried with simplejpeg
first, where it is installed: libjpeg-turbo without the interpreter's lock, with the same pixels
(tests/model/test_decode.py compares them).

- An animation is its first frame.
- 16-bit levels keep their high byte.
- EXIF that cannot be read counts as none.
"""

from __future__ import annotations

import functools
import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from worldclip.core.errors import MissingPackage, is_no_memory, require
from worldclip.core.image_names import is_heif, needs_heif
from worldclip.kernels import jpeg_header

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 2  # version of the pixels; results of another version are computed again.  2: 16-bit levels, high byte
MAX_PIXELS = 89_478_485  # a quarter of a GiB as 24-bit RGB: Pillow's limit for decompression bombs
# A file below SMALL_FILE_BYTES may take 1 GiB, libraries included (0.4 GiB).  Decoding takes 5 to 8 bytes per pixel for
# JPEG and PNG, 6 to 16 for WEBP, AVIF, TIFF and GIF, 10 for HEIF (telephones take up to 48 million), 20 to 26 for
# JPEG2000.
SMALL_FILE_BYTES = 2**22
MAX_PIXELS_OF_SMALL = {
    "JPEG": 64_000_000,
    "MPO": 64_000_000,
    "PNG": 64_000_000,
    "HEIF": 50_000_000,
    "JPEG2000": 24_000_000,
}
MAX_PIXELS_OF_OTHER_SMALL = 36_000_000
ICON_MARK = b"\0\0\1\0"
STRIP_PIXELS = 2**22  # converted at once
MAX_ASPECT = 1000  # longer side / shorter side: a line of 1 x 65,535 pixels would be resized to 224 x 14,679,840
UNDECODABLE, BOMB = "undecodable_image", "decompression_bomb"
# The formats that are read.  Pillow knows more; one of them (EPS) starts another program.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "BMP", "DIB", "TIFF", "ICO", "PPM", "JPEG2000", "DDS")
ORIENTATION = 0x0112  # EXIF tag
MAX_DETAIL_CHARS = 200


class BadImage(ValueError):
    """An image that cannot be used; `reason` is UNDECODABLE or BOMB, `detail` one line that is the same in each run."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


def decode(data: bytes, min_side: int | None = None, *, applies_exif: bool = True) -> np.ndarray:
    """Decode an image to (height, width, 3) uint8 RGB, upright and writable.  Raises BadImage.

    applies_exif: False leaves the pixels as they are stored, as the paper's evaluation does.

    min_side: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side keeps
    this many pixels; None decodes at full size.
    """
    with image_faults():
        size = jpeg_header.read_size(np.frombuffer(data, np.uint8))  # (0, 0) where Pillow has to read the header
        is_scalable = min_side is not None and min(size) >= 2 * min_side
        pixels = None
        if not is_scalable and (_fault_of_size(size) or _fault_of_small("JPEG", size, len(data))) is None:
            pixels = _decode_jpeg(data, size)
        if pixels is not None:
            return pixels
        image = open_image(data)
        if min_side is not None and image.format == "JPEG" and min(image.size) >= 2 * min_side:
            # libjpeg's scaled DCT averages blocks without a full-size image in between.
            image.draft("RGB", (min_side, min_side))
            return pixels_of(image, applies_exif=applies_exif)
        is_plain = image.format == "JPEG" and image.mode in ("RGB", "L")
        if is_plain and not (applies_exif and orientation_of(image) != 1):
            pixels = _decode_jpeg(data, image.size)
        if pixels is None:
            return pixels_of(image, applies_exif=applies_exif)
        return pixels


def _decode_jpeg(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """Return (height, width, 3) uint8 by simplejpeg; None where it is missing or refuses, so that Pillow decides.

    size: (width, height) by the header, within the limits: it is not known to be an image before that.
    """
    decode_jpeg = jpeg_decoder()
    if decode_jpeg is None:
        return None
    try:
        pixels: np.ndarray = decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return pixels if pixels.shape == (*size[::-1], 3) else None


class _CutImagesAreRefused:
    """A context in which Pillow refuses truncated images, whatever LOAD_TRUNCATED_IMAGES is.

    The setting is one value per process, and other packages turn it on: Pillow then fills missing pixels with grey.
    The last thread that decodes restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_threads = 0
        self._before = False

    def __enter__(self) -> None:
        files: Any = require("PIL.ImageFile", extra="pool")
        with self._lock:
            if not self._num_threads:
                self._before = files.LOAD_TRUNCATED_IMAGES
                files.LOAD_TRUNCATED_IMAGES = False
            self._num_threads += 1

    def __exit__(self, *exception: object) -> None:
        files: Any = require("PIL.ImageFile", extra="pool")
        with self._lock:
            self._num_threads -= 1
            if not self._num_threads:
                files.LOAD_TRUNCATED_IMAGES = self._before


_cut_images_are_refused = _CutImagesAreRefused()


@contextmanager
def image_faults() -> Iterator[None]:
    """Raise whatever a decoder raises as BadImage.

    Bytes of others make decoders raise nearly anything: OSError, SyntaxError, struct.error, KeyError, RuntimeError,
    NotImplementedError.  No list names them all.  A missing package and a lack of memory are no fault of an
    image; "decoder error -9" is one, since Pillow also raises it for a tile of 2^60 pixels.
    """
    try:
        with _cut_images_are_refused:
            yield
    except (BadImage, MissingPackage):
        raise
    except Exception as error:
        if is_no_memory(error):
            raise
        text = re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", str(error))  # Pillow's messages hold memory addresses
        text = " ".join(text.split()) or type(error).__name__
        if len(text) > MAX_DETAIL_CHARS:
            text = text[: MAX_DETAIL_CHARS - 3] + "..."
        raise BadImage(UNDECODABLE, text) from error


def open_image(data: bytes) -> Image:
    """Return the image in `data`, with only its header read.  Raises BadImage for other data and for a bomb."""
    pillow = load_pillow()
    with image_faults():
        if data.startswith(ICON_MARK):  # Pillow decodes it as it opens it
            for size in _sizes_in_icon(data):
                fault = _fault_of_small("ICO", size, len(data))
                if fault is not None:
                    raise fault
        try:
            image: Image = pillow.open(io.BytesIO(data), formats=known_formats())
        except pillow.DecompressionBombError as error:
            raise BadImage(BOMB, str(error)) from error
        except pillow.UnidentifiedImageError as error:
            needs = needs_heif() if is_heif(data) else ""
            raise BadImage(UNDECODABLE, needs or "no known image format") from error
        fault = _fault_of_size(image.size) or _fault_of_small(image.format, image.size, len(data))
        if fault is not None:
            raise fault
        return image


def _fault_of_small(kind: str | None, size: tuple[int, int], num_bytes: int) -> BadImage | None:
    """Return the fault of a small file with so many pixels that its decoder would take more than 1 GiB."""
    width, height = size
    max_pixels = MAX_PIXELS_OF_SMALL.get(kind or "", MAX_PIXELS_OF_OTHER_SMALL)
    if num_bytes >= SMALL_FILE_BYTES or width * height <= max_pixels:
        return None
    return BadImage(BOMB, f"{width} x {height} pixels in {num_bytes} bytes, too many for a file below 4 MiB")


def _sizes_in_icon(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the size of each picture of an ICO file as its own header says: the directory's is a byte per side."""
    (num_pictures,) = struct.unpack_from("<H", data, 4)
    for number in range(num_pictures):
        (start,) = struct.unpack_from("<I", data, 6 + 16 * number + 12)
        if start + 24 > len(data):
            continue
        if data.startswith(b"\x89PNG\r\n\x1a\n", start):
            yield struct.unpack_from(">II", data, start + 16)
        else:
            width, height = struct.unpack_from("<ii", data, start + 4)
            yield abs(width), abs(height) // 2  # the picture above its mask


def _fault_of_size(size: tuple[int, int]) -> BadImage | None:
    """Return the fault of an image that is too large to decode, or too long to be resized by its shorter side."""
    width, height = size
    if width < 1 or height < 1:
        return BadImage(UNDECODABLE, f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        return BadImage(BOMB, f"{width} x {height} pixels, more than {MAX_PIXELS}")
    if max(size) > MAX_ASPECT * min(size):
        return BadImage(BOMB, f"{width} x {height} pixels, one side more than {MAX_ASPECT} times the other")
    return None


def pixels_of(image: Image, *, applies_exif: bool = True) -> np.ndarray:
    """Return the present frame of a Pillow image as (height, width, 3) uint8 RGB; otherwise as `decode`."""
    with image_faults():
        image.load()
        fault = _fault_of_size(image.size)
        if fault is not None:
            raise fault
        width, height = image.size
        rows = max(1, STRIP_PIXELS // width)
        if rows >= height:
            pixels = _rgb_of_strip(image)
        else:  # in strips: copies of all pixels would add up
            pixels = np.empty((height, width, 3), np.uint8)
            for top in range(0, height, rows):
                strip = image.crop((0, top, width, min(height, top + rows)))
                pixels[top : top + rows] = _rgb_of_strip(strip)
        if applies_exif:
            pixels = upright(pixels, orientation_of(image))
        return np.ascontiguousarray(pixels)


def _rgb_of_strip(image: Image) -> np.ndarray:
    levels = scale_16_bit(image)
    if levels is None:
        return np.array(image.convert("RGB"))
    return np.repeat(levels[:, :, None], 3, axis=2)


def scale_16_bit(image: Image) -> np.ndarray | None:
    """Return (height, width) uint8 of an image of 16-bit levels, None for any other.

    Pillow's own conversion to 8 bits clips at 255 instead: nearly all of the picture would be white.
    """
    if not image.mode.startswith("I;16"):
        return None
    levels = np.asarray(image).astype(np.int32)
    return (levels >> 8).clip(0, 255).astype(np.uint8)


def orientation_of(image: Image) -> int:
    """Return the orientation by EXIF, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        return int(orientation) if orientation in _UPRIGHT else 1
    except Exception as error:  # whatever the EXIF is, the pixels are good
        if is_no_memory(error):
            raise
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


# --- libraries --------------------------------------------------------------------------------------------------------


@functools.cache
def load_pillow() -> Any:
    pillow: Any = require("PIL.Image", extra="pool")
    pillow.init()
    if not needs_heif():
        require("pillow_heif", extra="heif").register_heif_opener()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # one per damaged tag of a million images; faults are raised
    return pillow


@functools.cache
def known_formats() -> tuple[str, ...]:
    """Return those of FORMATS that this build of Pillow reads (HEIF only with a plugin)."""
    return tuple(name for name in FORMATS if name in load_pillow().OPEN)


def identity() -> list[object]:
    """Return what decides which images decode, and to which pixels: a package may add a format later."""
    return [VERSION, *known_formats()]


@functools.cache
def jpeg_decoder() -> Callable[..., np.ndarray] | None:
    """Return simplejpeg's decoder, None where it is not installed."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    return cast("Callable[..., np.ndarray]", decode_jpeg)
