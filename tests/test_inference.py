"""A loaded model: any mix of images, texts that stay text, and the probabilities of plain transformers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import worldclip
from worldclip.errors import UserError
from worldclip.model import create_model, image_processor, model_config
from worldclip.tokenizer import SPECIALS, train_tokenizer
from worldclip.train.config import ModelConfig

LABELS = ["a red circle", "ein blaues Haus", "红色圆形", "دائرة حمراء", "a", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Hugging Face folder with fresh weights."""
    place = tmp_path_factory.mktemp("model")
    sizes = ModelConfig(preset="tiny", image_size=32, vision_layers=1, vision_width=64, text_width=64, embed_dim=16)
    tokenizer = train_tokenizer(LABELS * 3, vocab_size=80, context_length=20)
    create_model(model_config(sizes, tokenizer), seed=0).save_pretrained(place)
    tokenizer.save(place)
    image_processor(32).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def clip(folder):
    return worldclip.load(folder, device="cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    from PIL import Image

    Image.fromarray(pixels).save(path)
    return path


def test_images_of_any_kind_in_one_call_give_the_same_embedding(clip, pixels, tmp_path):
    from PIL import Image

    path = save(tmp_path / "a.png", pixels)
    kinds = [
        path,
        str(path),
        path.read_bytes(),
        pixels,
        Image.fromarray(pixels),
        Image.fromarray(pixels).convert("RGBA"),
    ]
    found = clip.encode_image(kinds)
    assert found.shape == (6, 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    for row in found[1:]:
        np.testing.assert_allclose(row, found[0], atol=1e-6)
    np.testing.assert_allclose(clip.encode_image(path), found[:1], atol=1e-6)
    np.testing.assert_allclose(clip.encode_image(pixels), found[:1], atol=1e-6)


def test_images_lie_upright(clip, pixels):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 3
    file = io.BytesIO()
    Image.fromarray(pixels[::-1, ::-1]).save(file, "PNG", exif=exif)
    np.testing.assert_allclose(clip.encode_image(file.getvalue()), clip.encode_image(pixels), atol=1e-6)


def test_every_bad_image_is_named(clip, pixels, tmp_path):
    (tmp_path / "no.png").write_bytes(b"not an image")
    images = [
        tmp_path / "no.png",
        pixels,
        pixels.astype(float),
        "http://example.org/a.png",
        tmp_path / "missing.png",
        7,
    ]
    with pytest.raises(UserError) as caught:
        clip.encode_image(images)
    said = caught.value.problems
    assert len(said) == 5
    assert said[0].endswith("no.png: is no image that Pillow knows")
    assert "float64" in said[1]
    assert "is a URL" in said[2]
    assert said[3].endswith("does not exist")
    assert "image 5: is a int" in said[4]


def test_a_cut_image_is_bad(clip, pixels):
    file = io.BytesIO()
    from PIL import Image

    Image.fromarray(pixels).save(file, "PNG")
    with pytest.raises(UserError, match="image 0"):
        clip.encode_image([file.getvalue()[:500]])


def test_texts_come_back_in_their_order(clip):
    texts = ["x" * n for n in (40, 1, 7, 0, 20)] * 60
    found = clip.encode_text(texts)
    assert found.shape == (300, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    for text, row in list(zip(texts, found, strict=True))[:5]:
        np.testing.assert_allclose(clip.encode_text(text)[0], row, atol=1e-6)


def test_special_strings_stay_text(clip):
    plain, marked = clip.encode_text(["a eos red", f"a {SPECIALS[2]} red"])
    np.testing.assert_allclose(plain, marked, atol=1e-6)
    assert np.abs(clip.encode_text(["a"])[0] - marked).max() > 1e-3


def test_nothing_in_nothing_out(clip):
    assert clip.encode_image([]).shape == (0, 16)
    assert clip.encode_text([]).shape == (0, 16)


def test_probabilities_sum_to_one_and_follow_the_cosines(clip, pixels):
    found = clip.classify([pixels, pixels[::-1].copy()], LABELS)
    assert found.shape == (2, len(LABELS))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    cosines = clip.encode_image([pixels]) @ clip.encode_text(LABELS).T
    assert found[0].argsort().tolist() == cosines[0].argsort().tolist()


def test_a_label_is_the_mean_over_its_templates(clip, pixels):
    templates = ("{}", "a photo of {}")
    mean = np.mean([clip.encode_text([template.format("cat")])[0] for template in templates], axis=0)
    other = clip.encode_text(["{} dog".format(""), "a photo of  dog"]).mean(axis=0)
    logits = (
        clip.logit_scale * clip.encode_image([pixels])[0] @ np.stack([v / np.linalg.norm(v) for v in (mean, other)]).T
    )
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(clip.classify([pixels], ["cat", " dog"], templates)[0], expected, atol=1e-5)


def test_a_call_without_labels_or_with_a_template_without_a_place_says_so(clip, pixels):
    with pytest.raises(UserError) as caught:
        clip.classify([pixels], [], templates=("a photo",))
    assert len(caught.value.problems) == 2


def test_a_run_loads_its_latest_checkpoint(folder, tmp_path, pixels):
    import shutil

    shutil.copytree(folder, tmp_path / "run/train/step_000000007")
    (tmp_path / "run/train/step_000000003").mkdir()
    found = worldclip.load(tmp_path / "run", device="cpu").encode_image([pixels])
    np.testing.assert_array_equal(found, worldclip.load(folder, device="cpu").encode_image([pixels]))


def test_what_is_no_model_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        worldclip.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither config\.json .* nor train/step_"):
        worldclip.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match="holds a 'clip' model"):
        worldclip.load(tmp_path)


PLAIN = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "worldclip":
            raise ImportError("worldclip is not installed here")

sys.meta_path.insert(0, Blocked())
try:
    import worldclip
except ImportError:
    pass
else:
    sys.exit("worldclip can be imported")
from transformers import pipeline

folder, image, labels = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
classify = pipeline("zero-shot-image-classification", model=folder, device="cpu")
found = {row["label"]: row["score"] for row in classify(image, candidate_labels=labels, hypothesis_template="{}")}
print(json.dumps([found[label] for label in labels]))
"""


def test_a_plain_pipeline_without_worldclip_gives_the_same_probabilities(folder, clip, pixels, tmp_path):
    image = save(tmp_path / "a.png", pixels)
    labels = [label for label in LABELS if label]
    answer = subprocess.run(
        [sys.executable, "-c", PLAIN, str(folder), str(image), json.dumps(labels)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert answer.returncode == 0, answer.stderr
    plain = json.loads(answer.stdout.splitlines()[-1])
    np.testing.assert_allclose(clip.classify([image], labels)[0], plain, atol=1e-5)
