"""Pictures in every format that is read, and damage to their files."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
from PIL import Image, features

from pools import encode
from worldclip.model.decode import ORIENTATION

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((161, 125), Image.Resampling.BICUBIC).convert(mode)


def oriented(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(picture(), kind, exif=exif)


def png(width: int, height: int, bits: int, colour_type: int, raw: bytes) -> bytes:
    """Return a PNG of raw scan lines, each with its filter byte."""

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    return SIGNATURE + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue")]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


DEEP_GREY = encode(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG")
DEEP_RGB = png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 40_000, 512, 0xFFFF))
DEEP_RGBA = png(1, 1, 16, 6, b"\0" + struct.pack(">4H", 40_000, 512, 0xFFFF, 7))

PICTURES = {
    "jpeg": encode(picture(), "JPEG"),
    "jpeg_progressive": encode(picture(), "JPEG", progressive=True),
    "jpeg_444": encode(picture(), "JPEG", subsampling=0),
    **{f"jpeg_{mode}": encode(picture(mode), "JPEG") for mode in ("L", "CMYK")},
    **{f"jpeg_exif_{k}": oriented(k) for k in range(1, 9)},
    **{f"png_{mode}": encode(picture(mode), "PNG") for mode in ("RGB", "RGBA", "P", "L", "LA", "1")},
    "png_exif": oriented(6, "PNG"),
    "png_transparent": encode(picture("P"), "PNG", transparency=0),
    "png_grey_16": DEEP_GREY,
    "png_rgb_16": DEEP_RGB,
    "png_rgba_16": DEEP_RGBA,
    "apng": animated("PNG"),
    "webp": encode(picture(), "WEBP"),
    "webp_lossless": encode(picture(), "WEBP", lossless=True),
    "webp_rgba": encode(picture("RGBA"), "WEBP", lossless=True),
    "webp_exif": oriented(8, "WEBP"),
    "webp_animated": animated("WEBP"),
    "gif": encode(picture(), "GIF"),
    "gif_animated": animated("GIF"),
    "bmp": encode(picture(), "BMP"),
    "tiff": encode(picture(), "TIFF"),
    "tiff_grey_16": encode(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "TIFF"),
    "tiff_exif": oriented(3, "TIFF"),
    "dds": encode(picture(), "DDS"),
    **({"avif": encode(picture(), "AVIF")} if features.check("avif") else {}),
}


def damage(data: bytes, draw: random.Random) -> bytes:
    """Return an image file with some bytes replaced, removed, repeated or cut off, more often in its first 256."""
    content = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        at = draw.randrange(min(len(content), 256) if draw.random() < 0.7 else len(content))
        what = draw.randrange(6)
        if what < 3:
            content[at] = draw.choice([0, 1, 2, 127, 128, 255, draw.randrange(256)])
        elif what == 3:
            del content[at : at + draw.choice([1, 2, 4, 100])]
        elif what == 4:
            content[at:at] = content[at : at + draw.choice([1, 4, 64])]
        else:
            content[at : at + 4] = struct.pack(
                draw.choice("<>") + "I", draw.choice([0, 1, 2**16, 2**31 - 1, 2**32 - 1])
            )
        if not content:
            break
    if draw.random() < 0.1:
        del content[draw.randrange(len(content) + 1) :]
    return bytes(content)
