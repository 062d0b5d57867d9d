"""Every image becomes RGB, by any library the same; what cannot be used gives its reason and ends no process."""

import io
import random
import re
import struct
import sys

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps

from damaged_images import PICTURES, damage, encode, picture, png
from worldclip.check.hashing import scan_image
from worldclip.core import image_names
from worldclip.core.errors import MissingPackage, install_hint
from worldclip.kernels.jpeg_header import read_size
from worldclip.model import decode as decoding
from worldclip.model.decode import BOMB, ORIENTATION, UNDECODABLE, BadImage, decode
from worldclip.model.images import open_image


def by_pillow(data: bytes, colorspace: str) -> np.ndarray:
    """Stand for simplejpeg's decoder: RGB as the file is stored, and a ValueError for what it does not take."""
    image = Image.open(io.BytesIO(data))
    if image.mode == "CMYK":
        raise ValueError("colorspace")
    return np.array(image.convert("RGB"))


@pytest.fixture(params=["simplejpeg", "stand-in"])
def decode_jpeg(request, monkeypatch):
    """Decode plain JPEGs by the library, and where it is not installed by one that does as it does."""
    decoder = by_pillow if request.param == "stand-in" else decoding.jpeg_decoder()
    if decoder is None:
        pytest.skip("simplejpeg is not installed")
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: decoder)
    return decoder


@pytest.mark.parametrize("name", PICTURES)
def test_simplejpeg_and_pillow_decode_the_same_pixels(name, decode_jpeg, monkeypatch):
    pixels, stored = decode(PICTURES[name]), decode(PICTURES[name], applies_exif=False)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    image = Image.open(io.BytesIO(PICTURES[name]))
    np.testing.assert_array_equal(open_image(PICTURES[name], applies_exif=True), pixels)
    for source in (PICTURES[name], image):
        np.testing.assert_array_equal(open_image(source, applies_exif=False), stored)
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: None)
    np.testing.assert_array_equal(decode(PICTURES[name]), pixels)
    np.testing.assert_array_equal(decode(PICTURES[name], applies_exif=False), stored)
    assert scan_image(PICTURES[name]).error is None
    if not name.endswith("_16"):
        np.testing.assert_array_equal(stored, image.convert("RGB"))
        np.testing.assert_array_equal(pixels, ImageOps.exif_transpose(image).convert("RGB"))


def test_pictures_on_which_the_libraries_may_differ_are_pillows(monkeypatch):
    seen: set[bytes] = set()

    def noted(data: bytes, colorspace: str) -> np.ndarray:
        seen.add(data)
        return by_pillow(data, colorspace)

    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: noted)
    names = {}
    for applies_exif in (True, False):
        seen.clear()
        for data in PICTURES.values():
            decode(data, applies_exif=applies_exif)
        names[applies_exif] = {name for name, data in PICTURES.items() if data in seen}
    plain = {"jpeg", "jpeg_progressive", "jpeg_444", "jpeg_L", "jpeg_exif_1"}
    assert names == {True: plain, False: plain | {f"jpeg_exif_{k}" for k in range(2, 9)}}
    seen.clear()
    decode(PICTURES["jpeg"], 40)
    assert not seen, "a scaled JPEG is Pillow's"
    huge = bytearray(PICTURES["jpeg"])
    place = huge.index(b"\xff\xc0") + 5
    huge[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    with pytest.raises(BadImage, match=BOMB):
        decode(bytes(huge))
    assert not seen, "the size is looked at first"


@pytest.mark.parametrize("wrong", [ValueError("Premature end of JPEG file"), np.zeros((3, 4, 3), np.uint8)])
def test_what_simplejpeg_refuses_or_sizes_otherwise_is_pillows(wrong, monkeypatch):
    def decode_otherwise(data: bytes, colorspace: str) -> np.ndarray:
        if isinstance(wrong, ValueError):
            raise wrong
        return wrong

    expected = decode(PICTURES["jpeg"])
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: decode_otherwise)
    np.testing.assert_array_equal(decode(PICTURES["jpeg"]), expected)


def test_missing_pillow_is_no_fault_of_an_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setattr(decoding, "load_pillow", decoding.load_pillow.__wrapped__)
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: None)
    for read in (decode, scan_image, decoding.open_image):
        with pytest.raises(MissingPackage, match=re.escape(f"PIL.Image is needed here: {install_hint('pool')}")):
            read(PICTURES["png_RGB"])


def test_headers_of_jpegs_are_read_as_pillow_reads_them():
    plain = {name for name, data in PICTURES.items() if read_size(np.frombuffer(data, np.uint8)) != (0, 0)}
    assert plain == {"jpeg", "jpeg_progressive", "jpeg_444", "jpeg_L"}
    num_read = 0
    for name in plain:
        for seed in range(500):
            data = damage(PICTURES[name][:1000], random.Random(seed))  # most of it is header
            size = read_size(np.frombuffer(data, np.uint8))
            if size != (0, 0) and min(size) > 0:
                image = (
                    decoding.open_image(data) if decoding._fault_of_size(size) is None else Image.open(io.BytesIO(data))
                )
                assert (image.format, image.size) == ("JPEG", size)
                assert "exif" not in image.info
                assert decoding.orientation_of(image) == 1
                num_read += 1
    assert num_read > 200


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2])
@pytest.mark.parametrize("size", range(2, 9))
def test_frame_header_at_the_end_of_a_file_is_not_read_beyond_it(marker: int, size: int):
    data = [0xFF, 0xD8, 0xFF, marker, 0, size, *([8] * (size - 2))]
    assert read_size.py_func(data) == (0, 0)  # in Python, where an index out of bounds is an error
    assert read_size(np.array(data, np.uint8)) == (0, 0)


