"""Sentence Transformers encodes texts and pictures with checkpoints of train and exported folders as worldclip does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import worldclip
from client_tools import run_python
from small_models import HOSTILE, SPECIAL, TEXTS, UNLIKE_IN_JS, save_xlm_v
from small_world import make_recipe, write_world
from stages import finish
from worldclip.contracts.layout import latest_checkpoint
from worldclip.core.execute import LocalExecutor
from worldclip.export import ExportConfig, export_model

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
EQUAL = (*TEXTS, *HOSTILE, *UNLIKE_IN_JS)
NAMES = ("checkpoint", "exported", "pruned", "xlm_v", "mt5")


@pytest.fixture(scope="module")
def place(published_model, tmp_path_factory) -> Path:
    """Train a checkpoint, export it, export it with a smaller vocabulary, export published models."""
    place = tmp_path_factory.mktemp("sentence_transformers")
    run_dir = place / "world" / "run"
    finish("train", make_recipe(write_world(run_dir)), run_dir, LocalExecutor(quiet=True))
    checkpoint = latest_checkpoint(run_dir)
    (place / "captions.txt").write_text("a red square\nein Bild: blue bar\n", encoding="utf-8")
    xlm_v = shutil.copytree(published_model("metaclip-2-worldwide-b32"), place / "xlm_v_source")
    save_xlm_v(xlm_v, model_max_length=int(1e30))
    export_model(checkpoint, place / "exported")
    corpus = ExportConfig(languages=("en",), corpus=(str(place / "captions.txt"),))
    export_model(checkpoint, place / "pruned", corpus)
    export_model(xlm_v, place / "xlm_v")
    export_model(published_model("metaclip-2-mt5-worldwide-s16"), place / "mt5")
    (place / "checkpoint").mkdir()
    (place / "checkpoint" / "huggingface").symlink_to(checkpoint)
    (place / "texts.json").write_text(json.dumps([*EQUAL, *SPECIAL]), encoding="utf-8")
    return place


@pytest.mark.parametrize("environment", [None, "transformers-4.57"])
@pytest.mark.parametrize("name", NAMES)
def test_texts_and_pictures_have_our_embeddings(name, environment, place, tmp_path):
    folder = place / name / "huggingface"
    clip = worldclip.load(folder, device="cpu")
    size = clip.model.config.vision_config.image_size
    random = np.random.default_rng(0)
    pictures = []
    for i, shape in enumerate([(size, size), (50, 40)]):
        pictures.append(Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8)))
        pictures[i].save(tmp_path / f"{i}.png")
    arguments = (folder, place / "texts.json", tmp_path, tmp_path / "out.npz")
    run_python(environment, "sentence_transformers_encode.py", *arguments)
    rows = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(rows["text"][: len(EQUAL)], clip.encode_text(EQUAL), atol=TOLERANCE)
    assert np.isfinite(rows["text"]).all()
    image_BD = clip.encode_image(pictures)
    np.testing.assert_allclose(rows["image"][0], image_BD[0], atol=TOLERANCE)
    # version 4 of transformers resizes PIL images, version 5 tensors: pixels differ by a level
    np.testing.assert_allclose(rows["image"][1], image_BD[1], atol=TOLERANCE if environment is None else 1e-3)
