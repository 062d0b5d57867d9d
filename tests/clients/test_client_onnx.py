"""transformers.js in Node.js, optimum and OpenVINO embed and classify with the ONNX export as worldclip does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import worldclip
from client_tools import run_node, run_python
from small_models import TEXTS, random_pixels, save_hugging_face
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig, export_model
from worldclip.model import published

pytestmark = pytest.mark.slow

MIN_COSINE = {"fp32": 1 - 1e-6, "fp16": 0.999, "int8": 0.999}
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
JS_NAMES = {"int8": "q8"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    place = tmp_path_factory.mktemp("exported")
    save_hugging_face(published.find("metaclip-2-worldwide-b32"), place / "source")
    export_model(place / "source", place, ExportConfig(formats=("onnx",)))
    size = 64  # as the model reads it: no library has to resize
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "image.png")
    (place / "texts.json").write_text(json.dumps([*TEXTS, "a red apple " * 50]), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def clip(exported):
    return worldclip.load(exported / "source", device="cpu")


def texts_of(exported) -> list[str]:
    return json.loads((exported / "texts.json").read_text(encoding="utf-8"))


def check_cosines(rows, expected_BD, min_cosine: float) -> None:
    rows_BD = np.asarray(rows, np.float32)
    rows_BD /= np.linalg.norm(rows_BD, axis=1, keepdims=True)
    assert rows_BD.shape == expected_BD.shape
    cosines = (rows_BD * expected_BD).sum(axis=1)
    print(f"smallest cosine: {cosines.min():.7f}")
    assert cosines.min() >= min_cosine, cosines


def check_labels(labels, clip, exported, precision: str) -> None:
    """Check the label scores of the image for the first three texts."""
    texts = texts_of(exported)[:3]
    scores = {label["label"]: label["score"] for label in labels}
    expected = clip.classify(exported / "image.png", texts)[0]
    np.testing.assert_allclose([scores[text] for text in texts], expected, atol=1e-4 if precision == "fp32" else 0.05)


@pytest.mark.parametrize("precision", SUFFIXES)
def test_transformers_js_embeds_and_classifies_alike(precision, exported, clip):
    arguments = (exported / "onnx", exported / "image.png", exported / "texts.json", JS_NAMES.get(precision, precision))
    answer = run_node("transformers_js.mjs", *arguments)
    check_cosines(answer["text"], clip.encode_text(texts_of(exported)), MIN_COSINE[precision])
    check_labels(answer["labels"], clip, exported, precision)
    assert list(answer["joint"]) == ["1x1", "2x1", "1x2", "16x2"]
    for shape, rows in answer["joint"].items():
        num_images, num_texts = map(int, shape.split("x"))
        images = [exported / "image.png"] * num_images
        check_cosines(rows["image"], clip.encode_image(images), MIN_COSINE[precision])
        check_cosines(rows["text"], clip.encode_text(texts_of(exported)[:num_texts]), MIN_COSINE[precision])


@pytest.mark.parametrize("precision", SUFFIXES)
def test_optimum_embeds_and_classifies_alike(precision, exported, clip, tmp_path):
    answer = run_python(
        "optimum",
        "optimum_embed.py",
        exported / "onnx",
        f"model{SUFFIXES[precision]}.onnx",
        exported / "texts.json",
        exported / "image.png",
        tmp_path / "out.npz",
    )
    rows = np.load(tmp_path / "out.npz")
    text_BD = clip.encode_text(texts_of(exported))
    for name in ("text", "joint_text"):
        check_cosines(rows[name], text_BD, MIN_COSINE[precision])
    check_cosines(rows["joint_image"], clip.encode_image([exported / "image.png"]), MIN_COSINE[precision])
    check_labels(answer["labels"], clip, exported, precision)


def test_export_of_optimum_holds_its_example_as_constants_and_is_refused(exported, tmp_path):
    run_python("optimum", "optimum_export.py", exported / "source", tmp_path / "theirs")
    with pytest.raises(UserError, match="was traced for 2 rows of text_embeds"):
        worldclip.load(tmp_path / "theirs")


@pytest.mark.parametrize("precision", SUFFIXES)
def test_openvino_embeds_alike(precision, exported, clip, tmp_path):
    texts = texts_of(exported)
    ids = clip.require_tokenizer().encode(texts)
    mask = np.arange(ids.lengths.max()) < ids.lengths[:, None]
    pixels = random_pixels(clip.model.config.vision_config.image_size)
    np.savez(
        tmp_path / "in.npz",
        input_ids=ids.padded(),
        attention_mask=mask.astype(np.int64),
        pixel_values=pixels.numpy(),
    )
    arguments = (exported / "onnx", SUFFIXES[precision], tmp_path / "in.npz", tmp_path / "out.npz")
    run_python("openvino", "openvino_embed.py", *arguments)
    rows = np.load(tmp_path / "out.npz")
    check_cosines(rows["text"], clip.encode_text(texts), MIN_COSINE[precision])
    check_cosines(rows["image"], clip.backend.encode_pixels(pixels), MIN_COSINE[precision])
