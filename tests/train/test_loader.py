"""The loader gives the plan's pairs with their images, for any world size, first step and broken images."""

import functools
import struct
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

import small_world
import trainings
from calls import before, calls_of
from small_world import COLOURS, FORMS, TEXTS, write_world
from trainings import pairs_of, read
from worldclip.core.coin import CROP, uniform
from worldclip.core.errors import UserError
from worldclip.model.decode import UNDECODABLE
from worldclip.train import loader as loaders
from worldclip.train.augment import (
    CROP_DRAWS,
    WARP_DRAWS,
    crop_box,
    crop_draws,
    jitter,
    kept_patches,
    random_resized_crop,
    warp,
)
from worldclip.train.distributed import World
from worldclip.train.plan import replacement


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


make_loader = functools.partial(trainings.make_loader, global_batch_size=10)


def loader_of(run_dir, broken=(), without_image=(), per_shard=8, **options):
    """Write the small world and open its loader."""
    write_world(run_dir, broken=broken, without_image=without_image, per_shard=per_shard)
    return make_loader(run_dir, **options)


def test_windows_are_read_one_after_another_and_the_next_one_in_the_background(run_dir, monkeypatch):
    loader = loader_of(run_dir, shuffle_shards=1)
    readers = []
    before(monkeypatch.setattr, loader.source, "read_shard", lambda *_: readers.append(threading.current_thread().name))
    shards = [int(key) // 8 for key, _ in read(loader, 7)]  # 70 of 72 pairs, in windows of 24
    assert sorted(set(shards[:24])) != [0, 1, 2]
    assert [len(set(shards[start : start + 24])) for start in (0, 24)] == [1, 1]
    assert [name.partition("_")[0] for name in readers] == [threading.current_thread().name, "window", "window"]


def test_batches_come_in_order_whatever_order_they_are_made_in(run_dir, monkeypatch):
    write_world(run_dir, broken={3, 11})
    loader = make_loader(run_dir, decode_threads=4)
    expected = [loader.batch(step) for step in range(8)]
    loader = make_loader(run_dir, decode_threads=4)
    is_made = [threading.Event() for _ in range(8)]
    make_batch, order = loader.batch, []

    def make_later_ones_first(step):
        batch = make_batch(step)
        if step % 2 == 0:
            assert is_made[step + 1].wait(60), "one batch at a time"
        order.append(step)
        is_made[step].set()
        return batch

    monkeypatch.setattr(loader, "batch", make_later_ones_first)
    batches = list(loader.batches(0, 8))
    assert order != sorted(order)
    for batch, other in zip(expected, batches, strict=True):
        assert pairs_of(batch) == pairs_of(other)
        np.testing.assert_array_equal(batch.images.numpy(), other.images.numpy())
        np.testing.assert_array_equal(batch.tokens.ids, other.tokens.ids)
        assert batch.bad == other.bad


@pytest.mark.parametrize(
    ("limit", "num_ahead"),
    [(10 * 7_680, 10), (1, loaders.BATCHES_AT_ONCE), (1 << 40, loaders.BATCHES_AHEAD)],  # bytes of a batch's images
)
def test_batches_made_ahead_are_bounded_in_number_and_memory(run_dir, monkeypatch, limit, num_ahead):
    monkeypatch.setattr(loaders, "AHEAD_BYTES", limit)
    loader = loader_of(run_dir, decode_threads=2)
    made = calls_of(monkeypatch.setattr, loader, "batch")
    batches = loader.batches(0, 1000)
    next(batches)
    deadline = time.monotonic() + 60
    while len(made) < num_ahead and time.monotonic() < deadline:
        time.sleep(0.01)
    batches.close()
    assert len(made) in (num_ahead, num_ahead + 1)


def test_images_match_their_texts(run_dir):
    batch = loader_of(run_dir).batch(3)
    for image, key, ids in zip(
        batch.images, batch.keys, np.split(batch.tokens.ids, batch.tokens.offsets[1:-1]), strict=True
    ):
        colour = list(COLOURS)[int(key) % 4]
        centre = image[:, 8, 8].numpy()
        assert np.abs(centre.astype(int) - COLOURS[colour]).max() < 12
        assert colour in trainings.tokenizer().hf.decode(ids)
    assert batch.langs == Counter(list(TEXTS)[i] for i in batch.text_idx)


def test_images_of_one_size_at_one_place_of_several_tars_are_those_of_their_keys(run_dir, monkeypatch):
    """Decoded images are cached, and the tars of uncompressed ones have equal offsets."""
    header = b"BM" + struct.pack("<4I2i2H6I", 54 + 768, 0, 54, 40, 16, 16, 1, 24, 0, 0, 0, 0, 0, 0)

    def grey(colour, form):
        pair = (9 * list(COLOURS).index(colour) + 4 * FORMS.index(form)) % 12  # pair % 4 and pair % 3 decide these
        return header + bytes([20 * pair]) * 768

    monkeypatch.setattr(small_world, "picture", grey)
    loader = loader_of(run_dir, per_shard=4)
    for step in range(6):
        batch = loader.batch(step)
        assert [round(image.float().mean().item()) // 20 for image in batch.images] == list(map(int, batch.keys))


@pytest.mark.parametrize(
    ("broken", "shuffle_shards", "num_near", "range_of"),
    [
        # windows of two shards and of one
        (range(1, 24, 2), 2, 0, lambda position: (0, 48) if position < 48 else (48, 24)),
        # a window without any image: after the near draws, those of the whole epoch
        (range(8), 1, loaders.NEAR_REPLACEMENTS, lambda position: (0, 72)),
    ],
)
def test_an_undecodable_image_is_counted_and_replaced_by_the_first_drawn_pair_that_decodes(
    run_dir, broken, shuffle_shards, num_near, range_of
):
    whole = loader_of(run_dir.parent / "whole/run", shuffle_shards=shuffle_shards)
    undamaged = [whole.batch(step) for step in range(8)]
    planned = [pair for batch in undamaged for pair in pairs_of(batch)]
    images = dict(zip(planned[:72], torch.cat([batch.images for batch in undamaged]), strict=False))  # an epoch's
    loader = loader_of(run_dir, broken=broken, shuffle_shards=shuffle_shards)
    batches = [loader.batch(step) for step in range(7)]
    num_bad = 0
    for position, pair in enumerate(pair for batch in batches for pair in pairs_of(batch)):
        start, length = range_of(position)
        expected, draw = planned[position], num_near
        if int(expected[0]) in broken:
            num_bad += 1 + num_near
        while int(expected[0]) in broken:
            draw += 1
            expected = planned[start + replacement(position, draw, length, 1, 0)]
            num_bad += int(expected[0]) in broken
        assert pair == expected
    for batch in batches:
        for pair, image in zip(pairs_of(batch), batch.images, strict=True):
            assert torch.equal(image, images[pair]), "cropped as at its own position"
    assert sum((batch.bad.counts for batch in batches), Counter()) == {UNDECODABLE: num_bad}


def test_one_bad_image_reads_no_further_window(run_dir, monkeypatch):
    loader = loader_of(run_dir, broken={5, 13, 21}, shuffle_shards=1)
    reads = calls_of(monkeypatch.setattr, loader.source, "read_shard")
    read(loader, 7)
    assert sorted(reads) == [(shard, 0) for shard in range(3)]


def test_a_pool_without_any_usable_image_is_an_error(run_dir):
    with pytest.raises(UserError, match="none of the 1000 images drawn to replace position 0 can be used"):
        next(iter(loader_of(run_dir, broken=range(24)).batches(0, 1)))
    with pytest.raises(UserError, match=r"no pair with an image .*train\.pool"):
        loader_of(run_dir, without_image=range(24))


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
    assert loader.source._read.cache_info().currsize == held


# crops, warps and patch dropout: drawn from the hash of the pair


def test_crop_draws_are_splitmix64_of_the_hash_of_pair_seed_and_epoch():
    keys, text_idx, epochs = ["a", "b", "a"], np.array([4, 0, 4]), np.array([3, 0, 1])
    draws = crop_draws(keys, text_idx, 1, epochs)
    numbers = range(1, CROP_DRAWS + WARP_DRAWS + 1)
    pairs = zip(keys, text_idx, epochs, strict=True)
    assert draws.tolist() == [[plain_draw(*pair, number) for number in numbers] for pair in pairs]


def test_patches_that_stay_have_the_least_draws_from_number_2_to_the_32_on():
    kept = kept_patches(["b", "a"], np.array([0, 4]), 1, np.array([0, 3]), 9, 4)
    for row, pair in enumerate((("b", 0, 0), ("a", 4, 3))):
        draws = [plain_draw(*pair, 2**32 + patch) for patch in range(9)]
        assert kept[row].tolist() == sorted(sorted(range(9), key=draws.__getitem__)[:4])


def plain_draw(key, text_idx, epoch, number):
    """Return one draw of a pair under seed 1."""
    h = (int(uniform(key, text_idx, 1, epoch, CROP) * 2**53) + number + 0x9E3779B97F4A7C15) % 2**64
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    h = (h ^ h >> 27) * 0x94D049BB133111EB % 2**64
    return ((h ^ h >> 31) >> 11) * 2.0**-53


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1), st.integers(0, 10**6))
def test_a_crop_lies_within_the_image(height, width, scale_min, key):
    (draws,) = crop_draws([str(key)], np.array([0]), 0, np.array([0]))
    top, left, crop_height, crop_width = crop_box(draws, height, width, scale_min)
    assert top >= 0
    assert left >= 0
    assert 1 <= crop_height <= height - top
    assert 1 <= crop_width <= width - left


