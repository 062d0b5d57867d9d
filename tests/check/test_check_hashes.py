"""The hash of an image, also of a damaged one, and the search for near hashes, against a comparison of all with all."""

import hashlib
import io
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pools import encode, photograph
from worldclip.check import hashing, neighbours
from worldclip.check.hashing import perceptual_hashes, scan_image
from worldclip.check.neighbours import cluster, near_pairs, nearest, unique

LARGE = (320, 240)
HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=40)


def distance(a: int | None, b: int | None) -> int:
    return (a ^ b).bit_count()


def plain_hash(grey_YX: np.ndarray) -> int:
    """Compute the hash by its definition, in floating point."""
    basis = [[math.cos(math.pi * f * (2 * x + 1) / 64) for x in range(32)] for f in range(8)]
    frequencies = np.array(basis) @ grey_YX.astype(float) @ np.array(basis).T
    bits = (frequencies > np.median(frequencies)).ravel()
    return int("".join("01"[int(bit)] for bit in bits), 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_hashes_agree_with_the_plain_definition(seed: int) -> None:
    grey_nYX = np.random.default_rng(seed).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    assert perceptual_hashes(grey_nYX).tolist() == [plain_hash(grey_YX) for grey_YX in grey_nYX]


def test_hashes_agree_with_imagehash_on_photographs(shared: Path) -> None:
    imagehash = pytest.importorskip("imagehash")
    with tarfile.open(shared / "data/imagenet_samples/samples-000000.tar") as tar:
        jpegs = [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")][:60]
    for jpeg in jpegs:
        grey = Image.open(io.BytesIO(jpeg)).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
        ours = int(perceptual_hashes(np.asarray(grey)[None])[0])
        assert ours == int(str(imagehash.phash(grey)), 16)
        assert distance(scan_image(jpeg).hash, ours) <= 4, "decoding at a smaller scale changes few bits"


def plain_lanczos(size: int) -> np.ndarray:
    """Return (32, size) weights by their definition, in floating point."""
    scale = max(size / 32, 1)
    x = (np.arange(size) + 0.5 - (np.arange(32)[:, None] + 0.5) * size / 32) / scale
    weights = np.sinc(x) * np.sinc(x / 3) * (abs(x) < 3)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (32, 33), (188, 250), (1000, 3), (1500, 2001)])
def test_shrink_agrees_with_plain_lanczos_and_pillow(height: int, width: int) -> None:
    noise_YX = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    exact_YX = (plain_lanczos(height) @ noise_YX.astype(float) @ plain_lanczos(width).T).clip(0, 255)
    assert abs(hashing.shrink(noise_YX) - exact_YX).max() < 0.6
    calm_YX = 96 + noise_YX // 4  # Pillow clips between rows and columns too, which changes nothing here
    by_pillow_YX = np.asarray(Image.fromarray(calm_YX).resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
    assert abs(hashing.shrink(calm_YX) - by_pillow_YX).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    turn = Image.Transpose
    turns = (None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM)  # by orientation, from 1 on
    turns += (turn.TRANSPOSE, turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270)
    stored = turns[orientation - 1]
    upright = photograph(size=LARGE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = upright if stored is None else upright.transpose(stored)
    turned = scan_image(encode(image, "JPEG", quality=95, exif=exif.tobytes()))
    assert distance(turned.hash, scan_image(encode(upright)).hash) <= 2


def test_colour_of_transparent_pixels_is_ignored() -> None:
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[16:40, 20:50] = (200, 30, 30, 255)
    hidden = pixels.copy()
    hidden[:10, :, :3], hidden[:10, :, 3] = 7, 0
    assert scan_image(encode(Image.fromarray(hidden))).hash == scan_image(encode(Image.fromarray(pixels))).hash


@pytest.mark.parametrize(("mode", "kind"), [("P", "PNG"), ("P", "GIF"), ("L", "PNG"), ("RGB", "PNG")])
def test_a_colour_that_an_image_without_alpha_names_transparent_is_white(mode: str, kind: str) -> None:
    levels = np.full((64, 64), 90, np.uint8)
    levels[16:40, 20:50] = 200
    image = Image.fromarray(levels).convert(mode)
    on_white = Image.fromarray(np.where(levels == 90, 255, levels).astype(np.uint8))
    content = encode(image, kind, transparency=image.getpixel((0, 0)))
    assert scan_image(content).hash == scan_image(encode(on_white)).hash != scan_image(encode(image, kind)).hash


def test_16_bit_levels_with_a_transparent_one_are_hashed_as_without() -> None:
    image = Image.fromarray(np.asarray(photograph(size=LARGE).convert("L")).astype(np.uint16) * 257)
    assert scan_image(encode(image, transparency=500)).hash == scan_image(encode(image)).hash is not None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "LA"])
