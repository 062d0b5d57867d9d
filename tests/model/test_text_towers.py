"""Text towers for another CLIP's images: Sentence Transformers' modules against its own library, M-CLIP's layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_other_clips import save_clip_folder, save_tokenizer

import worldclip
from model_folders import edit, load_error
from small_models import unit
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.export import export_model
from worldclip.export.config import ExportConfig
from worldclip.model.sample_inputs import images as sample_images

TEXTS = ["a red apple", "apple", "a long text of many words", "Many WORDS", "", "a text " * 40]
IDS: dict[str, Any] = {"vocab_size": 12, "pad_token_id": 1}


def save_encoder(folder: Path, family: str) -> Any:
    """Write a small text encoder with its tokenizer and return it."""
    torch.manual_seed(1)
    model: Any
    if family == "distilbert":
        sizes: dict[str, Any] = {"dim": 20, "hidden_dim": 40, "n_layers": 2, "n_heads": 2}
        model = transformers.DistilBertModel(transformers.DistilBertConfig(**IDS, **sizes, max_position_embeddings=32))
    else:
        sizes = {"hidden_size": 20, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.XLMRobertaConfig(**IDS, **sizes, max_position_embeddings=34)
        model = transformers.XLMRobertaModel(config)
    model.eval().save_pretrained(folder)
    save_tokenizer(folder, 32)
    return model


def save_sentence_transformer(
    folder: Path, pooling: str = "mean", lower: bool = False, activation: str = "", family: str = "distilbert"
) -> Any:
    """Write a folder with Sentence Transformers itself and return its model."""
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    from sentence_transformers.base.modules import Dense, Transformer

    encoder = folder.parent / "encoder"
    save_encoder(encoder, family)
    torch.manual_seed(2)
    function = torch.nn.Tanh() if activation else torch.nn.Identity()
    parts = [
        Transformer(str(encoder), max_seq_length=16, do_lower_case=lower),
        modules.Pooling(20, pooling_mode=pooling),
        Dense(20, 24, bias=bool(activation), activation_function=function),
    ]
    model = library.SentenceTransformer(modules=parts, device="cpu")
    model.save(str(folder))
    return library.SentenceTransformer(str(folder), device="cpu")


def as_version_2(folder: Path, pooling: str, lower: bool) -> None:
    """Write the records as the published folder has them, from a time when they had other keys and class names."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    records = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(records))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": lower}))
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 20, **modes}))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_clip_folder(tmp_path / "images")


def check(clip: worldclip.Clip, expected: np.ndarray) -> None:
    np.testing.assert_allclose(clip.encode_text(TEXTS), expected, atol=2e-6)
    one_by_one = np.concatenate([clip.encode_text([text]) for text in TEXTS])
    np.testing.assert_allclose(clip.encode_text(TEXTS), one_by_one, atol=2e-6)


@pytest.mark.parametrize(("pooling", "lower", "activation"), [("mean", False, ""), ("cls", True, "Tanh")])
def test_texts_are_those_of_sentence_transformers_and_images_those_of_the_clip(
    pooling: str, lower: bool, activation: str, images: Path, tmp_path: Path
) -> None:
    model = save_sentence_transformer(tmp_path / "texts", pooling, lower, activation)
    clip = worldclip.load(tmp_path / "texts", device="cpu", image_tower=images)
    check(clip, unit(torch.from_numpy(model.encode(TEXTS))))
    alone = worldclip.load(images, device="cpu")
    pictures = sample_images()
    np.testing.assert_array_equal(clip.encode_image(pictures), alone.encode_image(pictures))
    assert clip.logit_scale == alone.logit_scale
    assert clip.embed_dim == 24
    assert clip.tokenizer.context_length == 16
    np.testing.assert_allclose(clip.classify(pictures, ["apple", "text"]).sum(axis=1), 1, atol=1e-5)
    assert clip.tokenizer.encode(["apple </s> apple"]).ids.tolist().count(2) == 1
    as_version_2(tmp_path / "texts", pooling, lower)
    again = worldclip.load(tmp_path / "texts", device="cpu", image_tower=images)
    np.testing.assert_array_equal(again.encode_text(TEXTS), clip.encode_text(TEXTS))


def test_encoders_that_lack_tensors_are_refused_unless_nothing_reads_them(images: Path, tmp_path: Path) -> None:
    save_sentence_transformer(tmp_path / "texts", family="xlm-roberta")
    file = tmp_path / "texts" / "model.safetensors"
    state = load_file(file)
    used = {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}
    assert len(used) < len(state)
    whole = worldclip.load(tmp_path / "texts", device="cpu", image_tower=images).encode_text(TEXTS)
    save_file(used, file, {"format": "pt"})
    check(worldclip.load(tmp_path / "texts", device="cpu", image_tower=images), whole)
    save_file({name: used[name] for name in list(used)[3:]}, file, {"format": "pt"})
    said = load_error(tmp_path / "texts", image_tower=images)
    assert "3 tensors of the model are missing or of another size" in said