def test_crops_have_the_configured_areas_and_aspects_and_reach_every_edge():
    draws = crop_draws([str(n) for n in range(500)], np.zeros(500, int), 0, np.zeros(500, int))
    boxes = np.array([crop_box(row, 400, 400, 0.5) for row in draws])
    areas, aspects = boxes[:, 2] * boxes[:, 3] / 160_000, boxes[:, 3] / boxes[:, 2]
    assert areas.min() > 0.495
    assert areas.max() == pytest.approx(1, abs=0.05)
    assert areas.mean() == pytest.approx(0.72, abs=0.05)  # below 0.75: large crops fit less often
    assert aspects.min() > 0.74
    assert aspects.max() < 1.35
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.03)
    small = np.array([crop_box(row, 8, 8, 0.3) for row in draws])
    small = small[(small[:, 2] < 8) & (small[:, 3] < 8)]
    for start, length in ((0, 2), (1, 3)):
        assert small[:, start].min() == 0
        assert (small[:, start] + small[:, length]).max() == 8


def test_an_image_that_no_try_fits_is_cropped_at_its_centre():
    draws = np.full(CROP_DRAWS, 0.999)
    assert crop_box(draws, 10, 100, 0.9) == (0, 43, 10, 13)
    assert crop_box(draws, 100, 10, 0.9) == (43, 0, 13, 10)


