"""transformers.js in Node.js, as web/package.json names it and as it is today, embeds and classifies as worldclip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client_tools import run_node
from small_models import HOSTILE, SPECIAL, TEXTS, UNLIKE_IN_JS
from worldclip.export import ExportConfig, export_model

pytestmark = pytest.mark.slow

MIN_COSINE = {"fp32": 1 - 1e-6, "fp16": 0.999, "int8": 0.999}
JS_NAMES = {"int8": "q8"}
SHAPES = ("1x1", "1x2", "2x1", "5x7", "16x2", "20x20")  # images x texts: equal, unequal, one of each
EQUAL = (*TEXTS, "a red apple " * 50, *HOSTILE)  # texts that have the same embedding in every library


@pytest.fixture(scope="module")
def exported(hugging_face: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write onnx/, image.png, and texts.json: EQUAL, UNLIKE_IN_JS, SPECIAL."""
    place = tmp_path_factory.mktemp("exported")
    export_model(hugging_face, place, ExportConfig(formats=("onnx",)))
    size = 64  # as the model reads it: no library has to resize
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "image.png")
    (place / "texts.json").write_text(json.dumps([*EQUAL, *UNLIKE_IN_JS, *SPECIAL]), encoding="utf-8")
    return place


def check_cosines(rows: Any, expected_BD: np.ndarray, min_cosine: float) -> None:
    rows_BD = np.asarray(rows, np.float32)
    rows_BD /= np.linalg.norm(rows_BD, axis=1, keepdims=True)
    assert rows_BD.shape == expected_BD.shape
    assert (rows_BD * expected_BD).sum(axis=1).min() >= min_cosine


@pytest.mark.parametrize("environment", ["node", "node-newest"])
@pytest.mark.parametrize("precision", MIN_COSINE)
def test_texts_pictures_and_labels_are_ours_in_every_shape(environment, precision, exported, clip):
    image, min_cosine = exported / "image.png", MIN_COSINE[precision]
    arguments = (exported / "onnx", image, exported / "texts.json", JS_NAMES.get(precision, precision))
    answer = run_node("transformers_js.mjs", *arguments, json.dumps(SHAPES), environment=environment)
    assert np.isfinite(np.asarray(answer["text"], np.float32)).all()
    check_cosines(answer["text"][: len(EQUAL)], clip.encode_text(EQUAL), min_cosine)
    check_cosines(answer["image"], clip.encode_image([image]), min_cosine)
    scores = {label["label"]: label["score"] for label in answer["labels"]}
    tolerance = 1e-4 if precision == "fp32" else 0.05
    np.testing.assert_allclose([scores[text] for text in EQUAL[:3]], clip.classify(image, EQUAL[:3])[0], atol=tolerance)
    for shape in SHAPES:
        num_images, num_texts = map(int, shape.split("x"))
        rows = answer["joint"][shape]
        check_cosines(rows["image"], clip.encode_image([image] * num_images), min_cosine)
        check_cosines(rows["text"], clip.encode_text(EQUAL[:num_texts]), min_cosine)
