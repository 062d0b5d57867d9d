"""CLIPs of other families, small and random, in the layout of transformers: their own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import worldclip
from model_folders import edit, load_error
from small_models import unit
from worldclip.core.errors import UserError
from worldclip.export import export_model
from worldclip.export.config import ExportConfig
from worldclip.model.sample_inputs import images as sample_images

TEXTS = ["a red apple", "apple", "a long text of many words " * 30, "</s> apple", ""]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "red", "apple", "long", "text", "of", "many", "words"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}


def save_tokenizer(folder: Path, max_length: int, end: str = "</s>") -> Any:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {end}", special_tokens=[("<s>", 0), (end, WORDS.index(end))]
    )
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": end, "unk_token": "<unk>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **special)
    fast.save_pretrained(folder)
    return fast


CONTEXT = 16
CLASSES = {"clip": "CLIP", "siglip": "Siglip", "altclip": "AltCLIP", "chinese_clip": "ChineseCLIP"}


def small_model(family: str, vocab_size: int = 12) -> Any:
    """Return a random model of 24 dimensions, a SigLIP of 32."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    text = {**TOWER, "vocab_size": vocab_size, "max_position_embeddings": CONTEXT, **ids}
    if family == "altclip":  # counts positions from the pad token's id on
        text |= {"max_position_embeddings": CONTEXT + 2, "project_dim": 24}
    width = {} if family == "siglip" else {"projection_dim": 24}
    config = getattr(transformers, f"{CLASSES[family]}Config")(text_config=text, vision_config=VISION, **width)
    return getattr(transformers, f"{CLASSES[family]}Model")(config).eval()


def save_model(folder: Path, model: Any) -> Any:
    """Write a model with an image processor, which is returned."""
    crop = {"height": 32, "width": 32}
    if model.config.model_type == "siglip":
        processor = transformers.SiglipImageProcessor(size=crop)
    else:
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return processor


def save_clip_folder(folder: Path) -> Path:
    """Write a small CLIP with 24 dimensions."""
    save_model(folder, small_model("clip"))
    save_tokenizer(folder, CONTEXT)
    return folder


