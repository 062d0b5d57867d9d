"""The loader gives the plan's pairs with their images, for any world size, first step and broken images."""

from __future__ import annotations

import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch

from small_world import COLOURS, FORMS, TEXTS, make_recipe, write_world
from stages import context
from worldclip import pool
from worldclip.core.errors import UserError
from worldclip.model.config import ModelConfig
from worldclip.model.decode import UNDECODABLE
from worldclip.model.tokenizer import train_tokenizer
from worldclip.train import loader as loaders
from worldclip.train.augment import Augmentation
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.loader import NEAR_REPLACEMENTS, Batch, Loader
from worldclip.train.pairs import Pairs
from worldclip.train.plan import replacement


@pytest.fixture(scope="module")
def tokenizer():
    words = [text.format(colour, form) for text in TEXTS.values() for colour in COLOURS for form in FORMS]
    return train_tokenizer(words, vocab_size=100, context_length=40)


def make_loader(run_dir, tars, tokenizer, *, rank=0, world_size=1, **changes):
    model = ModelConfig(preset="tiny", image_size=16)
    config = TrainConfig(**{"model": model, "seed": 1, "shuffle_shards": 2, "crop_scale_min": 0.9} | changes)
    shards = pool.shards(context(make_recipe(tars), run_dir))
    world = World(rank, world_size)
    return Loader(run_dir, shards, tokenizer, config, global_batch_size=10, world=world)


def pairs_of(batch):
    return list(zip(batch.keys, batch.text_idx.tolist(), strict=True))


