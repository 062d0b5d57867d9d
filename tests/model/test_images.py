"""Training decodes with torchvision and inference with Pillow: both give the same pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from worldclip.model.images import open_images
from worldclip.train.decode import BadImage, decode

ORIENTATION = 0x0112  # EXIF tag


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((321, 245), Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encode(picture(), "JPEG", exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        encode(picture(), "JPEG"),
        encode(picture(), "JPEG", progressive=True),
        encode(picture(), "JPEG", subsampling=0),
        *(encode(picture(mode), "JPEG") for mode in ("L", "CMYK")),
        *(encode(picture(mode), "PNG") for mode in ("RGB", "RGBA", "P", "L", "LA", "1")),
        *(encode(picture(), "WEBP", lossless=lossless) for lossless in (False, True)),
        encode(picture(), "GIF"),
        rotated(),
    ],
)
def test_torchvision_and_pillow_decode_the_same_pixels(data):
    (image,) = open_images([data])
    np.testing.assert_array_equal(decode(data).permute(1, 2, 0).numpy(), np.array(image))


def test_known_differences_between_torchvision_and_pillow():
    """Training scales 16-bit images and refuses BMP and TIFF; Pillow clips the former and reads the latter."""
    data = encode(Image.fromarray(np.full((8, 8), 512, np.uint16)), "PNG")
    assert torch.equal(decode(data), torch.full((3, 8, 8), 2, dtype=torch.uint8))
    (image,) = open_images([data])
    assert image.getextrema() == ((255, 255),) * 3
    for format in ("BMP", "TIFF"):
        data = encode(picture(), format)
        (image,) = open_images([data])
        assert image.size == (321, 245)
        with pytest.raises(BadImage):
            decode(data)