def test_crops_equal_those_of_torchvision():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 50, 70), dtype=np.uint8))
    (draws,) = crop_draws(["k"], np.array([0]), 0, np.array([0]))
    box = crop_box(draws, 50, 70, 0.5)
    expected = resized_crop(image, *box, [24, 24], InterpolationMode.BICUBIC, antialias=True)
    np.testing.assert_array_equal(random_resized_crop(image, draws, 0.5, 24).numpy(), expected.numpy())


def warp_draws(**changes):
    """Return one row of draws.  Without changes: angle 0, the same size and colours, and a warp at any share."""
    row = np.zeros((1, CROP_DRAWS + WARP_DRAWS))
    neutral = {"angle": 0.5, "size": 1.0, "red": 1.0, "green": 1.0, "blue": 1.0, "chance": 0.0}
    row[0, CROP_DRAWS:] = list((neutral | changes).values())
    return row


def test_a_warp_rotates_shrinks_and_tints_the_background(monkeypatch):
    for name, value in {"ROTATE_DEG": 45, "ZOOM_OUT_MIN": 0.5, "BACKDROP_MIN": 0.5}.items():
        monkeypatch.setattr(f"worldclip.train.augment.{name}", value)
    image = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    image[:, :, 8:24, 8:24] = 0  # a black square of 16 pixels
    assert torch.equal(warp(image, warp_draws()), image)
    small = warp(image, warp_draws(size=0.0))[0]
    assert (small[0] < 100).sum().item() == 64
    assert (small[0, 0] == 200).all()
    image[:, :, 16, 16] = 180
    red = warp(image, warp_draws(green=0.0, blue=0.0))[0]
    assert red[:, 0, 0].tolist() == [200, 100, 100]
    assert red[:, 16, 16].tolist() == [180, 180, 180]  # inside the square: not background
    image[:, :, 0, 0] = 90
    assert torch.equal(warp(image, warp_draws(green=0.0)), image)  # no background: the corners differ
    image[:, :, 0, 0], image[:, :, 16, 16] = 200, 0
    turned = warp(image, warp_draws(angle=0.0))[0, 0]
    assert turned[16, 7] < 100 < turned[9, 9]  # a square on its corner
    assert (turned < 100).sum().item() == pytest.approx(256, rel=0.05)
    small_and_turned = warp(image, warp_draws(angle=0.0, size=0.0))[0, 0]
    assert (small_and_turned < 100).sum().item() == pytest.approx(64, rel=0.1)


