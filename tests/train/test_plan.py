"""The plan of an epoch against its definition in words."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip.core.coin import ORDER, uniform
from worldclip.train import plan

NAMES = [f"sub/{n:05}.tar" for n in range(7)]


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(0, 5))
def test_shards_are_sorted_by_hash(seed, epoch):
    order = plan.shard_order(NAMES, seed, epoch)
    expected = sorted(range(len(NAMES)), key=lambda i: uniform(NAMES[i], 0, seed, epoch, ORDER))
    assert order.tolist() == expected


@settings(deadline=None)
@given(st.integers(1, 10))
def test_windows_contain_each_shard_once_in_order(shuffle_shards):
    order = plan.shard_order(NAMES, 0, 0)
    windows = plan.windows(order, shuffle_shards)
    assert np.concatenate(windows).tolist() == order.tolist()
    assert all(len(window) == shuffle_shards for window in windows[:-1])
    assert 1 <= len(windows[-1]) <= shuffle_shards


def test_pairs_of_a_window_are_sorted_by_hash():
    keys, text_idx = ["a", "b", "a", "c"], np.array([0, 0, 1, 2])
    order = plan.pair_order(pa.array(keys), text_idx, 5, 2)
    expected = sorted(range(4), key=lambda i: uniform(keys[i], int(text_idx[i]), 5, 2, ORDER))
    assert order.tolist() == expected


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 9))
def test_ranks_of_any_world_size_share_a_batch_without_gap_or_overlap(batch, world_size, step):
    slices = [plan.batch_positions(step, batch, rank, world_size) for rank in range(world_size)]
    assert np.concatenate(slices).tolist() == list(range(step * batch, (step + 1) * batch))


def test_a_replacement_is_drawn_by_hash():
    assert plan.replacement(7, 3, 100, 1, 2) == math.floor(uniform("7", 3, 1, 2, ORDER) * 100)
    assert {0 <= plan.replacement(7, draw, 10, 0, 0) < 10 for draw in range(1, 50)} == {True}


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
def test_ranks_share_a_batch_equally_and_mostly_read_their_own_streams(world_size):
    owner = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 1])
    shares = [plan.split_by_owner(owner, 6, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(12))
    assert {len(share) for share in shares} == {12 // world_size}
    owners_of_first = set(owner[shares[0]].tolist())
    assert owners_of_first == {1: {0, 1, 2, 3, 4, 5}, 2: {0, 1, 2}, 3: {0, 1}, 6: {0}}[world_size]


def test_neighbouring_ranges_of_a_file_are_merged():
    file, offset = np.array([1, 0, 0, 1, 0]), np.array([0, 100, 0, 500, 130])
    size = np.array([10, 20, 50, 10, 5])
    reads, read_of = plan.merge_ranges(file, offset, size, 60)
    assert reads.tolist() == [[0, 0, 135], [1, 0, 10], [1, 500, 510]]
    assert read_of.tolist() == [1, 0, 0, 2, 0]


def test_skipped_stretches_are_left_out_of_the_plan():
    stretches = ((5, 9), (9, 10), (20, 25))
    positions = np.concatenate([plan.skip(plan.batch_positions(step, 4), stretches) for step in range(6)])
    assert positions.tolist() == [n for n in range(34) if n not in {5, 6, 7, 8, 9, 20, 21, 22, 23, 24}]
