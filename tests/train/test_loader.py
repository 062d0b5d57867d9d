"""The loader: the plan's pairs with their images, whatever the ranks, the step it starts at, and the bad images."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest

from small_world import COLOURS, FORMS, TEXTS, make_recipe, write_world
from worldclip import pool
from worldclip.core.errors import UserError
from worldclip.model.tokenizer import train_tokenizer
from worldclip.train.decode import BOMB, UNDECODABLE, Augmentation, BadImage, decode, random_resized_crop, warp
from worldclip.train.loader import Loader


@pytest.fixture(scope="module")
def tokenizer():
    words = [text.format(colour, form) for text in TEXTS.values() for colour in COLOURS for form in FORMS]
    return train_tokenizer(words, vocab_size=100, context_length=40)


def make_loader(run_dir, tars, tokenizer, **changes):
    settings = {"image_size": 16, "global_batch_size": 10, "seed": 1, "shuffle_shards": 2}
    settings["augmentation"] = Augmentation(crop_scale_min=0.9)
    return Loader(run_dir, pool.shards(make_recipe(tars), run_dir), tokenizer, **(settings | changes))


def pairs_of(batch):
    return list(zip(batch.keys, batch.text_idx.tolist(), strict=True))


def test_each_epoch_holds_each_pair_exactly_once_and_batches_span_epochs(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer)
    assert loader.epoch_length == 72
    read = [pair for step in range(36) for pair in pairs_of(loader.batch(step))]  # 360 pairs: 5 epochs
    expected = {(f"{n:05}", i) for n in range(24) for i in range(3)}
    epochs = [read[start : start + 72] for start in range(0, 360, 72)]
    assert all(set(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_window_is_read_before_the_next_one(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer, shuffle_shards=1)
    shards = [int(key) // 8 for step in range(7) for key in loader.batch(step).keys]
    assert sorted(set(shards[:24])) != [0, 1, 2]
    assert [len(set(shards[start : start + 24])) for start in (0, 24)] == [1, 1]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_read_what_one_process_reads(tmp_path, tokenizer, world_size):
    tars = write_world(tmp_path / "run")
    alone = make_loader(tmp_path / "run", tars, tokenizer)
    ranks = [
        make_loader(tmp_path / "run", tars, tokenizer, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for step in (0, 7, 8):
        together = [pair for loader in ranks for pair in pairs_of(loader.batch(step))]
        assert together == pairs_of(alone.batch(step))


def test_a_batch_is_the_same_when_the_loader_starts_there(tmp_path, tokenizer):
    tars = write_world(tmp_path / "run", broken={3, 11})
    walked = list(make_loader(tmp_path / "run", tars, tokenizer).batches(0, 12))
    resumed = list(make_loader(tmp_path / "run", tars, tokenizer).batches(9, 12))
    for before, after in zip(walked[9:], resumed, strict=True):
        assert pairs_of(before) == pairs_of(after)
        np.testing.assert_array_equal(before.images.numpy(), after.images.numpy())
        np.testing.assert_array_equal(before.tokens.ids, after.tokens.ids)
        assert before.bad == after.bad


def test_images_belong_to_their_texts(tmp_path, tokenizer):
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


def test_kept_keys_without_an_image_are_counted_and_absent(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run", without_image={2, 20}), tokenizer)
    assert loader.num_without_image == 6
    assert loader.epoch_length == 66
    read = {key for step in range(7) for key in loader.batch(step).keys}
    assert read.isdisjoint({"00002", "00020"})


def test_an_undecodable_image_is_replaced_counted_and_named(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run", broken={5}), tokenizer)
    whole = make_loader(tmp_path / "run", write_world(tmp_path / "run"), tokenizer)
    bad: Counter[str] = Counter()
    num_changed = 0
    for step in range(7):
        batch, wanted = loader.batch(step), whole.batch(step)
        assert "00005" not in batch.keys
        for pair, planned in zip(pairs_of(batch), pairs_of(wanted), strict=True):
            num_changed += pair != planned
            assert pair == planned or planned[0] == "00005"
        bad += batch.bad
    assert num_changed == 3 - pairs_of(whole.batch(7))[:2].count("00005")
    assert bad[UNDECODABLE] >= num_changed > 0


def test_the_stand_in_is_the_first_that_decodes_of_those_drawn(tmp_path, tokenizer):
    from worldclip.train.plan import replacement

    tars = write_world(tmp_path / "run")
    whole = [pair for step in range(8) for pair in pairs_of(make_loader(tmp_path / "run", tars, tokenizer).batch(step))]
    broken = {n for n in range(24) if n % 2}
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run", broken=broken), tokenizer)
    found = [pair for step in range(7) for pair in pairs_of(loader.batch(step))]
    for position, pair in enumerate(found):
        expected, draw = whole[position], 0
        while int(expected[0]) in broken:
            draw += 1
            expected = whole[replacement(position, draw, 72, 1, 0)]
        assert pair == expected


def test_a_pool_whose_images_are_all_broken_is_an_error_that_says_so(tmp_path, tokenizer):
    loader = make_loader(tmp_path / "run", write_world(tmp_path / "run", broken=range(24)), tokenizer)
    with pytest.raises(UserError, match="decodes"):
        next(iter(loader.batches(0, 1)))


def test_nothing_to_train_on_is_an_error(tmp_path, tokenizer):
    tars = write_world(tmp_path / "run", without_image=range(24))
    with pytest.raises(UserError, match="holds no pair with an image"):
        make_loader(tmp_path / "run", tars, tokenizer)


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "WEBP")]
)
def test_images_of_any_mode_become_three_channels(mode, kind):
    from PIL import Image

    image = Image.new("RGB", (20, 10), (200, 100, 50)).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(save(image, kind, **options))
    assert found.shape == (3, 10, 20)
    expected = np.array(image.convert("RGB"))[5, 5].astype(int)
    assert np.abs(found[:, 5, 5].numpy().astype(int) - expected).max() <= 4


def test_16_bit_png_keeps_its_brightness():
    from PIL import Image

    data = save(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG")
    assert decode(data)[0, 4, 4].item() == pytest.approx(40_000 / 257, abs=1)


def test_a_photograph_lying_on_its_side_is_put_upright():
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right
    assert decode(save(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).shape == (3, 20, 10)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_bytes_that_are_no_image_say_so(data):
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.reason == UNDECODABLE


def test_a_truncated_image_is_undecodable():
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = save(Image.fromarray(noise), "PNG")
    with pytest.raises(BadImage):
        decode(data[: len(data) // 3])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_found_before_it_is_unpacked(side):
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(BadImage) as caught:
        decode(bomb)
    assert caught.value.reason == BOMB


def test_the_crop_is_torchvisions():
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resized_crop

    from worldclip.train.plan import crop_box, crop_draws

    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 50, 70), dtype=np.uint8))
    (draws,) = crop_draws(["k"], np.array([0]), 0, np.array([0]))
    box = crop_box(draws, 50, 70, 0.5)
    expected = resized_crop(image, *box, [24, 24], InterpolationMode.BICUBIC, antialias=True)
    np.testing.assert_array_equal(random_resized_crop(image, draws, 0.5, 24).numpy(), expected.numpy())


def warp_draws(**named: float) -> np.ndarray:
    """One row of draws; 0.5 leaves the angle at 0, 1 leaves size and colours, chance 0 is under every share."""
    from worldclip.train.plan import CROP_DRAWS, WARP_DRAWS

    row = np.zeros((1, CROP_DRAWS + WARP_DRAWS))
    neutral = {"angle": 0.5, "size": 1.0, "red": 1.0, "green": 1.0, "blue": 1.0, "chance": 0.0}
    row[0, CROP_DRAWS:] = list((neutral | named).values())
    return row


def test_a_warp_that_draws_nothing_changes_nothing():
    import torch

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8))
    how = Augmentation(crop_scale_min=0.9, rotate_deg=30, zoom_out_min=0.5, backdrop_min=0.5)
    np.testing.assert_array_equal(warp(images, warp_draws(), how).numpy(), images.numpy())
    assert not Augmentation(crop_scale_min=0.9).warps


def test_a_warp_turns_shrinks_and_colours_the_background_as_drawn():
    import torch

    image = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    image[:, :, 8:24, 8:24] = 0  # a black square of 16 pixels
    how = Augmentation(crop_scale_min=0.9, rotate_deg=45, zoom_out_min=0.5, backdrop_min=0.5)
    small = warp(image, warp_draws(size=0.0), how)[0]
    assert (small[0] < 100).sum().item() == 64
    assert (small[0, 0] == 200).all()
    image[:, :, 16, 16] = 180
    red = warp(image, warp_draws(green=0.0, blue=0.0), how)[0]
    assert red[:, 0, 0].tolist() == [200, 100, 100]
    assert red[:, 16, 16].tolist() == [180, 180, 180]  # inside the square: not background
    image[:, :, 0, 0] = 90
    np.testing.assert_array_equal(warp(image, warp_draws(green=0.0), how).numpy(), image.numpy())  # none to be seen
    image[:, :, 0, 0], image[:, :, 16, 16] = 200, 0
    turned = warp(image, warp_draws(angle=0.0), how)[0, 0]
    assert turned[16, 7] < 100 < turned[9, 9]  # a square on its corner
    assert (turned < 100).sum().item() == pytest.approx(256, rel=0.05)


def test_only_a_share_of_the_images_is_warped():
    import torch

    images = torch.zeros((2, 3, 16, 16), dtype=torch.uint8)
    images[:, :, :8] = 250
    draws = np.concatenate([warp_draws(angle=0.0, chance=0.39), warp_draws(angle=0.0, chance=0.41)])
    how = Augmentation(crop_scale_min=0.9, rotate_deg=90, warp_share=0.4)
    warped = warp(images, draws, how)
    assert (warped[0, 0, :, :7] != images[0, 0, :, :7]).any()
    np.testing.assert_array_equal(warped[1].numpy(), images[1].numpy())


def test_warps_depend_on_the_pair_alone(tmp_path, tokenizer):
    how = Augmentation(crop_scale_min=0.9, rotate_deg=15, zoom_out_min=0.7, backdrop_min=0.5)
    tars = write_world(tmp_path / "run")
    first, second = (make_loader(tmp_path / "run", tars, tokenizer, augmentation=how).batch(3) for _ in range(2))
    np.testing.assert_array_equal(first.images.numpy(), second.images.numpy())
    assert (first.images != make_loader(tmp_path / "run", tars, tokenizer).batch(3).images).any()
