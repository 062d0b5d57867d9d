"""A loaded model takes any mix of images, keeps texts as text, and gives the probabilities of plain transformers."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import worldclip
from model_folders import load_error
from programs import python
from served import server as server  # the fixture
from without_extras import environment_without
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.model import inference, preprocess
from worldclip.model.labels import probabilities

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
    with pytest.raises(UserError) as caught:
        clip.encode_image(images)
    said = caught.value.problems
    assert len(said) == 6
    assert said[0].endswith("no.png: is not an image that can be decoded (no known image format)")
    assert "float64" in said[1]
    assert "is a URL" in said[2]
    assert said[3].endswith("does not exist")
    assert "image 5: has the type int" in said[4]
    assert said[5].startswith("image 6: is not an image that can be decoded")


@pytest.mark.parametrize(("shape", "hint"), [((3, 48, 48), True), ((48, 48, 4), False), ((0, 4), False)])
def test_array_of_another_shape_is_refused_with_its_shape(clip, shape, hint):
    with pytest.raises(UserError, match=r"image 0: is an array .*give \(height, width\[, 3\]\) uint8") as caught:
        clip.encode_image(np.zeros(shape, np.uint8))
    assert ("transpose(1, 2, 0)" in str(caught.value)) == hint


@pytest.mark.parametrize("make", [io.BytesIO, bytearray, memoryview, lambda data: torch.zeros(3, 48, 48)])
def test_file_or_tensor_is_one_image_of_a_type_that_is_refused(make, clip, pixels, tmp_path):
    image = make(save(tmp_path / "a.png", pixels).read_bytes())
    with pytest.raises(UserError) as caught:
        clip.encode_image(image)
    (said,) = caught.value.problems
    assert said.startswith(
        f"image 0: has the type {type(image).__name__}; give a path, a PIL image, the bytes of a file"
    )


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_of_no_images_or_texts_is_refused(batch_size, clip, pixels):
    for encode, things in ((clip.encode_image, [pixels]), (clip.encode_text, ["a"])):
        with pytest.raises(UserError, match=f"batch_size = {batch_size}: must be at least 1"):
            encode(things, batch_size=batch_size)


def test_no_images_or_texts_give_empty_embeddings(clip):
    assert clip.encode_image([]).shape == (0, 48)
    assert clip.encode_text([]).shape == (0, 48)


def test_a_label_is_the_mean_over_its_templates_and_probabilities_a_softmax(clip, pixels):
    labels, images, templates = ["cat", "Katze", "dog"], [pixels, pixels[::-1].copy()], ("a photo of {}", "{}")
    sentences = [[template.format(label) for template in templates] for label in labels]
    means = np.stack([clip.encode_text(texts).mean(axis=0) for texts in sentences])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(clip.encode_labels(labels, templates), means, atol=1e-6)
    np.testing.assert_array_equal(clip.encode_labels(["cat"], "a {}"), clip.encode_labels(["cat"], ("a {}",)))
    odds = np.exp(clip.logit_scale * clip.encode_image(images) @ means.T)
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clip.classify(images, labels, templates), expected, atol=1e-5)


def test_probabilities_of_far_logits_are_no_infinities():
    rows = np.eye(2, dtype=np.float32)
    np.testing.assert_array_equal(probabilities(rows, rows, np.float32(1000)), rows)


def test_run_loads_its_latest_checkpoint(folder, tmp_path, pixels):
    shutil.copytree(folder, tmp_path / "run/train/step_000000007")
    (tmp_path / "run/train/step_000000003").mkdir()
    features = worldclip.load(tmp_path / "run", device="cpu").encode_image([pixels])
    np.testing.assert_array_equal(features, worldclip.load(folder, device="cpu").encode_image([pixels]))


def test_folder_without_a_model_is_refused_with_what_it_holds(tmp_path):
    assert "does not exist" in load_error(tmp_path / "nowhere")
    assert "is not a model: give a run (train it first: worldclip train" in load_error(tmp_path)
    (tmp_path / "notes.txt").write_text("a")
    assert load_error(tmp_path).endswith("it holds notes.txt")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert "does not load as a clip model" in load_error(tmp_path)


PLAIN = """
import json, sys

try:
    import worldclip
except ImportError:
    pass
else:
    sys.exit("worldclip can be imported")
from transformers import pipeline

