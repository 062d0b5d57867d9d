"""The epoch's plan, against what DESIGN says in words."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip.core.coin import CROP, ORDER, uniform
from worldclip.train import plan

NAMES = [f"sub/{n:05}.tar" for n in range(7)]


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(0, 5))
def test_shards_stand_in_the_order_of_their_coin(seed, epoch):
    order = plan.shard_order(NAMES, seed, epoch)
    plain = sorted(range(len(NAMES)), key=lambda i: uniform(NAMES[i], 0, seed, epoch, ORDER))
    assert order.tolist() == plain


@settings(deadline=None)
@given(st.integers(1, 10))
def test_windows_hold_each_shard_once_in_order(shuffle_shards):
    order = plan.shard_order(NAMES, 0, 0)
    found = plan.windows(order, shuffle_shards)
    assert np.concatenate(found).tolist() == order.tolist()
    assert all(len(window) == shuffle_shards for window in found[:-1])
    assert 1 <= len(found[-1]) <= shuffle_shards


def test_pairs_of_a_window_stand_in_the_order_of_their_coin():
    keys, text_idx = ["a", "b", "a", "c"], np.array([0, 0, 1, 2])
    order = plan.pair_order(pa.array(keys), text_idx, 5, 2)
    plain = sorted(range(4), key=lambda i: uniform(keys[i], int(text_idx[i]), 5, 2, ORDER))
    assert order.tolist() == plain


def test_two_epochs_stand_in_different_orders():
    keys = pa.array([str(n) for n in range(50)])
    first, second = (plan.pair_order(keys, np.zeros(50, int), 0, epoch) for epoch in (0, 1))
    assert first.tolist() != second.tolist()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 9))
def test_ranks_of_any_world_size_share_a_batch_without_gap_or_overlap(batch, world_size, step):
    slices = [plan.batch_positions(step, batch, rank, world_size) for rank in range(world_size)]
    assert np.concatenate(slices).tolist() == list(range(step * batch, (step + 1) * batch))


@settings(deadline=None)
@given(st.integers(1, 13), st.integers(1, 5))
def test_batches_read_each_position_of_each_epoch_exactly_once(epoch_length, batch):
    positions = np.concatenate([plan.batch_positions(step, batch) for step in range(epoch_length)])  # `batch` epochs
    epochs, within = plan.locate(positions, epoch_length)
    assert epochs.tolist() == [epoch for epoch in range(batch) for _ in range(epoch_length)]
    assert within.tolist() == list(range(epoch_length)) * batch


def test_a_stand_in_is_drawn_from_the_same_epoch_by_the_coin():
    assert plan.replacement(7, 3, 100, 1, 2) == math.floor(uniform("7", 3, 1, 2, ORDER) * 100)
    assert {0 <= plan.replacement(7, draw, 10, 0, 0) < 10 for draw in range(1, 50)} == {True}


def test_crop_draws_depend_on_pair_seed_and_epoch_alone():
    keys, text_idx, epochs = ["a", "b", "a"], np.array([0, 0, 0]), np.array([0, 0, 1])
    draws = plan.crop_draws(keys, text_idx, 9, epochs)
    assert draws.shape == (3, plan.CROP_DRAWS + plan.WARP_DRAWS)
    assert ((draws >= 0) & (draws < 1)).all()
    np.testing.assert_array_equal(draws[1:], plan.crop_draws(keys[1:], text_idx[1:], 9, epochs[1:]))
    assert len(np.unique(draws)) == draws.size


def test_crop_draws_follow_the_coin_of_their_stream():
    (draws,) = plan.crop_draws(["k"], np.array([4]), 1, np.array([3]))
    h = (int(uniform("k", 4, 1, 3, CROP) * 2**53) + 1 + 0x9E3779B97F4A7C15) % 2**64
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    h = (h ^ h >> 27) * 0x94D049BB133111EB % 2**64
    assert draws[0] == ((h ^ h >> 31) >> 11) * 2.0**-53


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1), st.integers(0, 10**6))
def test_a_crop_lies_within_the_image(height, width, scale_min, key):
    (draws,) = plan.crop_draws([str(key)], np.array([0]), 0, np.array([0]))
    top, left, crop_height, crop_width = plan.crop_box(draws, height, width, scale_min)
    assert top >= 0
    assert left >= 0
    assert 1 <= crop_height <= height - top
    assert 1 <= crop_width <= width - left


def test_crops_cover_the_asked_share_of_the_area_at_the_asked_aspect():
    draws = plan.crop_draws([str(n) for n in range(500)], np.zeros(500, int), 0, np.zeros(500, int))
    boxes = np.array([plan.crop_box(row, 400, 400, 0.5) for row in draws])
    areas, aspects = boxes[:, 2] * boxes[:, 3] / 160_000, boxes[:, 3] / boxes[:, 2]
    assert areas.min() > 0.495
    assert areas.max() == pytest.approx(1, abs=0.05)
    assert areas.mean() == pytest.approx(0.72, abs=0.05)  # a little under 0.75: large ones fit less often
    assert aspects.min() > 0.74
    assert aspects.max() < 1.35
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.03)


def test_a_crop_that_never_fits_is_the_central_part():
    draws = np.full(plan.CROP_DRAWS, 0.999)
    assert plan.crop_box(draws, 10, 100, 0.9) == (0, 43, 10, 13)
    assert plan.crop_box(draws, 100, 10, 0.9) == (43, 0, 13, 10)


@settings(deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any))
def test_streams_are_read_round_robin_until_they_are_exhausted(lengths):
    waiting = [list(range(length)) for length in lengths]
    expected = []
    while any(waiting):
        expected += [(stream, left.pop(0)) for stream, left in enumerate(waiting) if left]
    stream, place = plan.locate_in_streams(np.arange(len(expected)), np.array(lengths))
    assert list(zip(stream.tolist(), place.tolist(), strict=True)) == expected


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_a_batch_evenly_and_mostly_by_their_own_streams(world_size):
    owner = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 1])
    shares = [plan.share_by_owner(owner, 6, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(12))
    assert {len(share) for share in shares} == {12 // world_size}
    of_first = set(owner[shares[0]].tolist())
    assert of_first == {1: {0, 1, 2, 3, 4, 5}, 2: {0, 1, 2}, 3: {0, 1}, 6: {0}}[world_size]


def test_neighbours_in_a_file_are_read_together():
    file, offset = np.array([1, 0, 0, 1, 0]), np.array([0, 100, 0, 500, 130])
    size = np.array([10, 20, 50, 10, 5])
    found, span_of = plan.spans(file, offset, size, 60)
    assert found.tolist() == [[0, 0, 135], [1, 0, 10], [1, 500, 510]]
    assert span_of.tolist() == [1, 0, 0, 2, 0]


def test_patches_are_drawn_from_the_hash_of_the_pair_and_epoch():
    keys, text_idx, epoch = [f"k{i}" for i in range(200)], np.zeros(200, np.int64), np.repeat([0, 1], 100)
    kept = plan.kept_patches(keys, text_idx, 3, epoch, 16, 0.25)
    assert kept.shape == (200, 12)
    assert all(len(set(row)) == 12 for row in kept.tolist())
    assert (np.diff(kept, axis=1) > 0).all()
    np.testing.assert_allclose(np.bincount(kept.ravel()) / 200, 0.75, atol=0.12)
    again = plan.kept_patches(keys[50:150], text_idx[50:150], 3, epoch[50:150], 16, 0.25)
    np.testing.assert_array_equal(again, kept[50:150])
    assert not np.array_equal(kept[:100], plan.kept_patches(keys[:100], text_idx[:100], 3, epoch[:100] + 1, 16, 0.25))
