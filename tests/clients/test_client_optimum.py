"""optimum embeds and classifies with the ONNX export as worldclip does."""

from __future__ import annotations

import numpy as np
import pytest

from client_tools import run_python
from exported_onnx import MIN_COSINE, SHAPES, SUFFIXES, check_labels, check_shape, check_texts
from exported_onnx import exported as exported  # the fixture

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("precision", SUFFIXES)
def test_texts_pictures_and_labels_are_ours_in_every_shape(precision, exported, clip, tmp_path):
    image = exported / "image.png"
    files = (f"model{SUFFIXES[precision]}.onnx", exported / "texts.json", image, tmp_path / "out.npz")
    answer = run_python("optimum", "optimum_embed.py", exported / "onnx", *files, *SHAPES)
    rows = np.load(tmp_path / "out.npz")
    check_texts(rows["text"], clip, MIN_COSINE[precision])
    for shape in SHAPES:
        joint = {"image": rows[f"{shape}_image"], "text": rows[f"{shape}_text"]}
        check_shape(shape, joint, clip, image, MIN_COSINE[precision])
    check_labels(answer["labels"], clip, image, precision)