def save_mclip(folder: Path, base: Path) -> Any:
    """Write a folder as multilingual_clip does, and return its own way to embed texts (pt_multilingual_clip.py)."""
    encoder = save_encoder(base, "xlm-roberta")
    torch.manual_seed(3)
    layer = torch.nn.Linear(20, 24)
    save_tokenizer(folder, 32)
    record = {"model_type": "M-CLIP", "modelBase": str(base), "numDims": 24, "transformerDimensions": 20}
    (folder / "config.json").write_text(json.dumps(record))
    state = {f"transformer.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {f"LinearTransformation.{name}": tensor for name, tensor in layer.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)

    def embed(texts: list[str]) -> torch.Tensor:
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")  # theirs fails for long texts
        mask = inputs["attention_mask"]
        hidden = encoder(**{name: inputs[name] for name in ("input_ids", "attention_mask")})[0]
        features: torch.Tensor = layer((hidden * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1)[:, None])
        return features

    return embed


def test_texts_are_those_of_m_clip(images: Path, tmp_path: Path) -> None:
    embed = save_mclip(tmp_path / "texts", tmp_path / "base")
    clip = worldclip.load(tmp_path / "texts", device="cpu", image_tower=images)
    check(clip, unit(embed(TEXTS)))
    assert clip.tokenizer.context_length == 32  # of 34 positions, two are before the first token


def test_published_towers_know_their_clip_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worldclip.model.formats import text_tower_folder

    images = save_clip_folder(tmp_path / "images")
    folder = tmp_path / "models--M-CLIP--XLM-Roberta-Large-Vit-L-14" / "snapshots" / "0123"
    save_mclip(folder, tmp_path / "base")
    assert "openai/clip-vit-large-patch14 is neither" in load_error(folder)
    monkeypatch.setitem(text_tower_folder.IMAGE_TOWERS, "XLM-Roberta-Large-Vit-L-14", str(images))
    assert worldclip.load(folder, device="cpu").embed_dim == 24


def test_precision_is_that_of_both_towers(images: Path, tmp_path: Path) -> None:
    save_mclip(tmp_path / "texts", tmp_path / "base")
    clip = worldclip.load(tmp_path / "texts", device="cpu", image_tower=images)
    half = worldclip.load(tmp_path / "texts", device="cpu", image_tower=images, precision="bf16")
    text_tower: Any = half.backend
    assert {tensor.dtype for tensor in text_tower.model.parameters()} == {torch.bfloat16}
    assert "bfloat16" in repr(half)
    for encode, inputs in ((clip.encode_text, TEXTS), (clip.encode_image, sample_images())):
        other = getattr(half, encode.__name__)(inputs)
        assert 0 < np.abs(encode(inputs) - other).max() < 0.05


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "pooling": ("1_Pooling/config.json", {"pooling_mode": "max"}, "pooling max; worldclip knows mean"),
    "activation": ("2_Dense/config.json", {"activation_function": "os.system"}, "'os.system'; worldclip knows"),
    "residual": ("2_Dense/config.json", {"use_residual": True}, "without a residual"),
    "prompt": ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "puts words before each text"),
    "another encoder": ("config.json", {"model_type": "t5"}, "'t5' text encoder; worldclip loads bert"),
    "type": ("config.json", {"dim": "wide"}, "does not load as a text encoder"),
    "no heads": ("config.json", {"n_heads": 0}, "does not load as a text encoder"),
    "length": ("sentence_bert_config.json", {"max_seq_length": "x"}, "max_seq_length is 'x'; it must be a whole"),
    "no length": ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length is 0; it must be a whole"),
    "pooling number": ("1_Pooling/config.json", {"pooling_mode": 5}, "pooling 5; worldclip knows mean"),
    "activations": ("2_Dense/config.json", {"activation_function": ["x"]}, "['x']; worldclip knows"),
    "code": ("config.json", {"model_type": "x", "auto_map": {"AutoConfig": "evil.Config"}}, "does not load"),
}


@pytest.fixture(scope="module")
def sentence_transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "texts"
    save_sentence_transformer(folder)
    (folder / "evil.py").write_text("raise SystemExit('code of the folder ran')")
    return folder


@pytest.fixture
def folder(sentence_transformer: Path, tmp_path: Path) -> Path:
    """A folder of Sentence Transformers, to be changed."""
    return Path(shutil.copytree(sentence_transformer, tmp_path / "texts"))


@pytest.mark.parametrize("damage", REFUSED)
def test_what_the_tower_would_make_otherwise_is_refused(damage: str, images: Path, folder: Path) -> None:
    name, changes, said = REFUSED[damage]
    edit(folder / name, **changes)
    assert said in load_error(folder, image_tower=images)


