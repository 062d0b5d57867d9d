"""transformers 4.57 and 5 load our exports and embed as worldclip does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import worldclip
from client_tools import run_python
from model_folders import save_tiny
from small_models import HOSTILE, SPECIAL, TEXTS, UNLIKE_IN_JS, random_pixels, save_xlm_v
from worldclip.export import export_model

pytestmark = pytest.mark.slow

ENVIRONMENTS = ("transformers-4.57", None)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def exported(published_model, tmp_path_factory) -> Path:
    """Export a model of ours, and published ones with their tokenizers' own maximum lengths."""
    place = tmp_path_factory.mktemp("exported")
    save_tiny(place / "ours_source", ["a red apple", "红苹果"] * 3)
    for name, row in (("xlm_v_512", "worldwide-b32"), ("xlm_v_1e30", "worldwide-b32"), ("mt5_64", "mt5-worldwide-s16")):
        shutil.copytree(published_model(f"metaclip-2-{row}"), place / f"{name}_source")
    save_xlm_v(place / "xlm_v_1e30_source", model_max_length=int(1e30))
    for source in sorted(place.glob("*_source")):
        export_model(source, place / source.name.removesuffix("_source"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(place / "image.png")
    (place / "texts.json").write_text(json.dumps([*TEXTS, *HOSTILE, *UNLIKE_IN_JS, *SPECIAL]), encoding="utf-8")
    return place


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("name", ["ours", "xlm_v_512", "xlm_v_1e30", "mt5_64"])
def test_exports_embed_alike_in_each_version_of_transformers(name, environment, exported, tmp_path):
    clip = worldclip.load(exported / f"{name}_source", device="cpu")
    pixels = random_pixels(clip.model.config.vision_config.image_size)
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    inputs = (exported / "texts.json", tmp_path / "pixels.npy", exported / "image.png")
    folder = exported / name / "huggingface"
    answer = run_python(environment, "transformers_embed.py", folder, *inputs, tmp_path / "out.npz")
    embeds = np.load(tmp_path / "out.npz")
    own = clip.encode_text([*TEXTS, *HOSTILE, *UNLIKE_IN_JS])
    np.testing.assert_allclose(embeds["text"][: len(own)], own, atol=TOLERANCE)
    assert np.isfinite(embeds["text"]).all()  # special strings are special there: any embedding, no failure
    np.testing.assert_allclose(embeds["image"], clip.backend.encode_pixels(pixels), atol=TOLERANCE)
    expected = clip.classify(exported / "image.png", TEXTS[:3])[0]
    scores = {label["label"]: label["score"] for label in answer["labels"]}
    # version 4 resizes PIL images by default, version 5 tensors: pixels differ by a level
    np.testing.assert_allclose([scores[text] for text in TEXTS[:3]], expected, atol=0.05)