@pytest.mark.parametrize("name", ["jpeg", "jpeg_progressive", "jpeg_L", "jpeg_CMYK", "jpeg_exif_6"])
def test_damaged_jpegs_are_the_same_with_and_without_simplejpeg(name, monkeypatch):
    def outcome(data: bytes) -> str | bytes:
        try:
            return decode(data).tobytes()
        except BadImage as error:
            return str(error)

    damaged = [damage(PICTURES[name], random.Random(seed)) for seed in range(60)]
    fast = list(map(outcome, damaged))
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: None)
    assert fast == list(map(outcome, damaged))


@pytest.mark.parametrize("name", ["png_grey_16", "png_rgb_16", "png_rgba_16", "tiff_grey_16"])
def test_16_bit_levels_keep_their_high_byte(name):
    expected = [156, 2, 255] if "rgb" in name else [156] * 3
    assert decode(PICTURES[name])[0, 0].tolist() == expected


def test_a_large_picture_has_the_pixels_of_a_small_one(monkeypatch):
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: None)
    whole = {name: decode(data) for name, data in PICTURES.items()}
    monkeypatch.setattr(decoding, "STRIP_PIXELS", 161 * 7)  # 7 of 125 rows at a time
    for name, pixels in whole.items():
        np.testing.assert_array_equal(decode(PICTURES[name]), pixels, name)


def test_exif_that_cannot_be_read_counts_as_none():
    """A count that is text, an offset behind the end and a directory within itself: the pixels are good."""
    plain = encode(picture(), "JPEG")
    tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", ORIENTATION, 2, 6, b"six\0") + b"\0\0\0\0"
    loop = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + b"\x08\0\0\0"
    for body in (tiff, loop, tiff[:12], b"II*\0\xff\xff\xff\xff", b"text"):
        exif = b"Exif\0\0" + body
        data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
        np.testing.assert_array_equal(decode(data), decode(plain))
        assert decode(data, 40).shape == (63, 81, 3)
        assert scan_image(data).hash == scan_image(plain).hash


NO_IMAGES = (b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"%!PS-Adobe-3.0 EPSF-3.0\n")
BOMBS = [png(*sides, 8, 2, b"\0" * 1000) for sides in ((10_000, 10_000), (20_000, 20_000), (60_000, 10))]


@pytest.mark.parametrize(
    ("data", "reason", "said"),
    [
        *((data, UNDECODABLE, "is not an image that can be decoded") for data in NO_IMAGES),
        *((data, BOMB, "is a decompression bomb") for data in BOMBS),
    ],
)
def test_what_is_no_image_or_a_decompression_bomb_is_refused_before_it_is_unpacked(data, reason, said):
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.reason == reason
    assert scan_image(data).error == str(caught.value)
    assert open_image(data, applies_exif=True).startswith(said)


def test_heif_is_decoded_upright_where_its_package_is_installed_and_else_names_it(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(image_names, "missing_packages", lambda *names, extra: iter([f"HEIF needs {extra}"]))
        patch.setattr(decoding, "known_formats", lambda: ("JPEG", "PNG"))
        with pytest.raises(BadImage, match=f"{UNDECODABLE}: HEIF needs heif"):
            decode(b"\0\0\0\x18ftypheic" + bytes(99))
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = io.BytesIO()
    Image.new("RGB", (80, 60), (200, 30, 90)).save(data, "HEIF", quality=90, exif=exif.tobytes())
    pixels = decode(data.getvalue())
    assert pixels.shape == (80, 60, 3)
    assert np.abs(pixels.astype(int) - (200, 30, 90)).max() < 8


def test_postscript_never_starts_another_program(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", fail)
    data = encode(picture(), "EPS")
    with pytest.raises(BadImage, match="no known image format"):
        decode(data)
    assert scan_image(data).error is not None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("others_load_them", [False, True])
def test_a_truncated_image_is_undecodable(monkeypatch, kind, others_load_them):
    """Also where another package has told Pillow to fill what is missing; it finds its setting as it was."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", others_load_them)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(BadImage):
        decode(data[: len(data) // 3])
    assert decode(data).shape == (64, 64, 3)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is others_load_them


@pytest.mark.parametrize(("has_exif", "shape"), [(False, (400, 600, 3)), (True, (600, 400, 3))])
def test_scaled_decode_is_smaller_and_similar(has_exif, shape):
    gradient = np.add.outer(np.arange(400), np.arange(600)).astype(np.float32) * 255 / 1000
    image = Image.fromarray(np.repeat(gradient[:, :, None], 3, axis=2).astype(np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encode(image, "JPEG", quality=95, **({"exif": exif} if has_exif else {}))
    whole = decode(data)
    assert whole.shape == shape
    for min_side, divisor in ((50, 8), (51, 4), (100, 4), (101, 2), (200, 2), (201, 1), (300, 1)):
        scaled = decode(data, min_side)
        height, width = shape[0] // divisor, shape[1] // divisor
        assert scaled.shape == (height, width, 3), min_side
        resized = np.array(Image.fromarray(whole).resize((width, height), Image.Resampling.BOX))
        assert np.abs(resized.astype(int) - scaled.astype(int)).mean() < 2


@pytest.mark.parametrize("place", ["load", "getexif"])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")])
def test_lack_of_memory_is_no_fault_of_an_image(place, error, monkeypatch):
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: None)
    monkeypatch.setattr(Image.Image, place, fail)
    monkeypatch.setattr(ImageFile.ImageFile, place, fail)
    for read in (decode, scan_image):
        with pytest.raises(type(error)):
            read(PICTURES["bmp"])