def test_each_epoch_has_each_pair_exactly_once_and_batches_span_epochs(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer)
    assert loader.epoch_length == 72
    read = [pair for step in range(36) for pair in pairs_of(loader.batch(step))]  # 360 pairs: 5 epochs
    expected = {(f"{n:05}", i) for n in range(24) for i in range(3)}
    epochs = [read[start : start + 72] for start in range(0, 360, 72)]
    assert all(set(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_windows_are_read_one_after_another(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer, shuffle_shards=1)
    shards = [int(key) // 8 for step in range(7) for key in loader.batch(step).keys]
    assert sorted(set(shards[:24])) != [0, 1, 2]
    assert [len(set(shards[start : start + 24])) for start in (0, 24)] == [1, 1]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_read_what_one_rank_reads(tmp_path, tokenizer, world_size):
    tars = write_world(tmp_path / "run")
    alone = make_loader(tmp_path / "run", tars, tokenizer)
    ranks = [
        make_loader(tmp_path / "run", tars, tokenizer, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for step in (0, 7, 8):
        together = [pair for loader in ranks for pair in pairs_of(loader.batch(step))]
        assert together == pairs_of(alone.batch(step))


def test_a_batch_does_not_depend_on_the_first_step(tmp_path, tokenizer):
    tars = write_world(tmp_path / "run", broken={3, 11})
    from_start = list(make_loader(tmp_path / "run", tars, tokenizer).batches(0, 12))
    resumed = list(make_loader(tmp_path / "run", tars, tokenizer).batches(9, 12))
    for before, after in zip(from_start[9:], resumed, strict=True):
        assert pairs_of(before) == pairs_of(after)
        np.testing.assert_array_equal(before.images.numpy(), after.images.numpy())
        np.testing.assert_array_equal(before.tokens.ids, after.tokens.ids)
        assert before.bad == after.bad


def test_batches_come_in_order_whatever_order_they_are_made_in(tmp_path, tokenizer, monkeypatch):
    tars = write_world(tmp_path / "run", broken={3, 11})
    loader = make_loader(tmp_path / "run", tars, tokenizer, decode_threads=4)
    expected = [loader.batch(step) for step in range(8)]
    loader = make_loader(tmp_path / "run", tars, tokenizer, decode_threads=4)
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
    for before, after in zip(expected, batches, strict=True):
        assert pairs_of(before) == pairs_of(after)
        np.testing.assert_array_equal(before.images.numpy(), after.images.numpy())
        np.testing.assert_array_equal(before.tokens.ids, after.tokens.ids)
        assert before.bad == after.bad


def test_batches_made_ahead_are_bounded_in_number_and_memory(tmp_path, tokenizer, monkeypatch):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer, decode_threads=2)
    made = []
    make_batch = loader.batch
    monkeypatch.setattr(loader, "batch", lambda step: made.append(step) or make_batch(step))
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


def test_operations_of_loader_threads_use_one_thread_and_those_of_the_step_their_own(tmp_path, tokenizer, monkeypatch):
    number = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loader = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer, decode_threads=2)
        seen = []
        for name in ("_image", "_finish"):
            inner = getattr(loader, name)
            monkeypatch.setattr(
                loader, name, lambda *a, name=name, f=inner: seen.append((name, torch.get_num_threads())) or f(*a)
            )
        list(loader.batches(0, 2))
        assert {*seen} == {("_image", 1), ("_finish", 1)}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(number)


def test_batches_in_the_making_are_given_up_when_the_loop_stops(tmp_path, tokenizer, monkeypatch):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer, decode_threads=2)
    num_read = []
    read = loader._image

    def slowly(*place):
        num_read.append(1)
        time.sleep(0.01)
        return read(*place)

    monkeypatch.setattr(loader, "_image", slowly)
    batches = loader.batches(0, 1000)
    next(batches)
    before = len(num_read)
    batches.close()
    assert len(num_read) - before <= 2 * loaders.IMAGES_PER_TASK
    assert pairs_of(next(loader.batches(0, 1))) == pairs_of(loader.batch(0))


def test_images_match_their_texts(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer)
    batch = loader.batch(3)
    for image, key, ids in zip(
        batch.images, batch.keys, np.split(batch.tokens.ids, batch.tokens.offsets[1:-1]), strict=True
    ):
        colour = list(COLOURS)[int(key) % 4]
        centre = image[:, 8, 8].numpy()
        assert np.abs(centre.astype(int) - COLOURS[colour]).max() < 12
        assert colour in tokenizer.hf.decode(ids)
    assert batch.langs == Counter(list(TEXTS)[i] for i in batch.text_idx)


def test_kept_keys_without_an_image_are_counted_and_left_out(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run", without_image={2, 20}), tokenizer)
    assert loader.num_without_image == 6
    assert loader.epoch_length == 66
    read = {key for step in range(7) for key in loader.batch(step).keys}
    assert read.isdisjoint({"00002", "00020"})


def test_an_undecodable_image_is_replaced_and_counted(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run", broken={5}), tokenizer)
    whole = make_loader(tmp_path / "whole/run", write_world(tmp_path / "whole/run"), tokenizer)
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


def test_a_replacement_is_the_first_drawn_pair_of_its_window_that_decodes(tmp_path, tokenizer):
    tars = write_world(tmp_path / "run")
    whole = [pair for step in range(8) for pair in pairs_of(make_loader(tmp_path / "run", tars, tokenizer).batch(step))]
    broken = {n for n in range(24) if n % 2}
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run", broken=broken), tokenizer)
    read = [pair for step in range(7) for pair in pairs_of(loader.batch(step))]
    for position, pair in enumerate(read):
        start, length = (0, 48) if position < 48 else (48, 24)  # windows of two shards and of one
        expected, draw = whole[position], 0
        while int(expected[0]) in broken:
            draw += 1
            expected = whole[start + replacement(position, draw, length, 1, 0)]
        assert pair == expected


def test_one_bad_image_reads_no_further_window(tmp_path, tokenizer, monkeypatch):
    loader = make_loader(
        tmp_path / "run", write_world(tmp_path / "run", broken={5, 13, 21}), tokenizer, shuffle_shards=1
    )
    read = []
    read_shard = loader.source.read_shard
    monkeypatch.setattr(
        loader.source, "read_shard", lambda shard, epoch: read.append(shard) or read_shard(shard, epoch)
    )
    for step in range(7):
        loader.batch(step)
    assert sorted(read) == [0, 1, 2]


def test_the_next_window_is_read_in_the_background(tmp_path, tokenizer, monkeypatch):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer, shuffle_shards=1)
    readers = []
    read_shard = loader.source.read_shard

    def noted(shard: int, epoch: int) -> Pairs:
        readers.append(threading.current_thread().name.partition("_")[0])
        return read_shard(shard, epoch)

    monkeypatch.setattr(loader.source, "read_shard", noted)
    for step in range(7):  # 70 of 72 pairs, in windows of 24
        loader.batch(step)
    assert readers == [threading.current_thread().name, "window", "window"]


def test_a_window_without_any_image_is_replaced_from_the_whole_epoch(tmp_path, tokenizer):
    whole = make_loader(tmp_path / "whole/run", write_world(tmp_path / "whole/run"), tokenizer, shuffle_shards=1)
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run", broken=range(8)), tokenizer, shuffle_shards=1)
    planned = [pair for step in range(8) for pair in pairs_of(whole.batch(step))]
    read = [pair for step in range(7) for pair in pairs_of(loader.batch(step))]
    for position, pair in enumerate(read):
        expected, draw = planned[position], NEAR_REPLACEMENTS
        while int(expected[0]) < 8:
            draw += 1
            expected = planned[replacement(position, draw, 72, 1, 0)]
        assert pair == expected


def test_a_pool_of_broken_images_is_an_error(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run", broken=range(24)), tokenizer)
    with pytest.raises(UserError, match="none of the 1000 images drawn to replace position 0 can be used"):
        next(iter(loader.batches(0, 1)))


def test_pairs_without_any_image_are_an_error(tmp_path, tokenizer):
    tars = write_world(tmp_path / "run", without_image=range(24))
    with pytest.raises(UserError, match="contains no pair with an image"):
        make_loader(tmp_path / "run", tars, tokenizer)


def test_warps_depend_only_on_the_pair(tmp_path, tokenizer):
    augmentation = Augmentation(crop_scale_min=0.9, rotate_deg=15, zoom_out_min=0.7, backdrop_min=0.5)
    tars = write_world(tmp_path / "run")
    loaders = [make_loader(tmp_path / "run", tars, tokenizer) for _ in range(2)]
    for loader in loaders:
        loader.augmentation = augmentation
    first, second = (loader.batch(3) for loader in loaders)
    np.testing.assert_array_equal(first.images.numpy(), second.images.numpy())
    assert (first.images != make_loader(tmp_path / "run", tars, tokenizer).batch(3).images).any()
