"""Crops, warps and patch dropout: drawn from the hash of the pair, applied as torchvision does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from worldclip.core.coin import CROP, uniform
from worldclip.train.augment import (
    CROP_DRAWS,
    WARP_DRAWS,
    Warps,
    crop_box,
    crop_draws,
    kept_patches,
    random_resized_crop,
    warp,
)


def test_crop_draws_depend_only_on_pair_seed_and_epoch():
    keys, text_idx, epochs = ["a", "b", "a"], np.array([0, 0, 0]), np.array([0, 0, 1])
    draws = crop_draws(keys, text_idx, 9, epochs)
    assert draws.shape == (3, CROP_DRAWS + WARP_DRAWS)
    assert ((draws >= 0) & (draws < 1)).all()
    np.testing.assert_array_equal(draws[1:], crop_draws(keys[1:], text_idx[1:], 9, epochs[1:]))
    assert len(np.unique(draws)) == draws.size


def test_crop_draws_are_splitmix64_of_the_hash_of_their_stream():
    (draws,) = crop_draws(["k"], np.array([4]), 1, np.array([3]))
    h = (int(uniform("k", 4, 1, 3, CROP) * 2**53) + 1 + 0x9E3779B97F4A7C15) % 2**64
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    h = (h ^ h >> 27) * 0x94D049BB133111EB % 2**64
    assert draws[0] == ((h ^ h >> 31) >> 11) * 2.0**-53


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1), st.integers(0, 10**6))
def test_a_crop_lies_within_the_image(height, width, scale_min, key):
    (draws,) = crop_draws([str(key)], np.array([0]), 0, np.array([0]))
    top, left, crop_height, crop_width = crop_box(draws, height, width, scale_min)
    assert top >= 0
    assert left >= 0
    assert 1 <= crop_height <= height - top
    assert 1 <= crop_width <= width - left


def test_crops_have_the_configured_areas_and_aspects():
    draws = crop_draws([str(n) for n in range(500)], np.zeros(500, int), 0, np.zeros(500, int))
    boxes = np.array([crop_box(row, 400, 400, 0.5) for row in draws])
    areas, aspects = boxes[:, 2] * boxes[:, 3] / 160_000, boxes[:, 3] / boxes[:, 2]
    assert areas.min() > 0.495
    assert areas.max() == pytest.approx(1, abs=0.05)
    assert areas.mean() == pytest.approx(0.72, abs=0.05)  # below 0.75: large crops fit less often
    assert aspects.min() > 0.74
    assert aspects.max() < 1.35
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.03)


def test_an_image_that_no_try_fits_is_cropped_at_its_centre():
    draws = np.full(CROP_DRAWS, 0.999)
    assert crop_box(draws, 10, 100, 0.9) == (0, 43, 10, 13)
    assert crop_box(draws, 100, 10, 0.9) == (43, 0, 13, 10)


def test_kept_patches_depend_only_on_pair_and_epoch():
    keys, text_idx, epoch = [f"k{i}" for i in range(200)], np.zeros(200, np.int64), np.repeat([0, 1], 100)
    kept = kept_patches(keys, text_idx, 3, epoch, 16, 0.25)
    assert kept.shape == (200, 12)
    assert all(len(set(row)) == 12 for row in kept.tolist())
    assert (np.diff(kept, axis=1) > 0).all()
    np.testing.assert_allclose(np.bincount(kept.ravel()) / 200, 0.75, atol=0.12)
    again = kept_patches(keys[50:150], text_idx[50:150], 3, epoch[50:150], 16, 0.25)
    np.testing.assert_array_equal(again, kept[50:150])
    assert not np.array_equal(kept[:100], kept_patches(keys[:100], text_idx[:100], 3, epoch[:100] + 1, 16, 0.25))


def test_crops_equal_those_of_torchvision():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 50, 70), dtype=np.uint8))
    (draws,) = crop_draws(["k"], np.array([0]), 0, np.array([0]))
    box = crop_box(draws, 50, 70, 0.5)
    expected = resized_crop(image, *box, [24, 24], InterpolationMode.BICUBIC, antialias=True)
    np.testing.assert_array_equal(random_resized_crop(image, draws, 0.5, 24).numpy(), expected.numpy())


def warp_draws(**changes: float) -> np.ndarray:
    """Return one row of draws.  Without changes: angle 0, the same size and colours, and a warp at any warp_share."""
    row = np.zeros((1, CROP_DRAWS + WARP_DRAWS))
    neutral = {"angle": 0.5, "size": 1.0, "red": 1.0, "green": 1.0, "blue": 1.0, "chance": 0.0}
    row[0, CROP_DRAWS:] = list((neutral | changes).values())
    return row


def test_a_warp_of_neutral_draws_changes_nothing():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8))
    warps = Warps(rotate_deg=30, zoom_out_min=0.5, backdrop_min=0.5)
    assert torch.equal(warp(images, warp_draws(), warps), images)


def test_a_warp_rotates_shrinks_and_tints_the_background():
    image = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    image[:, :, 8:24, 8:24] = 0  # a black square of 16 pixels
    warps = Warps(rotate_deg=45, zoom_out_min=0.5, backdrop_min=0.5)
    small = warp(image, warp_draws(size=0.0), warps)[0]
    assert (small[0] < 100).sum().item() == 64
    assert (small[0, 0] == 200).all()
    image[:, :, 16, 16] = 180
    red = warp(image, warp_draws(green=0.0, blue=0.0), warps)[0]
    assert red[:, 0, 0].tolist() == [200, 100, 100]
    assert red[:, 16, 16].tolist() == [180, 180, 180]  # inside the square: not background
    image[:, :, 0, 0] = 90
    assert torch.equal(warp(image, warp_draws(green=0.0), warps), image)  # no background: the corners differ
    image[:, :, 0, 0], image[:, :, 16, 16] = 200, 0
    turned = warp(image, warp_draws(angle=0.0), warps)[0, 0]
    assert turned[16, 7] < 100 < turned[9, 9]  # a square on its corner
    assert (turned < 100).sum().item() == pytest.approx(256, rel=0.05)


def test_only_warp_share_of_the_images_is_warped():
    images = torch.zeros((2, 3, 16, 16), dtype=torch.uint8)
    images[:, :, :8] = 250
    draws = np.concatenate([warp_draws(angle=0.0, chance=0.39), warp_draws(angle=0.0, chance=0.41)])
    warps = Warps(rotate_deg=90, share=0.4)
    warped = warp(images, draws, warps)
    assert (warped[0, 0, :, :7] != images[0, 0, :, :7]).any()
    assert torch.equal(warped[1], images[1])
