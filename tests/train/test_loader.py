"""The loader gives the plan's pairs with their images, for any world size, first step and broken images."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch

import trainings
from calls import before, calls_of
from small_world import COLOURS, TEXTS, write_world
from trainings import pairs_of, read
from worldclip.core.errors import UserError
from worldclip.model.decode import UNDECODABLE
from worldclip.train import loader as loaders
from worldclip.train.augment import Warps
from worldclip.train.config import TrainPoolConfig
from worldclip.train.distributed import World
from worldclip.train.loader import NEAR_REPLACEMENTS, Batch
from worldclip.train.plan import replacement


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


make_loader = functools.partial(trainings.make_loader, global_batch_size=10)


def loader_of(run_dir, broken=(), without_image=(), **options):
    """Write the small world and open its loader."""
    write_world(run_dir, broken=broken, without_image=without_image)
    return make_loader(run_dir, **options)


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert pairs_of(batch) == pairs_of(other)
        np.testing.assert_array_equal(batch.images.numpy(), other.images.numpy())
        np.testing.assert_array_equal(batch.tokens.ids, other.tokens.ids)
        assert batch.bad == other.bad


def test_each_epoch_has_each_pair_exactly_once_and_batches_span_epochs(run_dir):
    loader = loader_of(run_dir)
    assert loader.epoch_length == 72
    pairs = read(loader, 36)  # 360 pairs: 5 epochs
    expected = {(f"{n:05}", i) for n in range(24) for i in range(3)}
    epochs = [pairs[start : start + 72] for start in range(0, 360, 72)]
    assert all(set(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_windows_are_read_one_after_another(run_dir):
    loader = loader_of(run_dir, shuffle_shards=1)
    shards = [int(key) // 8 for key, _ in read(loader, 7)]
    assert sorted(set(shards[:24])) != [0, 1, 2]
    assert [len(set(shards[start : start + 24])) for start in (0, 24)] == [1, 1]


def test_batches_come_in_order_whatever_order_they_are_made_in(run_dir, monkeypatch):
    write_world(run_dir, broken={3, 11})
    loader = make_loader(run_dir, decode_threads=4)
    expected = [loader.batch(step) for step in range(8)]
    loader = make_loader(run_dir, decode_threads=4)
    is_made = [threading.Event() for _ in range(8)]
    make_batch, order = loader.batch, []

    def make_later_ones_first(step: int) -> Batch:
        batch = make_batch(step)
        if step % 2 == 0:
            assert is_made[step + 1].wait(60), "one batch at a time"
        order.append(step)
        is_made[step].set()
        return batch

    monkeypatch.setattr(loader, "batch", make_later_ones_first)
    batches = list(loader.batches(0, 8))
    assert order != sorted(order)
    assert_equal(expected, batches)


def test_batches_made_ahead_are_bounded_in_number_and_memory(run_dir, monkeypatch):
    loader = loader_of(run_dir, decode_threads=2)
    made = calls_of(monkeypatch.setattr, loader, "batch")
    batches = loader.batches(0, 1000)
    next(batches)
    deadline = time.monotonic() + 60
    while len(made) < loaders.BATCHES_AHEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    batches.close()
    assert len(made) in (loaders.BATCHES_AHEAD, loaders.BATCHES_AHEAD + 1)
    batch_bytes = 10 * 3 * 16 * 16
    for limit, expected in ((10 * batch_bytes, 10), (1, loaders.BATCHES_AT_ONCE), (1 << 40, loaders.BATCHES_AHEAD)):
        monkeypatch.setattr(loaders, "AHEAD_BYTES", limit)
        assert loader._num_ahead() == expected


def test_operations_of_loader_threads_use_one_thread_and_those_of_the_step_their_own(run_dir, monkeypatch):
    number = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loader = loader_of(run_dir, decode_threads=2)
        numbers = {"_image": set(), "_finish": set()}
        for name, seen in numbers.items():
            before(monkeypatch.setattr, loader, name, lambda *_, seen=seen: seen.add(torch.get_num_threads()))
        list(loader.batches(0, 2))
        assert numbers == {"_image": {1}, "_finish": {1}}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(number)


def test_batches_in_the_making_are_given_up_when_the_loop_stops(run_dir, monkeypatch):
    loader = loader_of(run_dir, decode_threads=2)
    before(monkeypatch.setattr, loader, "_image", lambda *_: time.sleep(0.01))
    reads = calls_of(monkeypatch.setattr, loader, "_image")
    batches = loader.batches(0, 1000)
    next(batches)
    num_read = len(reads)
    batches.close()
    assert len(reads) - num_read <= 2 * loaders.IMAGES_PER_TASK
    assert pairs_of(next(loader.batches(0, 1))) == pairs_of(loader.batch(0))


def test_images_match_their_texts(run_dir):
    loader = loader_of(run_dir)
    batch = loader.batch(3)
    for image, key, ids in zip(
        batch.images, batch.keys, np.split(batch.tokens.ids, batch.tokens.offsets[1:-1]), strict=True
    ):
        colour = list(COLOURS)[int(key) % 4]
        centre = image[:, 8, 8].numpy()
        assert np.abs(centre.astype(int) - COLOURS[colour]).max() < 12
        assert colour in trainings.tokenizer().hf.decode(ids)
    assert batch.langs == Counter(list(TEXTS)[i] for i in batch.text_idx)


def test_an_undecodable_image_is_replaced_and_counted(run_dir):
    loader = loader_of(run_dir, broken={5})
    whole = loader_of(run_dir.parent / "whole/run")
    bad: Counter[str] = Counter()
    num_changed = 0
    for step in range(7):
        batch, planned_batch = loader.batch(step), whole.batch(step)
        assert "00005" not in batch.keys
        for pair, planned in zip(pairs_of(batch), pairs_of(planned_batch), strict=True):
            num_changed += pair != planned
            assert pair == planned or planned[0] == "00005"
        bad += batch.bad.counts
    assert num_changed == 3 - pairs_of(whole.batch(7))[:2].count("00005")
    assert bad[UNDECODABLE] >= num_changed > 0


@pytest.mark.parametrize(
    ("broken", "shuffle_shards", "num_near", "range_of"),
    [
        # windows of two shards and of one
        (range(1, 24, 2), 2, 0, lambda position: (0, 48) if position < 48 else (48, 24)),
        # a window without any image: after the near draws, those of the whole epoch
        (range(8), 1, NEAR_REPLACEMENTS, lambda position: (0, 72)),
    ],
)
def test_a_replacement_is_the_first_drawn_pair_that_decodes(run_dir, broken, shuffle_shards, num_near, range_of):
    planned = read(loader_of(run_dir.parent / "whole/run", shuffle_shards=shuffle_shards), 8)
    pairs = read(loader_of(run_dir, broken=broken, shuffle_shards=shuffle_shards), 7)
    for position, pair in enumerate(pairs):
        start, length = range_of(position)
        expected, draw = planned[position], num_near
        while int(expected[0]) in broken:
            draw += 1
            expected = planned[start + replacement(position, draw, length, 1, 0)]
        assert pair == expected


def test_one_bad_image_reads_no_further_window(run_dir, monkeypatch):
    loader = loader_of(run_dir, broken={5, 13, 21}, shuffle_shards=1)
    reads = calls_of(monkeypatch.setattr, loader.source, "read_shard")
    read(loader, 7)
    assert sorted(reads) == [(shard, 0) for shard in range(3)]


def test_the_next_window_is_read_in_the_background(run_dir, monkeypatch):
    loader = loader_of(run_dir, shuffle_shards=1)
    readers = []
    before(monkeypatch.setattr, loader.source, "read_shard", lambda *_: readers.append(threading.current_thread().name))
    read(loader, 7)  # 70 of 72 pairs, in windows of 24
    assert [name.partition("_")[0] for name in readers] == [threading.current_thread().name, "window", "window"]


def test_a_pool_of_broken_images_is_an_error(run_dir):
    loader = loader_of(run_dir, broken=range(24))
    with pytest.raises(UserError, match="none of the 1000 images drawn to replace position 0 can be used"):
        next(iter(loader.batches(0, 1)))


def test_pairs_without_any_image_are_an_error(run_dir):
    with pytest.raises(UserError, match="contains no pair with an image"):
        loader_of(run_dir, without_image=range(24))
    with pytest.raises(UserError, match=r"train\.pool must hold images with these keys"):
        trainings.make_loader(run_dir, pool=TrainPoolConfig(path="images"))


def test_warps_depend_only_on_the_pair(run_dir):
    write_world(run_dir)
    loaders = [make_loader(run_dir) for _ in range(2)]
    for loader in loaders:
        loader.warps = Warps(rotate_deg=15, zoom_out_min=0.7, backdrop_min=0.5)
    first, second = (loader.batch(3) for loader in loaders)
    np.testing.assert_array_equal(first.images.numpy(), second.images.numpy())
    assert (first.images != make_loader(run_dir).batch(3).images).any()


@pytest.mark.parametrize(
    ("num_shards", "num_streams", "world_size", "expected"),
    [(3, 0, 1, 3), (128, 0, 8, 128), (400_000, 0, 384, 0), (400_000, 2_304, 384, 20), (400_000, 64, 1, 136)],
)
def test_only_shards_that_are_read_again_stay_in_memory(num_shards, num_streams, world_size, expected):
    assert loaders.shards_to_cache(num_shards, 64, num_streams, World(0, world_size)) == expected


@pytest.mark.parametrize(("shuffle_shards", "held"), [(1, 0), (2, 3)])  # windows of 1 of 3 shards: a large pool
def test_windows_of_a_large_pool_hold_no_shard_beside_the_window(run_dir, shuffle_shards, held):
    loader = loader_of(run_dir, shuffle_shards=shuffle_shards)
    read(loader, 7)
    assert loader.source._curated.cache_info().currsize == held
