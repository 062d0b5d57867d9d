"""An ONNX export with an image and texts, hostile ones too, and checks of what other runtimes make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from small_models import HOSTILE, SPECIAL, TEXTS, UNLIKE_IN_JS
from worldclip.export import ExportConfig, export_model

MIN_COSINE = {"fp32": 1 - 1e-6, "fp16": 0.999, "int8": 0.999}
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
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


def check_texts(rows: Any, clip: Any, min_cosine: float, *, is_js: bool = False) -> None:
    """Check rows of texts.json: EQUAL have our embeddings (UNLIKE_IN_JS, too, outside of JavaScript), SPECIAL any."""
    rows_BD = np.asarray(rows, np.float32)
    equal = EQUAL if is_js else (*EQUAL, *UNLIKE_IN_JS)
    assert len(rows_BD) == len(EQUAL) + len(UNLIKE_IN_JS) + len(SPECIAL)
    assert np.isfinite(rows_BD).all()
    check_cosines(rows_BD[: len(equal)], clip.encode_text(equal), min_cosine)


def check_cosines(rows: Any, expected_BD: np.ndarray, min_cosine: float) -> None:
    rows_BD = np.asarray(rows, np.float32)
    rows_BD /= np.linalg.norm(rows_BD, axis=1, keepdims=True)
    assert rows_BD.shape == expected_BD.shape
    cosines = (rows_BD * expected_BD).sum(axis=1)
    print(f"smallest cosine: {cosines.min():.7f}")
    assert cosines.min() >= min_cosine, cosines


def check_shape(shape: str, rows: Any, clip: Any, image: Path, min_cosine: float) -> None:
    """Check the joint graph's rows (`image`, `text`) for a number of equal images and of the first texts of EQUAL."""
    num_images, num_texts = map(int, shape.split("x"))
    check_cosines(rows["image"], clip.encode_image([image] * num_images), min_cosine)
    check_cosines(rows["text"], clip.encode_text(EQUAL[:num_texts]), min_cosine)


def check_labels(labels: Any, clip: Any, image: Path, precision: str) -> None:
    """Check the label scores of the image for the first three texts."""
    scores = {label["label"]: label["score"] for label in labels}
    expected = clip.classify(image, EQUAL[:3])[0]
    np.testing.assert_allclose(
        [scores[text] for text in EQUAL[:3]], expected, atol=1e-4 if precision == "fp32" else 0.05
    )