@pytest.mark.parametrize("family", CLASSES)
def test_embeddings_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = small_model(family)
    processor, tokenizer = save_model(tmp_path, model), save_tokenizer(tmp_path, CONTEXT)
    clip = worldclip.load(tmp_path, device="cpu")
    pictures = sample_images()
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    expected = unit(model.get_image_features(pixel_values=pixels))
    np.testing.assert_allclose(clip.encode_image(pictures), expected, atol=2e-6)
    options = {"padding": "max_length", "return_attention_mask": False} if family == "siglip" else {}
    for text in TEXTS[:3]:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=16, **options)
        np.testing.assert_allclose(clip.encode_text([text]), unit(model.get_text_features(**inputs)), atol=2e-6)
    one_by_one = np.concatenate([clip.encode_text([text]) for text in TEXTS])
    np.testing.assert_allclose(clip.encode_text(TEXTS), one_by_one, atol=2e-6)
    assert clip.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert clip.embed_dim == expected.shape[1]
    probabilities = clip.classify(pictures, ["apple", "text"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert clip.tokenizer.encode(["apple </s> apple"]).ids.tolist().count(2) == 1
    with pytest.raises(ValueError, match="surrogate"):
        clip.encode_text(["\ud800"])
    with pytest.raises(UserError, match="needs a model of the Meta CLIP family"):
        export_model(tmp_path, tmp_path / "out", ExportConfig(formats=("onnx",)))


@pytest.mark.parametrize(("end", "end_token"), [(2, "words"), (2, "</s>"), (11, "words")])
def test_texts_of_openai_s_clip_end_where_transformers_pools(end: int, end_token: str, tmp_path: Path) -> None:
    """End token 2 means the largest id.  Features are equal whether that is the tokenizer's last token or not."""
    model = small_model("clip")
    model.config.text_config.eos_token_id = model.text_model.config.eos_token_id = end
    save_model(tmp_path, model)
    tokenizer = save_tokenizer(tmp_path, CONTEXT, end_token)
    clip = worldclip.load(tmp_path, device="cpu")
    assert clip.backend.is_causal == (end_token == "words")
    model = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    expected = [unit(model.get_text_features(**tokenizer(text, return_tensors="pt"))) for text in TEXTS[:2]]
    np.testing.assert_allclose(clip.encode_text(TEXTS[:2]), np.concatenate(expected), atol=2e-6)


def test_siglip_pads_on_the_side_that_its_tokenizer_states(tmp_path: Path) -> None:
    model = small_model("siglip")
    save_model(tmp_path, model)
    save_tokenizer(tmp_path, CONTEXT)
    edit(tmp_path / "tokenizer_config.json", padding_side="left")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    clip = worldclip.load(tmp_path, device="cpu")
    for texts in (["a red apple"], ["apple", "a long text of many words", "red"]):
        inputs = tokenizer(texts, return_tensors="pt", truncation=True, max_length=16, padding="max_length")
        assert inputs["input_ids"][0, 0] == 1
        expected = unit(model.get_text_features(input_ids=inputs["input_ids"]))
        np.testing.assert_allclose(clip.encode_text(texts), expected, atol=2e-6)


def save_gemma(folder: Path, tokenizer_class: str) -> None:
    """Write Gemma's tokenizer, small: its classes, normaliser and specials, with pieces in both cases."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"abcdefAÉéσςΣ▁"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    settings = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right", "model_max_length": 16}
    made = getattr(transformers, tokenizer_class)(vocab=vocab, merges=[], **settings)
    made.save_pretrained(folder)


@pytest.mark.parametrize("tokenizer_class", ["GemmaTokenizer", "Siglip2Tokenizer"])
def test_siglip_2_lowers_the_case_of_texts(tokenizer_class: str, tmp_path: Path) -> None:
    """The folders of 2025 state Gemma's tokenizer, which keeps case; Siglip2Tokenizer is the reference."""
    model = small_model("siglip", vocab_size=18)
    save_model(tmp_path, model)
    save_gemma(tmp_path, tokenizer_class)
    save_gemma(tmp_path / "reference", "Siglip2Tokenizer")
    reference = transformers.Siglip2Tokenizer.from_pretrained(tmp_path / "reference")
    clip = worldclip.load(tmp_path, device="cpu")
    texts = ["A bad CAFÉ", "a bad café", "ΣΣ", "A <EOS> B"]
    inputs = reference(texts, return_tensors="pt", truncation=True, max_length=16, padding="max_length")
    assert [clip.tokenizer.encode([text]).ids.tolist() for text in texts] == [
        row[: int(mask.sum())] for row, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"], strict=True)
    ]
    expected = unit(model.get_text_features(input_ids=inputs["input_ids"]))
    np.testing.assert_allclose(clip.encode_text(texts), expected, atol=2e-6)
    np.testing.assert_array_equal(clip.encode_text(texts[:1]), clip.encode_text(texts[1:2]))


def test_the_first_siglip_keeps_its_own_tokenizer(tmp_path: Path) -> None:
    save_model(tmp_path, small_model("siglip"))
    tokenizer = save_tokenizer(tmp_path, CONTEXT)
    clip = worldclip.load(tmp_path, device="cpu")
    assert clip.tokenizer.encode(["Apple APPLE apple"]).ids.tolist() == tokenizer("Apple APPLE apple")["input_ids"]


def test_unknown_family_and_missing_weights_are_refused(tmp_path: Path) -> None:
    edit(tmp_path / "config.json", model_type="blip")
    assert "holds a 'blip' model; worldclip loads metaclip_2, clip, siglip" in load_error(tmp_path)
    edit(tmp_path / "config.json", model_type="nobodys-clip", modelBase="xlm-roberta-large")
    said = load_error(tmp_path)
    assert "'nobodys-clip' model, which transformers does not know" in said
    assert "upgrade" not in said
    small_model("clip").config.save_pretrained(tmp_path)
    assert "does not load as a clip model" in load_error(tmp_path)


@pytest.mark.parametrize("family", CLASSES)
def test_sizes_that_no_model_has_are_refused(family: str, tmp_path: Path) -> None:
    save_model(tmp_path, small_model(family))
    save_tokenizer(tmp_path, CONTEXT)
    whole = (tmp_path / "config.json").read_text()
    for section, key in (
        ("text_config", "num_attention_heads"),
        ("text_config", "hidden_size"),
        ("vision_config", "patch_size"),
    ):
        edit(tmp_path / "config.json", section, **{key: 0})
        assert f"{tmp_path} does not load as a" in load_error(tmp_path)
        (tmp_path / "config.json").write_text(whole)
    edit(tmp_path / "tokenizer_config.json", model_max_length="x")
    assert f"does not load as a {family} model" in load_error(tmp_path)


@pytest.mark.parametrize("lost", ["text_model.encoder.layers.1.", "visual_projection"])
def test_weights_that_lack_tensors_are_refused(lost: str, tmp_path: Path) -> None:
    save_clip_folder(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(lost)}
    save_file(rest, tmp_path / "model.safetensors", {"format": "pt"})
    said = load_error(tmp_path)
    assert f"{len(state) - len(rest)} tensors of the model are missing or of another size, such as {lost}" in said
    assert "download it whole" in said
