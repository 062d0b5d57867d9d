"""A loaded model takes any mix of images and gives plain transformers' numbers; pixels are those of its library."""

import dataclasses
import io
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, CLIPImageProcessor

import worldclip
from model_folders import edit, load_error
from model_folders import folder as folder  # the fixture
from pools import encode
from small_models import random_open_clip, reduced_open_clip_config, save_xlm_v, write_open_clip_config
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.model import inference, preprocess, published
from worldclip.model.formats.open_clip_folder import named_config, preprocessing
from worldclip.model.inference import probabilities
from worldclip.model.sample_inputs import images as sample_images

LABELS = ["a red circle", "ein blaues Haus", "红色圆形", "دائرة حمراء", "a", ""]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_images_of_all_kinds_embed_alike(clip, pixels, tmp_path):
    path = save(tmp_path / "a.png", pixels)
    kinds = [
        path,
        str(path),
        path.read_bytes(),
        pixels,
        Image.fromarray(pixels),
        Image.fromarray(pixels).convert("RGBA"),
    ]
    features = clip.encode_image(kinds)
    assert features.shape == (6, 48)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    for row in features[1:]:
        np.testing.assert_allclose(row, features[0], atol=1e-6)
    np.testing.assert_allclose(clip.encode_image(path), features[:1], atol=1e-6)
    np.testing.assert_allclose(clip.encode_image(pixels), features[:1], atol=1e-6)
    np.testing.assert_allclose(clip.encode_image(np.stack([pixels] * 2)), features[:2], atol=1e-6)


def test_all_unusable_images_are_named(clip, pixels, tmp_path):
    (tmp_path / "no.png").write_bytes(b"not an image")
    truncated = save(tmp_path / "a.png", pixels).read_bytes()[:500]
    url = "http://example.org/a.png"
    images = [tmp_path / "no.png", pixels, pixels.astype(float), url, tmp_path / "missing.png", 7, truncated]
    images += [pixels.transpose(2, 0, 1), np.zeros((0, 4), np.uint8)]
    with pytest.raises(UserError) as caught:
        clip.encode_image(images)
    said = caught.value.problems
    assert len(said) == 8
    assert said[0].endswith("no.png: is not an image that can be decoded (no known image format)")
    assert "float64" in said[1]
    assert "is a URL" in said[2]
    assert said[3].endswith("does not exist")
    assert "image 5: has the type int" in said[4]
    assert said[5].startswith("image 6: is not an image that can be decoded")
    assert "array.transpose(1, 2, 0)" in said[6]
    assert "is an array (0, 4)" in said[7]
    for image in (io.BytesIO(truncated), torch.zeros(3, 48, 48)):  # one image, not as many as it has lines or planes
        with pytest.raises(UserError, match=f"^image 0: has the type {type(image).__name__}; give a path"):
            clip.encode_image(image)


def test_what_is_no_text_and_batches_of_nothing_are_refused(clip, pixels):
    with pytest.raises(UserError) as caught:
        clip.encode_text(["fine", "a\ud800", 1, None])
    assert caught.value.problems == [
        "text 1: 'a\\ud800' is not valid Unicode (a lone surrogate)",
        "text 2: has the type int; give a str",
        "text 3: has the type NoneType; give a str",
    ]
    for embed, things in ((clip.encode_image, [pixels]), (clip.encode_text, ["a"])):
        assert embed([]).shape == (0, 48)
        for batch_size in (0, -1):
            with pytest.raises(UserError, match=f"batch_size = {batch_size}: must be at least 1"):
                embed(things, batch_size=batch_size)


