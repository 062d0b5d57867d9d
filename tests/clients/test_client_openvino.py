"""OpenVINO embeds with the ONNX export as worldclip does."""

from __future__ import annotations

import numpy as np
import pytest

from client_tools import run_python
from exported_onnx import EQUAL, MIN_COSINE, SUFFIXES, check_cosines
from exported_onnx import exported as exported  # the fixture
from small_models import random_pixels

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("num_rows", [1, 5, len(EQUAL)])
@pytest.mark.parametrize("precision", SUFFIXES)
def test_texts_and_pictures_are_ours(precision, num_rows, exported, clip, tmp_path):
    texts = EQUAL[-num_rows:]
    ids = clip.tokenizer.encode(texts)
    mask = np.arange(ids.lengths.max()) < ids.lengths[:, None]
    pixels = random_pixels(clip.model.config.vision_config.image_size)
    inputs = {"input_ids": ids.padded(), "attention_mask": mask.astype(np.int64), "pixel_values": pixels.numpy()}
    np.savez(tmp_path / "in.npz", **inputs)
    arguments = (exported / "onnx", SUFFIXES[precision], tmp_path / "in.npz", tmp_path / "out.npz")
    run_python("openvino", "openvino_embed.py", *arguments)
    rows = np.load(tmp_path / "out.npz")
    check_cosines(rows["text"], clip.encode_text(texts), MIN_COSINE[precision])
    check_cosines(rows["image"], clip.backend.encode_pixels(pixels), MIN_COSINE[precision])
