"""transformers.js in Node.js embeds and classifies with the ONNX export as worldclip does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import worldclip
from client_tools import run_node
from small_models import TEXTS, save_hugging_face
from worldclip.export import ExportConfig, export_model
from worldclip.model import published

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize(("dtype", "min_cosine"), [("fp32", 1 - 1e-6), ("fp16", 0.999), ("q8", 0.999)])
def test_transformers_js_embeds_and_classifies_alike(dtype, min_cosine, exported):
    clip = worldclip.load(exported / "source", device="cpu")
    arguments = (exported / "onnx", exported / "image.png", exported / "texts.json", dtype)
    answer = run_node("transformers_js.mjs", *arguments)
    texts = json.loads((exported / "texts.json").read_text(encoding="utf-8"))
    text_BD = np.array(answer["text"], np.float32)
    text_BD /= np.linalg.norm(text_BD, axis=1, keepdims=True)
    cosines = (text_BD * clip.encode_text(texts)).sum(axis=1)
    assert cosines.min() >= min_cosine, dict(zip(texts, cosines, strict=True))
    expected = clip.classify(exported / "image.png", texts[:3])[0]
    scores = {label["label"]: label["score"] for label in answer["labels"]}
    np.testing.assert_allclose([scores[text] for text in texts[:3]], expected, atol=1e-4 if dtype == "fp32" else 0.05)