def test_a_label_is_the_mean_over_its_templates_and_probabilities_a_softmax(clip, pixels):
    labels, images, templates = ["cat", "Katze", "dog"], [pixels, pixels[::-1].copy()], ("a photo of {}", "{}")
    sentences = [[template.format(label) for template in templates] for label in labels]
    means = np.stack([clip.encode_text(texts).mean(axis=0) for texts in sentences])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(clip.encode_labels(labels, templates), means, atol=1e-6)
    np.testing.assert_array_equal(clip.encode_labels(["cat"], "a {}"), clip.encode_labels(["cat"], ("a {}",)))
    cosines = clip.encode_image(images) @ clip.encode_text(LABELS).T
    np.testing.assert_allclose(clip.similarity(images, LABELS), cosines, atol=1e-6)
    odds = np.exp(clip.logit_scale * clip.encode_image(images) @ means.T)
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clip.classify(images, labels, templates), expected, atol=1e-5)
    rows = np.eye(2, dtype=np.float32)
    np.testing.assert_array_equal(probabilities(rows, rows, np.float32(1000)), rows)  # far logits are no infinities
    with pytest.raises(UserError) as caught:
        clip.classify(images, [], templates=("a photo",))
    assert len(caught.value.problems) == 2


def test_texts_embed_alike_in_any_order_batch_and_block(clip, monkeypatch, capsys):
    texts = ["x" * n for n in (40, 1, 7, 0, 20, 3, 3, 15)]
    expected = np.concatenate([clip.encode_text(text) for text in texts])
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(clip.encode_text(texts), expected, atol=1e-6)
    np.testing.assert_allclose(clip.encode_text(texts, batch_size=2, progress=True), expected, atol=1e-6)
    assert "8/8" in capsys.readouterr().err
    monkeypatch.setattr(inference, "TEXT_BLOCK", 3)
    np.testing.assert_allclose(clip.encode_text(texts, batch_size=2), expected, atol=1e-6)


def test_batches_embed_alike_and_name_all_unusable_images(clip, pixels, monkeypatch, capsys):
    images = [np.roll(pixels, i, axis=0) for i in range(8)]
    features = clip.encode_image(images)
    np.testing.assert_allclose(clip.encode_image(images, batch_size=2, progress=True), features, atol=1e-6)
    assert "8/8" in capsys.readouterr().err
    monkeypatch.setattr(inference, "IMAGE_BATCH", 3)
    np.testing.assert_allclose(clip.encode_image(images), features, atol=1e-6)
    mixed = [images[0], b"a", *images[1:4], b"b", images[4]]
    with pytest.raises(UserError) as caught:
        clip.encode_image(mixed)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["image 1", "image 5"]
    each, reasons = clip.encode_each(mixed)
    assert reasons == dict.fromkeys((1, 5), "is not an image that can be decoded (no known image format)")
    np.testing.assert_array_equal(np.isnan(each).any(axis=1), [i in reasons for i in range(7)])
    np.testing.assert_allclose(each[[0, 2, 3, 4, 6]], features[:5], atol=1e-6)