def test_every_pixel_mode_is_hashed(mode: str) -> None:
    grey = np.asarray(photograph(size=LARGE).convert("L"))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert(mode)
    facts = scan_image(encode(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert facts.error is None
    assert distance(facts.hash, scan_image(encode(Image.fromarray(grey))).hash) <= 6


def test_nearly_blank_image_has_no_hash() -> None:
    noise = np.random.default_rng(0).integers(250, 253, (64, 64, 3), dtype=np.uint8)
    facts = scan_image(encode(Image.fromarray(noise)))
    assert (facts.hash, facts.error, facts.pixels) == (None, None, 64 * 64)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_file_has_an_error_and_no_hash(kind: str) -> None:
    whole = encode(photograph(size=LARGE), kind)
    for share in (0.02, 0.5):
        cut = whole[: int(len(whole) * share)]
        facts = scan_image(cut)
        assert facts.error
        assert facts == scan_image(cut), "the message names no address in memory"
        assert facts.hash is None
        assert facts.sha256 == hashlib.sha256(cut).digest()[:16]


def test_cut_animation_has_an_error_though_its_first_frame_is_whole() -> None:
    frames = [photograph(seed, (64, 64)) for seed in range(3)]
    whole = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert scan_image(whole).hash == scan_image(encode(frames[0], "GIF")).hash
    assert scan_image(whole[: len(whole) * 7 // 10]).error


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_corrupt_image_never_raises(noise: bytes, at: int) -> None:
    whole = encode(photograph(size=(48, 48)), "JPEG")
    scan_image(noise)
    scan_image(whole[:at] + noise + whole[at + len(noise) :])


def test_decompression_bomb_is_rejected_before_decoding() -> None:
    assert "decompression bomb" in scan_image(encode(Image.new("1", (20_000, 20_000)))).error


def compare_all_with_all(values: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    distances = ((a, b, (a ^ b).bit_count()) for n, a in enumerate(values.tolist()) for b in values.tolist()[n + 1 :])
    return [pair for pair in distances if pair[2] <= radius]


def with_neighbours(num_hashes: int, max_flips: int) -> np.ndarray:
    """Return random hashes, and a copy of each with up to `max_flips` bits changed, sorted."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**64, num_hashes, dtype=np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (max_flips, num_hashes), dtype=np.uint64)
    return unique(np.concatenate([base, base ^ np.bitwise_or.reduce(flips, axis=0)]))


def found(values: np.ndarray, radius: int, num_equal: int | None = None) -> list[tuple[int, int, int]]:
    """Return all pairs of near_pairs, the smaller value first, sorted; repeats of a pair stay."""
    pairs = []
    for block in near_pairs(values, radius, num_equal):
        for first, second, distance in zip(*block, strict=True):
            pairs.append((*sorted((int(values[first]), int(values[second]))), int(distance)))
    return sorted(pairs)


@pytest.mark.parametrize(
    ("radius", "num_equal"), [*((radius, None) for radius in (0, 1, 2, 3, 4, 6, 8, 12)), (5, 1), (5, 2), (5, 3), (5, 4)]
)
def test_near_pairs_agree_with_comparing_all_with_all(radius: int, num_equal: int | None) -> None:
    values = with_neighbours(250, max_flips=9)
    expected = compare_all_with_all(values, radius)
    assert found(values, radius, num_equal) == expected
    assert len(expected) >= (100 if radius >= 8 else 0), "planted neighbours are within the radius"


def test_full_blocks_lose_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(100, dtype=np.uint64)  # any two are within 7 bits
    monkeypatch.setattr(neighbours, "PAIRS_AT_ONCE", 7)
    assert len(found(values, 7)) == 100 * 99 // 2
    assert set(cluster(values, 7).tolist()) == {0}


@settings(max_examples=50, deadline=None)
@given(HASHES, st.lists(st.tuples(st.integers(0, 39), st.integers(0, 63)), max_size=40), st.integers(0, 4))
def test_clusters_are_joined_through_chains(hashes: list[int], flips: list[tuple[int, int]], radius: int) -> None:
    for n, bit in flips:
        hashes = [*hashes, hashes[n] ^ 1 << bit] if n < len(hashes) else hashes
    values = unique(np.array(hashes, np.uint64))
    reached = {value: {value} for value in values.tolist()}
    for a, b, _ in compare_all_with_all(values, radius):
        whole = reached[a] | reached[b]
        for value in whole:
            reached[value] = whole
    smallest = [int(values[root]) for root in cluster(values, radius)]
    assert smallest == [min(reached[value]) for value in values.tolist()]


@settings(max_examples=40, deadline=None)
@given(HASHES, HASHES, st.integers(0, 16))
def test_nearest_agrees_with_comparing_all_references(references: list[int], others: list[int], radius: int) -> None:
    queries = others + [value ^ 0b1011 << n for n, value in enumerate(references)] + references[:1]
    queries = [query % 2**64 for query in queries]
    distances, values = nearest(np.array(queries, np.uint64), np.array(references, np.uint64), radius)
    for query, d, reference in zip(queries, distances.tolist(), values.tolist(), strict=True):
        expected = min((((query ^ other).bit_count(), other) for other in references), default=(65, 0))
        assert (d, reference) == (expected if expected[0] <= radius else (-1, 0))
