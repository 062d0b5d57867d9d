"""Features on disk: found again by model, images and preprocessing; chunks that are there are not encoded again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import worldclip
from damaged_images import PICTURES
from pools import encode
from worldclip.core.errors import UserError
from worldclip.evaluate import engine, image_features
from worldclip.evaluate.image_features import cache_folder, encode_images
from worldclip.model import decode, sample_inputs
from worldclip.model.inference import TorchBackend
from worlds import WordModel, word_dataset

WORDS = ["cat", "broken", "owl", "bee", "elk", "broken", "broken"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(image_features, "CHUNK_IMAGES", 2)


def test_chunks_give_equal_features_and_are_read_from_the_cache(tmp_path):
    plain = encode_images(WordModel(), word_dataset("a", WORDS), 3)
    model = WordModel()
    first = encode_images(model, word_dataset("a", WORDS), 3, tmp_path / "key")
    np.testing.assert_array_equal(first.features_ND, plain.features_ND)
    assert first.bad == plain.bad == [{"key": f"a{i}", "reason": "not an image"} for i in (1, 5, 6)]
    again = WordModel()
    second = encode_images(again, word_dataset("a", WORDS), 3, tmp_path / "key")
    np.testing.assert_array_equal(second.features_ND, plain.features_ND)
    assert (again.images, second.bad) == ([], plain.bad)


def test_an_undecodable_image_leaves_the_others_in_their_pass(hugging_face, monkeypatch):
    monkeypatch.setattr(image_features, "CHUNK_IMAGES", 8)
    clip = worldclip.load(hugging_face, device="cpu")
    files = [encode(picture.resize((40 + i, 30)), "PNG") for i, picture in enumerate(sample_inputs.images() * 4)][:8]
    expected, _ = clip.encode_each(files)
    passes, encode_pixels = [], TorchBackend.encode_pixels
    monkeypatch.setattr(
        TorchBackend, "encode_pixels", lambda self, pixels: (passes.append(len(pixels)), encode_pixels(self, pixels))[1]
    )
    files[3] = b"broken"
    dataset = dataclasses.replace(word_dataset("a", ["word"] * 8), read_images=lambda start, stop: files[start:stop])
    encoded = encode_images(clip, dataset, 8)
    assert passes == [7]
    assert encoded.bad == [{"key": "a3", "reason": "is not an image that can be decoded (no known image format)"}]
    is_good = np.arange(8) != 3
    np.testing.assert_array_equal(encoded.features_ND[is_good], expected[is_good])
    assert np.isnan(encoded.features_ND[3]).all()


def test_lack_of_memory_is_not_cached_as_a_damaged_image(hugging_face, tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode, "_rgb", fail)
    clip = worldclip.load(hugging_face, device="cpu")
    dataset = dataclasses.replace(word_dataset("a", ["word"]), read_images=lambda start, stop: [PICTURES["bmp"]])
    with pytest.raises(MemoryError):
        encode_images(clip, dataset, 8, tmp_path)
    assert not list(tmp_path.iterdir())


def test_features_of_open_clips_models_are_found_by_another_process():
    open_clip_transform = pytest.importorskip("open_clip.transform")
    from worldclip.model.preprocess import PerImage, Preprocess

    class Model(WordModel):
        transform = open_clip_transform.image_transform_v2(open_clip_transform.PreprocessCfg(size=8), is_train=False)
        processor = PerImage(transform, Preprocess(8, "shortest", (0.5,), (0.5,)))

    folder = cache_folder(Path("root"), Model(), "digest", word_dataset("a", WORDS))
    Model.processor = dataclasses.replace(Model.processor, transform=lambda image: image)  # of another address
    assert cache_folder(Path("root"), Model(), "digest", word_dataset("a", WORDS)) == folder
    Model.preprocess = {"exif": "ignored"}
    assert cache_folder(Path("root"), Model(), "digest", word_dataset("a", WORDS)) != folder


def test_interrupted_pass_resumes_at_the_next_chunk_and_a_corrupt_one_is_named(tmp_path):
    chunk = tmp_path / "000000002.npy"
    encode_images(WordModel(), word_dataset("a", WORDS), 3, tmp_path)
    chunk.unlink()
    model = WordModel()
    messages = []
    encode_images(model, word_dataset("a", WORDS), 3, tmp_path, messages.append)
    assert model.images == [b"owl", b"bee"]
    assert messages == ["a: 4 of 7 images encoded"]
    chunk.write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"000000002\.npy is corrupt .*; remove .* and rerun to encode it again"):
        encode_images(WordModel(), word_dataset("a", WORDS), 3, tmp_path)


def test_cache_key_is_model_images_and_preprocessing(tmp_path):
    class Processed(WordModel):
        processor = "size 224"

    dataset = word_dataset("a", WORDS)
    other_texts = dataclasses.replace(dataset, digest="other", images_digest="images")
    same_images = dataclasses.replace(dataset, digest="another", images_digest="images")
    parts = [(WordModel(), "0", dataset), (WordModel(), "1", dataset), (Processed(), "0", dataset)]
    keys = {cache_folder(tmp_path, *of_key) for of_key in parts}
    key_of_images = cache_folder(tmp_path, WordModel(), "0", other_texts)
    assert len(keys | {key_of_images}) == 4
    assert key_of_images == cache_folder(tmp_path, WordModel(), "0", same_images)


def test_other_prompts_and_languages_reuse_image_features(tmp_path):
    model_id = {"model": "m", "model_digest": "0"}
    dataset = dataclasses.replace(word_dataset("a", ["cat", "dog"]), images_digest="images")
    engine.evaluate(WordModel(), model_id, [dataset], ["en"], tmp_path / "r.jsonl", cache=tmp_path / "features")
    changed = dataclasses.replace(dataset, digest="other texts")
    model = WordModel()
    engine.evaluate(model, model_id, [changed], [], tmp_path / "r.jsonl", cache=tmp_path / "features")
    assert model.images == []
    assert model.texts


def test_dataset_without_decodable_images_is_an_error_also_from_the_cache(tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="none of its 3 images can be decoded: a0: not an image"):
            encode_images(WordModel(), word_dataset("a", ["broken"] * 3), 2, tmp_path)