def test_modules_that_are_unknown_or_without_weights_are_refused(images: Path, folder: Path) -> None:
    whole = (folder / "modules.json").read_text()
    for old, new, said in (
        ("Dense", "CNN", "Transformer, Pooling, CNN; worldclip loads"),
        ("2_Dense", "../images", "'../images' is not a path below"),
    ):
        (folder / "modules.json").write_text(whole.replace(old, new))
        assert said in load_error(folder, image_tower=images)
    (folder / "modules.json").write_text(whole)
    (folder / "2_Dense/model.safetensors").unlink()
    assert "2_Dense holds none of its weights" in load_error(folder, image_tower=images)


def test_the_image_tower_must_be_named_and_fit(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    save_mclip(folder, tmp_path / "base")
    assert "holds a text tower alone; name the CLIP whose images" in load_error(folder)
    said = load_error(images, image_tower=images)
    assert f"image_tower = '{images}': not used for the layout 'huggingface' (only for text)" in said
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    layer = {"LinearTransformation.weight": torch.zeros(8, 20), "LinearTransformation.bias": torch.zeros(8)}
    torch.save(state | layer, folder / "pytorch_model.bin")
    assert f"embeds texts in 8 dimensions, {images} images in 24" in load_error(folder, image_tower=images)
    save_file({"transformer.a": torch.zeros(1), **layer}, folder / "model.safetensors")
    assert f"the weights are not those of {tmp_path / 'base'}" in load_error(folder, image_tower=images)
    (folder / "model.safetensors").unlink()
    whole = (tmp_path / "base" / "config.json").read_text()
    for changes, said in (
        ({"hidden_size": "wide"}, "does not load"),
        ({"num_attention_heads": 3}, "the weights are not those of"),
        ({"pad_token_id": None}, "names no pad_token_id"),
    ):
        edit(tmp_path / "base" / "config.json", **changes)
        assert said in load_error(folder, image_tower=images)
        (tmp_path / "base" / "config.json").write_text(whole)
    shutil.rmtree(tmp_path / "base")
    said = load_error(folder, image_tower=images)
    assert "modelBase = " in said
    assert "does not load" in said


def test_text_towers_are_not_exported(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text can be loaded, not written"):
        export_model(images, tmp_path / "out", ExportConfig(formats=("text",)))


def test_what_was_embedded_is_searched_and_evaluated_with_the_same_towers(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worldclip.evaluate.config import EvaluateConfig
    from worldclip.evaluate.stage import evaluate_model
    from worldclip.tools.embed import embed
    from worldclip.tools.search import search

    texts = tmp_path / "texts"
    save_mclip(texts, tmp_path / "base")
    for name, picture in zip(("apple", "text"), sample_images(), strict=False):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        picture.save(folder / "0.png")
    options: dict[str, Any] = {"device": "cpu", "executor": LocalExecutor(quiet=True)}
    monkeypatch.chdir(tmp_path)
    embed("texts", tmp_path / "pictures", tmp_path / "embedded", image_tower="images", **options)
    monkeypatch.chdir("/")  # search finds both towers from anywhere
    clip = worldclip.load(texts, device="cpu", image_tower=images)
    best = search(tmp_path / "embedded", ["apple"], device="cpu")[0]["hits"][0]
    paths = sorted((tmp_path / "pictures").rglob("*.png"))
    assert best["score"] == pytest.approx((clip.encode_image(paths) @ clip.encode_text(["apple"]).T).max(), abs=1e-5)
    config = EvaluateConfig(datasets=("mine",), folders={"mine": f"folders:{tmp_path / 'pictures'}"}, device="cpu")
    report = evaluate_model(texts, config, tmp_path / "one", image_tower=str(images))
    assert report["datasets"]["mine"]["num_images"] == 2
    other = save_clip_folder(tmp_path / "other")
    edit(other / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])
    edit(other / "config.json", logit_scale_init_value=2.0)
    digests = [evaluate_model(texts, config, tmp_path / name, image_tower=str(tower))["model_digest"]
               for name, tower in (("one", images), ("two", other))]  # fmt: skip
    assert digests[0] == report["model_digest"] != digests[1]


def test_a_repository_gives_the_weights_of_its_parts_and_no_other_runtimes(tmp_path: Path) -> None:
    from huggingface_hub.utils import filter_repo_objects

    from worldclip.model.load import _weights_of

    save_mclip(tmp_path / "mclip", tmp_path / "base")
    (tmp_path / "sentences").mkdir()
    shutil.copy(tmp_path / "base" / "config.json", tmp_path / "sentences")
    (tmp_path / "sentences" / "modules.json").write_text(
        json.dumps([{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}])
    )
    weights = ["model.safetensors", "pytorch_model.bin", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"]
    others = ["onnx/model.onnx", "tf_model.h5", "openvino/openvino_model.bin", "2_Dense/other.bin", "rust_model.ot"]
    for name in ("mclip", "sentences"):
        patterns = _weights_of(tmp_path / name, "fp32")
        assert list(filter_repo_objects([*weights, *others], allow_patterns=patterns)) == weights, name
