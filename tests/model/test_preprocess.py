"""Images become pixels exactly as in the library that the model comes from, on real photographs."""

from __future__ import annotations

import dataclasses
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, CLIPImageProcessor

import worldclip
from model_folders import edit, load_error
from pools import encode
from small_models import (
    random_model,
    random_open_clip,
    reduced_config,
    reduced_open_clip_config,
    save_tokenizer,
    save_xlm_v,
    write_open_clip_config,
)
from worldclip.core.errors import UserError
from worldclip.model import preprocess, published
from worldclip.model.formats.open_clip_folder import named_config, preprocessing

NUM_IMAGES = 40
CLIP_MEAN, CLIP_STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


@pytest.fixture(scope="module")
def photographs(shared) -> list[bytes]:
    """Return JPEGs of many sizes, all greyscale ones among them."""
    with tarfile.open(shared / "data" / "imagenet_samples" / "samples-000000.tar") as tar:
        files = [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]
    grey = [file for file in files if Image.open(io.BytesIO(file)).mode == "L"]
    return grey + files[:: len(files) // (NUM_IMAGES - len(grey))][: NUM_IMAGES - len(grey)]


def our_pixels(folder, photographs) -> np.ndarray:
    """Return the pixels that encode_image passes to the image tower."""
    clip = worldclip.load(folder, device="cpu")
    seen: list[np.ndarray] = []

    class RecordingBackend:
        embed_dim = 1

        def encode_pixels(self, pixels):
            seen.append(pixels.numpy())
            return np.zeros((len(pixels), 1), np.float32)

    dataclasses.replace(clip, backend=RecordingBackend()).encode_image(photographs)
    return np.concatenate(seen)


def opened(photographs):
    return [Image.open(io.BytesIO(file)) for file in photographs]


def save_hugging_face(folder: Path, size: int, mode: preprocess.Mode) -> None:
    row = published.find("metaclip-2-worldwide-huge-378")
    config = reduced_config(row, save_tokenizer(row, folder))
    config.vision_config.image_size = size
    random_model(config).save_pretrained(folder)
    preprocess.to_hugging_face(preprocess.Preprocess(size, mode, CLIP_MEAN, CLIP_STD)).save_pretrained(folder)


@pytest.mark.parametrize("size", [224, 378])
def test_hugging_face_folder_uses_its_own_processor(size, photographs, tmp_path):
    save_hugging_face(tmp_path, size, "shortest")
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(images=opened(photographs), return_tensors="np")[
        "pixel_values"
    ]
    np.testing.assert_array_equal(our_pixels(tmp_path, photographs), theirs)


@pytest.mark.parametrize(("name", "size", "mode"), [("", 224, "shortest"), ("-378", 378, "squash")])
def test_open_clip_checkpoint_uses_the_transform_of_open_clip(name, size, mode, photographs, tmp_path):
    save_xlm_v(tmp_path)
    vocab_size = len(worldclip.model.tokenizer.load_tokenizer(tmp_path, 77).hf)
    model_cfg = reduced_open_clip_config(f"ViT-H-14-worldwide{name}", vocab_size)
    model_cfg["vision_cfg"]["image_size"] = size
    save_file(random_open_clip(model_cfg).state_dict(), tmp_path / "open_clip_model.safetensors")
    write_open_clip_config(tmp_path, model_cfg, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", resize_mode=mode)
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    theirs = torch.stack([transform(image) for image in opened(photographs)]).numpy()
    np.testing.assert_array_equal(our_pixels(tmp_path, photographs), theirs)


def test_the_words_and_the_cache_key_of_the_usual_preprocessing_stay():
    squash = preprocess.Preprocess(28, "squash", (0.5,), (0.5,))
    assert repr(squash) == "Preprocess(size=28, mode='squash', mean=(0.5,), std=(0.5,))"
    for mode, resize, crop in (("squash", "28 x 28", "none"), ("shortest", "shortest edge 28", "central 28 x 28")):
        processor = preprocess.PerImage(lambda image: None, dataclasses.replace(squash, mode=mode))
        stated = preprocess.describe(processor, applies_exif=True)
        assert (stated["resize"], stated["crop"], stated["interpolation"]) == (resize, crop, "bicubic")


def test_a_bare_checkpoint_of_the_reference_is_cropped_at_every_size_as_open_clip_does_with_a_local_file():
    for row in published.FAMILY:
        if row.open_clip:
            facts = preprocessing(named_config(row.open_clip)["preprocess_cfg"], row.image_size).facts
            assert (facts.size, facts.mode, facts.mean) == (row.image_size, "shortest", CLIP_MEAN)
    tag = open_clip.get_pretrained_cfg("ViT-H-14-worldwide-378", "metaclip2_worldwide")
    assert tag["resize_mode"] == "squash", "the tag is of the hub's weights"


def turned_photograph() -> bytes:
    """Return a JPEG, 60 x 40, red above blue, whose EXIF orientation turns it by a quarter."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :, 0] = 255
    pixels[20:, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)


@pytest.fixture(scope="module")
def squashing_folder(tmp_path_factory):
    """Return a Hugging Face folder whose processor squashes, as 15 of the 16 published ones do."""
    folder = tmp_path_factory.mktemp("squashing")
    save_hugging_face(folder, 28, "squash")
    return folder


def test_reference_crops_and_ignores_exif_where_the_source_squashes_and_turns(squashing_folder):
    source = worldclip.load(squashing_folder, device="cpu")
    reference = worldclip.load(squashing_folder, device="cpu", preprocess="reference")
    size = reference.processor.facts.size
    assert source.preprocess["resize"] == f"{size} x {size}"
    assert (source.preprocess["crop"], source.preprocess["exif"]) == ("none", "applied")
    assert reference.preprocess == {
        "resize": f"shortest edge {size}",
        "crop": f"central {size} x {size}",
        "interpolation": "bicubic",
        "exif": "ignored",
        "implementation": "Pillow",
        "mean": [0.4815, 0.4578, 0.4082],
        "std": [0.2686, 0.2613, 0.2758],
    }
    photograph = turned_photograph()
    plain = Image.open(io.BytesIO(photograph)).convert("RGB")
    expected = reference.backend.encode_pixels(reference.processor(images=[plain])["pixel_values"])
    np.testing.assert_array_equal(reference.encode_image([photograph]), expected)
    stored = np.asarray(plain)
    turned = source.encode_image([np.rot90(stored, -1)])
    np.testing.assert_array_equal(source.encode_image([photograph]), turned)
    assert np.abs(source.encode_image([stored]) - turned).max() > 1e-3


def test_unknown_preprocess_is_refused(squashing_folder):
    assert "must be one of source, reference" in load_error(squashing_folder, preprocess="squash")


@pytest.mark.parametrize("sides", [(500, 333), (333, 500), (100, 100), (378, 379), (900, 378), (64, 2000), (379, 377)])
def test_reference_gives_the_pixels_of_open_clip_at_any_size(sides):
    pixels = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)
    image = Image.fromarray(pixels)
    for size in (28, 224, 378):
        config = open_clip.transform.PreprocessCfg(size=size)
        theirs = open_clip.transform.image_transform_v2(config, is_train=False)(image)
        squash = preprocess.Preprocess(size, "squash", CLIP_MEAN, CLIP_STD)
        processor = CLIPImageProcessor(size={"shortest_edge": 2 * size}, crop_size={"height": size, "width": size})
        for source in (processor, preprocess.PerImage(lambda image: None, squash)):
            ours = preprocess.reference(source)(images=[image])["pixel_values"][0]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_facts_survive_a_round_trip_through_each_library(mode):
    facts = preprocess.Preprocess(28, mode, CLIP_MEAN, CLIP_STD)
    assert preprocess.facts_of(preprocess.to_hugging_face(facts)) == facts
    assert preprocessing(preprocess.to_open_clip(facts), 28).facts == facts


@pytest.mark.parametrize("one", [0.5, [0.5]])
def test_one_mean_of_all_channels_is_written_as_three(one):
    """transformers accept it; other libraries want a number per channel."""
    processor = CLIPImageProcessor(image_mean=one, image_std=one)
    facts = preprocess.facts_of(processor)
    assert (facts.mean, facts.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert preprocess.describe(processor, applies_exif=False)["mean"] == [0.5, 0.5, 0.5]
    assert preprocess.reference(processor).facts.mean == (0.5, 0.5, 0.5)


def test_preprocess_cfg_with_null_has_the_defaults_of_open_clip_and_another_mode_is_refused():
    facts = preprocessing({"mean": None, "std": None, "mode": "RGB"}, 28).facts
    assert (facts.mean, facts.std) == (tuple(CLIP_MEAN), tuple(CLIP_STD))
    with pytest.raises(UserError, match="mode 'L'; models of this family see 'RGB'"):
        preprocessing({"mode": "L"}, 28)


def test_processor_that_other_libraries_cannot_express_is_refused():
    with pytest.raises(ValueError, match="only a bicubic resize"):
        preprocess.facts_of(CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 28, "width": 28}))
    with pytest.raises(ValueError, match="only a bicubic resize"):
        preprocess.facts_of(CLIPImageProcessor(resample=2))


def test_square_that_is_cropped_is_read_by_its_own_processor_and_not_exported(squashing_folder, tmp_path):
    folder = Path(shutil.copytree(squashing_folder, tmp_path / "cropped"))
    edit(
        folder / "preprocessor_config.json",
        size={"height": 32, "width": 32},
        do_center_crop=True,
        crop_size={"height": 28, "width": 28},
    )
    clip = worldclip.load(folder, device="cpu")
    assert (clip.preprocess["resize"], clip.preprocess["crop"]) == ("32 x 32", "central 28 x 28")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    theirs = AutoImageProcessor.from_pretrained(folder)(images=[picture], return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(clip.encode_image(picture), clip.backend.encode_pixels(theirs))
    with pytest.raises(UserError, match="only a bicubic resize to one size"):
        preprocess.facts_of(clip.processor)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_squares_made_one_by_one_are_those_of_hugging_face(mode):
    facts = preprocess.Preprocess(32, mode, CLIP_MEAN, CLIP_STD)
    processor = preprocess.to_hugging_face(facts)
    shapes = [(32, 32), (33, 47), (47, 33), (31, 200), (64, 64), (5, 9), (100, 32)]
    images = [np.random.default_rng(n).integers(0, 256, (*shape, 3), np.uint8) for n, shape in enumerate(shapes)]
    to_square = preprocess.square_of(processor)
    squares = torch.stack([to_square(image) for image in images])
    assert squares.dtype == torch.uint8
    theirs = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
    assert torch.equal(preprocess.normalise_squares(squares, facts), theirs)


def test_processors_of_other_steps_make_their_own_batches():
    facts = preprocess.Preprocess(32, "shortest", CLIP_MEAN, CLIP_STD)
    processor = preprocess.to_hugging_face(facts)
    assert preprocess.square_of(processor) is not None
    processor.do_normalize = False
    assert preprocess.square_of(processor) is None
    assert preprocess.square_of(preprocess.reference(processor)) is None