def test_a_quarter_of_the_images_is_warped():
    images = torch.zeros((2, 3, 16, 16), dtype=torch.uint8)
    images[:, :, :8] = 250
    draws = np.concatenate([warp_draws(angle=0.0, chance=0.24), warp_draws(angle=0.0, chance=0.26)])
    warped = warp(images, draws)
    assert (warped[0, 0, :, :7] != images[0, 0, :, :7]).any()
    assert torch.equal(warped[1], images[1])


def plain_jitter(image, brightness, contrast, saturation, mirror):
    """Do as `jitter` for one image (3, S, S), pixel by pixel."""
    pixels = image[:, :, ::-1].astype(float) if mirror < 0.5 else image.astype(float)
    factors = [0.6 + 0.8 * draw for draw in (brightness, contrast, saturation)]
    pixels = pixels * factors[0]
    mean = np.tensordot([0.299, 0.587, 0.114], pixels, 1).mean()
    pixels = mean + factors[1] * (pixels - mean)
    grey = np.tensordot([0.299, 0.587, 0.114], pixels, 1)
    return (grey + factors[2] * (pixels - grey)).round().clip(0, 255)


def test_photographs_are_mirrored_and_recoloured():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    draws = random.random((6, CROP_DRAWS + WARP_DRAWS))
    changed = jitter(torch.from_numpy(images), draws)
    for image, numbers, result in zip(images, draws[:, CROP_DRAWS : CROP_DRAWS + 4], changed.numpy(), strict=True):
        np.testing.assert_allclose(result, plain_jitter(image, *numbers), atol=1)  # rounding of float32
    assert torch.equal(jitter(torch.from_numpy(images[2:4]), draws[2:4]), changed[2:4]), "the same in any batch"
    draws[:, CROP_DRAWS : CROP_DRAWS + 4] = 0.5
    assert torch.equal(jitter(torch.from_numpy(images), draws), torch.from_numpy(images))


@pytest.mark.parametrize("augment", ["drawings", "photos"])
def test_pairs_decide_how_their_images_are_augmented(run_dir, augment):
    write_world(run_dir)
    opened = [make_loader(run_dir, augment=name) for name in (augment, augment, "crop")]
    first, second, plain = (torch.cat([loader.batch(step).images for step in range(4)]) for loader in opened)
    assert torch.equal(first, second)
    assert (first != plain).any()