def test_classify_command_prints_the_probabilities_of_classify(folder, clip, pixels, tmp_path, capfd):
    image = save(tmp_path / "a.png", pixels)
    command = ["classify", str(folder), str(image), "--device", "cpu", "--labels", "cat", "Hund", "--json"]
    assert main([*command, "--templates", "a photo of {}", "{}"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    expected = clip.classify(image, ["cat", "Hund"], ["a photo of {}", "{}"])[0]
    np.testing.assert_allclose([row["probabilities"][label] for label in ("cat", "Hund")], expected, atol=1e-5)
    for more, said in (
        (["--templates", "a photo"], "has no {} for the label"),
        (["--labels", "cat", "cat"], "label 'cat' is given 2 times; give it once"),
        (["--labels", "cat", " "], "label ' ' is blank; give words"),
        (["--precision", "int8"], "precision = 'int8': this model runs in torch"),
    ):
        assert main([*command, *more]) == 2, more
        assert said in capfd.readouterr().err.replace("\n", " "), more


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_float32(folder, clip, pixels, precision):
    half = worldclip.load(folder, device="cpu", precision=precision)
    features = half.encode_image([pixels]), half.encode_text(LABELS)
    expected = clip.encode_image([pixels]), clip.encode_text(LABELS)
    for actual, wanted in zip(features, expected, strict=True):
        assert actual.dtype == np.float32
        assert (actual * wanted).sum(axis=1).min() > 0.999
    assert f"{precision} on cpu)" in repr(half)
    assert "this model runs in torch, in one of fp32, fp16, bf16" in load_error(folder, precision="int8")
    with pytest.raises(UserError, match="device = 'cuda:99': not available"):
        worldclip.load(folder, device="cuda:99")


@dataclasses.dataclass(frozen=True)
class SpiedBackend:
    """A backend whose tower waits for an event."""

    model: object
    waits_for: threading.Event
    embed_dim = 16

    def encode_pixels(self, pixels: torch.Tensor) -> np.ndarray:
        assert self.waits_for.wait(timeout=60)
        return np.zeros((len(pixels), self.embed_dim), np.float32)


def test_while_a_gpu_runs_a_batch_the_next_one_is_prepared(clip, pixels):
    count, third = iter(range(5)), threading.Event()

    def noted(image):
        if next(count) == 2:
            third.set()
        return torch.zeros(3, 64, 64)

    on_gpu = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device="cuda")]))
    processor = preprocess.PerImage(noted, preprocess.facts_of(clip.processor))
    spied = dataclasses.replace(clip, backend=SpiedBackend(on_gpu, third), processor=processor)
    assert spied.encode_image([pixels] * 5, batch_size=2).shape == (5, 16)


CLIP_MEAN, CLIP_STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def our_pixels(folder, pictures) -> np.ndarray:
    """Return the pixels that encode_image passes to the image tower."""
    clip = worldclip.load(folder, device="cpu")
    seen: list[np.ndarray] = []

    class RecordingBackend:
        embed_dim = 1

        def encode_pixels(self, pixels):
            seen.append(pixels.numpy())
            return np.zeros((len(pixels), 1), np.float32)

    dataclasses.replace(clip, backend=RecordingBackend()).encode_image(pictures)
    return np.concatenate(seen)


