"""Decoding: every mode becomes RGB, and images that cannot be used give their reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from worldclip.train.decode import BOMB, UNDECODABLE, BadImage, decode


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "WEBP")]
)
def test_images_of_any_mode_become_rgb(mode, kind):
    image = Image.new("RGB", (20, 10), (200, 100, 50)).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(save(image, kind, **options))
    assert decoded.shape == (3, 10, 20)
    expected = np.array(image.convert("RGB"))[5, 5].astype(int)
    assert np.abs(decoded[:, 5, 5].numpy().astype(int) - expected).max() <= 4


def test_16_bit_png_keeps_its_brightness():
    data = save(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG")
    assert decode(data)[0, 4, 4].item() == pytest.approx(40_000 / 257, abs=1)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right
    assert decode(save(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).shape == (3, 20, 10)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_bytes_that_are_not_an_image_are_undecodable(data):
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.reason == UNDECODABLE


def test_a_truncated_image_is_undecodable():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = save(Image.fromarray(noise), "PNG")
    with pytest.raises(BadImage):
        decode(data[: len(data) // 3])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_rejected_before_it_is_unpacked(side):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(BadImage) as caught:
        decode(bomb)
    assert caught.value.reason == BOMB


def test_scaled_decode_is_smaller_and_similar():
    gradient = np.add.outer(np.arange(400), np.arange(600)).astype(np.float32) * 255 / 1000
    picture = Image.fromarray(np.repeat(gradient[:, :, None], 3, axis=2).astype(np.uint8))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(file, "JPEG", quality=95, exif=exif)
    whole, scaled = decode(file.getvalue()), decode(file.getvalue(), 100)
    assert tuple(whole.shape) == (3, 600, 400)
    assert tuple(scaled.shape) == (3, 150, 100)
    resized = np.array(Image.fromarray(whole.permute(1, 2, 0).numpy()).resize((100, 150), Image.Resampling.BOX))
    assert np.abs(resized.astype(int) - scaled.permute(1, 2, 0).numpy().astype(int)).mean() < 2
    assert decode(file.getvalue(), 300).shape == whole.shape  # too small to be scaled
