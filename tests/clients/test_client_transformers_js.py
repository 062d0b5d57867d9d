"""transformers.js in Node.js, as web/package.json names it and as it is today, embeds and classifies as worldclip."""

from __future__ import annotations

import json

import pytest

from client_tools import run_node
from exported_onnx import MIN_COSINE, SHAPES, SUFFIXES, check_cosines, check_labels, check_shape, check_texts
from exported_onnx import exported as exported  # the fixture

pytestmark = pytest.mark.slow

JS_NAMES = {"int8": "q8"}


@pytest.mark.parametrize("environment", ["node", "node-newest"])
@pytest.mark.parametrize("precision", SUFFIXES)
def test_texts_pictures_and_labels_are_ours_in_every_shape(environment, precision, exported, clip):
    image = exported / "image.png"
    arguments = (exported / "onnx", image, exported / "texts.json", JS_NAMES.get(precision, precision))
    answer = run_node("transformers_js.mjs", *arguments, json.dumps(SHAPES), environment=environment)
    check_texts(answer["text"], clip, MIN_COSINE[precision], is_js=True)
    check_cosines(answer["image"], clip.encode_image([image]), MIN_COSINE[precision])
    check_labels(answer["labels"], clip, image, precision)
    assert list(answer["joint"]) == list(SHAPES)
    for shape, rows in answer["joint"].items():
        check_shape(shape, rows, clip, image, MIN_COSINE[precision])