@pytest.mark.parametrize(("name", "size", "mode"), [("", 224, "shortest"), ("-378", 378, "squash")])
def test_open_clip_checkpoint_uses_the_transform_of_open_clip(name, size, mode, tmp_path):
    save_xlm_v(tmp_path)
    vocab_size = len(worldclip.model.tokenizer.load_tokenizer(tmp_path, 77).hf)
    model_cfg = reduced_open_clip_config(f"ViT-H-14-worldwide{name}", vocab_size)
    model_cfg["vision_cfg"]["image_size"] = size
    save_file(random_open_clip(model_cfg).state_dict(), tmp_path / "open_clip_model.safetensors")
    write_open_clip_config(tmp_path, model_cfg, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", resize_mode=mode)
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    pictures = [picture.convert(mode) for picture in sample_images() for mode in ("RGB", "L")]
    theirs = torch.stack([transform(picture) for picture in pictures]).numpy()
    np.testing.assert_array_equal(our_pixels(tmp_path, pictures), theirs)


def test_a_bare_checkpoint_of_the_reference_is_cropped_at_every_size_as_open_clip_does_with_a_local_file():
    for row in published.FAMILY:
        if row.open_clip:
            facts = preprocessing(named_config(row.open_clip)["preprocess_cfg"], row.image_size).facts
            assert (facts.size, facts.mode, facts.mean) == (row.image_size, "shortest", CLIP_MEAN)


def turned_photograph() -> bytes:
    """Return a JPEG, 60 x 40, red above blue, whose EXIF orientation turns it by a quarter."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :, 0] = 255
    pixels[20:, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)


@pytest.fixture(scope="module")
def squashing_folder(published_model, tmp_path_factory):
    """Return a Hugging Face folder whose processor squashes, as 15 of the 16 published ones do."""
    source, folder = published_model("metaclip-2-worldwide-huge-378"), tmp_path_factory.mktemp("squashing")
    shutil.copytree(source, folder, dirs_exist_ok=True)
    preprocess.to_hugging_face(preprocess.Preprocess(28, "squash", CLIP_MEAN, CLIP_STD)).save_pretrained(folder)
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
    assert "must be one of source, reference" in load_error(squashing_folder, preprocess="squash")
    photograph = turned_photograph()
    plain = Image.open(io.BytesIO(photograph)).convert("RGB")
    expected = reference.backend.encode_pixels(reference.processor(images=[plain])["pixel_values"])
    np.testing.assert_array_equal(reference.encode_image([photograph]), expected)
    stored = np.asarray(plain)
    turned = source.encode_image([np.rot90(stored, -1)])
    np.testing.assert_array_equal(source.encode_image([photograph]), turned)
    assert np.abs(source.encode_image([stored]) - turned).max() > 1e-3


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
def test_facts_survive_a_round_trip_through_hugging_face(mode):
    facts = preprocess.Preprocess(28, mode, CLIP_MEAN, CLIP_STD)
    assert preprocess.facts_of(preprocess.to_hugging_face(facts)) == facts
    stated = preprocess.describe(preprocess.PerImage(lambda image: None, facts), applies_exif=True)
    resize, crop = ("28 x 28", "none") if mode == "squash" else ("shortest edge 28", "central 28 x 28")
    assert (stated["resize"], stated["crop"], stated["interpolation"]) == (resize, crop, "bicubic")
    assert repr(facts).startswith(f"Preprocess(size=28, mode='{mode}', mean=("), "the key of cached features"


def test_settings_of_few_folders_are_read_or_refused(squashing_folder, tmp_path):
    one_mean = preprocess.facts_of(CLIPImageProcessor(image_mean=[0.5], image_std=0.5))
    assert (one_mean.mean, one_mean.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert preprocessing({"mean": None, "std": None, "mode": "RGB"}, 28).facts.mean == tuple(CLIP_MEAN)
    with pytest.raises(UserError, match="mode 'L'; models of this family see 'RGB'"):
        preprocessing({"mode": "L"}, 28)
    crop = {"height": 28, "width": 28}
    of_pixels = ({"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5})
    for values in ({"size": {"shortest_edge": 40}, "crop_size": crop}, {"resample": 2}, *of_pixels):
        processor = CLIPImageProcessor(**values)
        assert preprocess.square_facts(processor) is None, "it makes its own batches"
        with pytest.raises(ValueError, match="only a bicubic resize"):
            preprocess.facts_of(processor)
    folder = Path(shutil.copytree(squashing_folder, tmp_path / "cropped"))
    edit(folder / "preprocessor_config.json", size={"height": 32, "width": 32}, do_center_crop=True, crop_size=crop)
    clip = worldclip.load(folder, device="cpu")
    assert (clip.preprocess["resize"], clip.preprocess["crop"]) == ("32 x 32", "central 28 x 28")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    theirs = AutoImageProcessor.from_pretrained(folder)(images=[picture], return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(clip.encode_image(picture), clip.backend.encode_pixels(theirs))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_squares_made_one_by_one_are_those_of_hugging_face(mode):
    facts = preprocess.Preprocess(32, mode, CLIP_MEAN, CLIP_STD)
    processor = preprocess.to_hugging_face(facts)
    shapes = [(32, 32), (33, 47), (47, 33), (31, 200), (64, 64), (5, 9), (100, 32)]
    images = [np.random.default_rng(n).integers(0, 256, (*shape, 3), np.uint8) for n, shape in enumerate(shapes)]
    assert preprocess.square_facts(processor) == facts
    squares = [preprocess.to_square(facts, image) for image in images]
    assert squares[0].dtype == torch.uint8
    theirs = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
    assert torch.equal(preprocess.normalise_squares(facts, "cpu", squares), theirs)