folder, image, labels = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
classify = pipeline("zero-shot-image-classification", model=folder, device="cpu")
scores = {row["label"]: row["score"] for row in classify(image, candidate_labels=labels, hypothesis_template="{}")}
print(json.dumps([scores[label] for label in labels]))
"""


def test_plain_pipeline_without_worldclip_gives_the_same_probabilities(folder, clip, pixels, tmp_path):
    image = save(tmp_path / "a.png", pixels)
    labels = [label for label in LABELS if label]
    environment = environment_without(["worldclip"]) | {"HF_HUB_OFFLINE": "1"}
    printed = python("-c", PLAIN, folder, image, json.dumps(labels), cwd=tmp_path, **environment)
    plain = json.loads(printed.splitlines()[-1])
    np.testing.assert_allclose(clip.classify([image], labels)[0], plain, atol=1e-5)


def test_similarity_is_the_matrix_of_cosines(clip, pixels):
    images = [pixels, pixels[::-1].copy()]
    cosines = clip.similarity(images, LABELS)
    assert cosines.shape == (2, len(LABELS))
    assert cosines.dtype == np.float32
    np.testing.assert_allclose(cosines, clip.encode_image(images) @ clip.encode_text(LABELS).T, atol=1e-6)
    assert clip.similarity(pixels, "a").shape == (1, 1)


def test_missing_labels_and_invalid_templates_are_refused_together(clip, pixels):
    with pytest.raises(UserError) as caught:
        clip.classify([pixels], [], templates=("a photo",))
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


def test_repr_is_one_line_of_facts(clip):
    text = repr(clip)
    assert text.startswith("Clip(MetaClip2Model, 48 dimensions, 77 tokens, ")
    assert text.endswith("float32 on cpu)")
    assert "\n" not in text


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_float32(folder, clip, pixels, precision):
    half = worldclip.load(folder, device="cpu", precision=precision)
    assert str(half.model.dtype).endswith("float16")
    features = half.encode_image([pixels]), half.encode_text(LABELS)
    expected = clip.encode_image([pixels]), clip.encode_text(LABELS)
    for actual, wanted in zip(features, expected, strict=True):
        assert actual.dtype == np.float32
        assert (actual * wanted).sum(axis=1).min() > 0.999


def test_precision_without_torch_weights_and_absent_gpu_are_refused(folder):
    assert "this model runs in torch, in one of fp32, fp16, bf16" in load_error(folder, precision="int8")
    with pytest.raises(UserError, match="device = 'cuda:99': not available"):
        worldclip.load(folder, device="cuda:99")


def test_top_level_names_are_the_public_ones():
    names = [name for name in dir(worldclip) if not name.startswith("__")]
    assert {"run", "load", "embed", "search", "curate", "languages"} <= set(names)
    assert not {"sys", "importlib", "annotations", "Any", "TYPE_CHECKING"} & set(names)
    assert callable(worldclip.embed)
    assert callable(worldclip.search)


def test_each_image_is_prepared_in_a_thread_of_its_own(clip, pixels, monkeypatch):
    """The library's own batches take one thread, whatever the number of cores."""
    names, resize = set(), preprocess._resize_to_square
    both = threading.Barrier(2, timeout=60)

    def noted(facts: preprocess.Preprocess, image: np.ndarray) -> torch.Tensor:
        names.add(threading.current_thread().name)
        both.wait()
        return resize(facts, image)

    expected = clip.encode_image([pixels, pixels[::-1]])
    monkeypatch.setattr(inference, "usable_cores", lambda: 2)
    monkeypatch.setattr(preprocess, "_resize_to_square", noted)
    np.testing.assert_array_equal(clip.encode_image([pixels, pixels[::-1]]), expected)
    assert names == {"decode_0", "decode_1"}


@dataclasses.dataclass(frozen=True)
class SpiedBackend:
    """A backend that records when the tower starts and ends, and may wait for an event in between."""

    model: object
    events: list[str]
    waits_for: threading.Event | None = None
    embed_dim = 16

    def encode_pixels(self, pixels: torch.Tensor) -> np.ndarray:
        self.events.append("start")
        assert self.waits_for is None or self.waits_for.wait(timeout=60)
        self.events.append("end")
        return np.zeros((len(pixels), self.embed_dim), np.float32)


def test_on_a_cpu_nothing_is_prepared_while_the_tower_runs(clip, pixels, monkeypatch):
    events, resize = [], preprocess._resize_to_square
    monkeypatch.setattr(preprocess, "_resize_to_square", lambda *a: [events.append("image"), resize(*a)][1])
    spied = dataclasses.replace(clip, backend=SpiedBackend(clip.model, events))
    spied.encode_image([pixels] * 5, batch_size=2)
    assert events == ["image", "image", "start", "end"] * 2 + ["image", "start", "end"]


def test_while_a_gpu_runs_a_batch_the_next_one_is_prepared(clip, pixels, monkeypatch):
    count, third = iter(range(5)), threading.Event()

    def noted(image):
        if next(count) == 2:
            third.set()
        return torch.zeros(3, 64, 64)

    monkeypatch.setattr(inference.Clip, "_device", lambda self: "cuda")
    processor = preprocess.PerImage(noted, preprocess.facts_of(clip.processor))
    spied = dataclasses.replace(clip, backend=SpiedBackend(clip.model, [], waits_for=third), processor=processor)
    assert spied.encode_image([pixels] * 5, batch_size=2).shape == (5, 16)
