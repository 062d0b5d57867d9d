"""The folder for immich gives our vectors when it is fed as immich's machine-learning service feeds it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tokenizers
from PIL import Image

import worldclip
from small_models import TEXTS
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig, export_model

IMMICH = ExportConfig(formats=("immich",))
TOLERANCE = 1e-5


class Service:
    """Read the files that the service reads, and run both graphs on one text or picture at a time."""

    def __init__(self, folder: Path) -> None:
        self.visual = onnxruntime.InferenceSession(folder / "visual" / "model.onnx")
        self.textual = onnxruntime.InferenceSession(folder / "textual" / "model.onnx")
        self.preprocess = json.loads((folder / "visual" / "preprocess_cfg.json").read_text())
        self.context_length = json.loads((folder / "config.json").read_text())["text_cfg"]["context_length"]
        pad_token = json.loads((folder / "textual" / "tokenizer_config.json").read_text())["pad_token"]
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
        pad_id = self.tokenizer.token_to_id(pad_token)
        self.tokenizer.enable_padding(length=self.context_length, pad_token=pad_token, pad_id=pad_id)
        self.tokenizer.enable_truncation(max_length=self.context_length)

    def text(self, text: str) -> np.ndarray:
        ids = self.tokenizer.encode(" ".join(text.split())).ids
        return self.textual.run(None, {"text": np.array([ids], dtype=np.int32)})[0][0]

    def image(self, picture: Image.Image) -> np.ndarray:
        """Embed a picture of the model's own size, which is neither resized nor cropped."""
        assert picture.size == (self.preprocess["size"],) * 2
        mean, std = (np.array(self.preprocess[name], dtype=np.float32) for name in ("mean", "std"))
        pixels = (np.asarray(picture, dtype=np.float32) / 255 - mean) / std
        return self.visual.run(None, {"image": pixels.transpose(2, 0, 1)[None]})[0][0]


@pytest.fixture(scope="module")
def folder(hugging_face, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("immich")
    report = export_model(hugging_face, out, IMMICH)
    assert report["formats"]["immich"]["max_difference"] <= TOLERANCE
    return out / "immich"


@pytest.fixture(scope="module")
def service(folder) -> Service:
    return Service(folder)


# of the model's own size: the service resizes as open_clip does, the source's processor in its own way
PICTURES = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))


def test_the_folder_loads_to_be_checked_before_it_is_copied(folder, clip):
    again = worldclip.load(folder)
    np.testing.assert_allclose(again.encode_image(PICTURES), clip.encode_image(PICTURES), atol=TOLERANCE)
    np.testing.assert_allclose(again.encode_text(TEXTS), clip.encode_text(TEXTS), atol=TOLERANCE)
    assert again.logit_scale == clip.logit_scale != 100
    assert again.embed_dim == clip.embed_dim
    np.testing.assert_allclose(again.classify(PICTURES, TEXTS[:3]).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("config", [{}, {"text_cfg": {"context_length": "77"}, "vision_cfg": {}}])
def test_folder_without_its_sizes_is_refused(config, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"text_cfg\.context_length is .*\n.*vision_cfg\.image_size is None"):
        worldclip.load(tmp_path / "model")


def test_graphs_have_the_names_types_and_shapes_that_immich_feeds(service):
    for session, expected in (
        (service.visual, ("image", "tensor(float)", [1, 3, 64, 64])),
        (service.textual, ("text", "tensor(int32)", [1, 77])),
    ):
        assert [(value.name, value.type, value.shape) for value in session.get_inputs()] == [expected]
        assert [(value.name, value.shape) for value in session.get_outputs()] == [("embedding", [1, 48])]
    assert service.preprocess["interpolation"] == "bicubic"
    assert service.preprocess["resize_mode"] in ("shortest", "squash")


@pytest.mark.parametrize("text", [*TEXTS, " two\tdogs \n"])
def test_texts_embed_as_in_worldclip(text, service, clip):
    np.testing.assert_allclose(service.text(text), clip.encode_text([text])[0], atol=TOLERANCE)


def test_pictures_embed_as_in_worldclip(service, clip):
    for picture, expected in zip(PICTURES, clip.encode_image(PICTURES), strict=True):
        np.testing.assert_allclose(service.image(Image.fromarray(picture)), expected, atol=TOLERANCE)


def test_vocabulary_is_pruned_by_languages(hugging_face, service, tmp_path):
    (tmp_path / "texts.txt").write_text("a red apple\nein Hund im Garten\n", encoding="utf-8")
    config = ExportConfig(formats=("immich",), languages=("en,de",), corpus=(str(tmp_path / "texts.txt"),))
    report = export_model(hugging_face, tmp_path / "out", config)
    small = Service(tmp_path / "out" / "immich")
    np.testing.assert_allclose(small.text("a red apple"), service.text("a red apple"), atol=TOLERANCE)
    assert small.tokenizer.get_vocab_size() == report["vocabulary"]["rows_after"] < service.tokenizer.get_vocab_size()


def test_tokenizer_without_tokenizer_json_is_refused(published_model, tmp_path):
    with pytest.raises(UserError, match=r"SiglipTokenizer\) has no tokenizer\.json, which immich reads; leave immich"):
        export_model(published_model("metaclip-2-mt5-worldwide-s16"), tmp_path / "out", IMMICH)
    assert not (tmp_path / "out" / "immich").exists()
