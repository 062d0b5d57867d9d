"""CLIPs of other families, small and random, in the layouts of transformers and open_clip: their own numbers."""

import json
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
from small_models import save_open_clip, unit, write_open_clip_config
from worldclip.core.errors import UserError
from worldclip.evaluate import nllb
from worldclip.export import export_model
from worldclip.export.config import ExportConfig
from worldclip.model.sample_inputs import images as sample_images

CAPTIONS = ["a red apple", "apple", "a long text of many words " * 30, "</s> apple", ""]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "red", "apple", "long", "text", "of", "many", "words"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {**TOWER, "image_size": 32, "patch_size": 8}


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
    config = getattr(transformers, f"{CLASSES[family]}Config")(text_config=text, vision_config=VIT, **width)
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


def assert_alike_in_bfloat16(clip: Any, folder: Path) -> None:
    half = worldclip.load(folder, device="cpu", precision="bf16")
    assert half.precision == "bf16"
    for inputs, of in ((sample_images(), "encode_image"), (CAPTIONS, "encode_text")):
        assert (getattr(clip, of)(inputs) * getattr(half, of)(inputs)).sum(axis=1).min() > 0.9998


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
    for text in CAPTIONS[:3]:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=16, **options)
        np.testing.assert_allclose(clip.encode_text([text]), unit(model.get_text_features(**inputs)), atol=2e-6)
    one_by_one = np.concatenate([clip.encode_text([text]) for text in CAPTIONS])
    np.testing.assert_allclose(clip.encode_text(CAPTIONS), one_by_one, atol=2e-6)
    assert_alike_in_bfloat16(clip, tmp_path)
    assert clip.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert clip.embed_dim == expected.shape[1]
    probabilities = clip.classify(pictures, ["apple", "text"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert clip.tokenizer.encode(["apple </s> apple"]).ids.tolist().count(2) == 1
    cased = "Apple APPLE apple"  # only SigLIP 2 lowers it
    assert clip.tokenizer.encode([cased]).ids.tolist() == tokenizer(cased)["input_ids"]
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
    expected = [unit(model.get_text_features(**tokenizer(text, return_tensors="pt"))) for text in CAPTIONS[:2]]
    np.testing.assert_allclose(clip.encode_text(CAPTIONS[:2]), np.concatenate(expected), atol=2e-6)


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


def test_sizes_that_no_model_has_and_missing_weights_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, small_model("clip"))
    save_tokenizer(tmp_path, CONTEXT)
    state = load_file(tmp_path / "model.safetensors")
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("visual_projection")}
    save_file(rest, tmp_path / "model.safetensors", {"format": "pt"})
    assert "1 tensors are missing, unknown or of another size, such as visual_projection" in load_error(tmp_path)
    edit(tmp_path / "config.json", "text_config", num_attention_heads=0)
    assert "does not load as a model in the layout huggingface" in load_error(tmp_path)


open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
pytest.importorskip("timm", reason="timm is not installed")
TEXTS = ["a red apple", "cat", "two </s> words"]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}


def timm(name: str, **changed: Any) -> dict[str, Any]:
    settings = {"timm_pool": "", "timm_proj": "linear", "image_size": 64, **changed}
    return {"timm_model_name": name, "timm_model_pretrained": False, **settings}


COCA_VISION = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
COCA_TEXT = {**TEXT, "embed_cls": True, "output_tokens": True}
# The towers of open_clip's 144 configurations: its own ViT and ResNet, timm's by way of several families, CoCa
TOWERS: dict[str, dict[str, Any]] = {
    "ViT": {"vision_cfg": {**VISION, "ls_init_value": 0.1}, "text_cfg": TEXT},
    "ModifiedResNet": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": TEXT},
    "timm ViT": {"vision_cfg": timm("vit_tiny_patch16_224", image_size=224), "text_cfg": TEXT},
    "timm ResNet": {"vision_cfg": timm("resnet10t", timm_pool="avg"), "text_cfg": TEXT},
    "ConvNeXt": {"vision_cfg": timm("convnext_atto"), "text_cfg": TEXT},
    "MobileCLIP": {
        "vision_cfg": timm("fastvit_t8", timm_pool="avg", timm_proj=None),
        "text_cfg": {**TEXT, "no_causal_mask": True},
        "embed_dim": 768,
    },
    "Perception Encoder": {
        "vision_cfg": timm("vit_pe_core_tiny_patch16_384", timm_pool="map", timm_proj=None, image_size=384),
        "text_cfg": {**TEXT, "pool_type": "argmax"},
        "embed_dim": 512,
    },
    "CoCa": {
        "vision_cfg": COCA_VISION,
        "text_cfg": COCA_TEXT,
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
        "custom_text": True,
    },
}


def save(folder: Path, name: str) -> Any:
    """Write a folder with these towers and return open_clip's model."""
    config = {"embed_dim": 24, **TOWERS[name]}
    path = folder / f"small_{name.replace(' ', '_')}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model = open_clip.create_model(path.stem, load_weights=False).eval()
    save_open_clip(folder, config, model)
    return model


@pytest.mark.parametrize("name", TOWERS)
def test_embeddings_are_those_of_open_clip(name: str, tmp_path: Path) -> None:
    model = save(tmp_path, name)
    clip = worldclip.load(tmp_path, device="cpu")
    stated = {**model.visual.preprocess_cfg, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    settings = open_clip.transform.PreprocessCfg(**stated)
    transform = open_clip.transform.image_transform_v2(settings, is_train=False)
    pictures = sample_images()
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(picture) for picture in pictures]))
        texts = model.encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS[:2]))
    np.testing.assert_allclose(clip.encode_image(pictures), unit(images), atol=3e-6)
    np.testing.assert_allclose(clip.encode_text(TEXTS)[:2], unit(texts), atol=3e-6)
    assert_alike_in_bfloat16(clip, tmp_path)
    assert clip.embed_dim == images.shape[1]
    assert clip.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    for special in ("<end_of_text>", "<END_OF_TEXT>", "&lt;end_of_text&gt;", "＜end_of_text＞"):
        assert clip.tokenizer.encode([f"apple {special} apple"]).ids.tolist().count(49407) == 1


def test_another_resize_of_open_clip_is_described(tmp_path: Path) -> None:
    save(tmp_path, "ViT")
    edit(tmp_path / "open_clip_config.json", "preprocess_cfg", interpolation="bilinear", resize_mode="longest")
    stated = worldclip.load(tmp_path, device="cpu").preprocess
    assert (stated["resize"], stated["interpolation"]) == ("longest edge 32", "bilinear")
    for section, values in (
        ("preprocess_cfg", {"interpolation": 5}),
        ("model_cfg", {"embed_dim": 16}),
        ("model_cfg.text_cfg", {"tokenizer_kwargs": 5}),
    ):
        edit(tmp_path / "open_clip_config.json", section, **values)
        assert "does not load as a model in the layout open_clip" in load_error(tmp_path)


LANGUAGES = ["eng_Latn", "deu_Latn", "zho_Hans", "zho_Hant", "arb_Arab", "acm_Arab", "pes_Arab", "prs_Arab"]


def save_nllb(folder: Path, *, is_legacy: bool) -> None:
    """Write NLLB's encoder and tokenizer, small: the real classes, with few pieces and eight languages."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁red", "▁apple", "▁text", "▁of", "▁many", "▁words"]
    tokenizer = transformers.NllbTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=[],
        extra_special_tokens=LANGUAGES,
        legacy_behaviour=is_legacy,
    )
    tokenizer.save_pretrained(folder)
    tokenizer.save_pretrained(folder.parent)  # open_clip looks for the tokenizer of a folder there
    layers = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer), d_model=16, max_position_embeddings=96, pad_token_id=1, **layers
    )
    config.save_pretrained(folder)


def save_nllb_clip(folder: Path, *, is_legacy: bool = False) -> Any:
    """Write an open_clip folder with the text_cfg of nllb-clip-base, and return open_clip's model."""
    save_nllb(folder / "nllb", is_legacy=is_legacy)
    tower = str(folder / "nllb")
    text = {
        "hf_model_name": tower,
        "hf_tokenizer_name": tower,
        "hf_proj_type": "linear",
        "hf_pooler_type": "cls_pooler",
    }
    config = {"embed_dim": 24, "custom_text": True, "vision_cfg": VISION, "text_cfg": text}
    write_open_clip_config(folder, config)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).eval()
    save_open_clip(folder, config, model)
    return model


@pytest.mark.parametrize("is_legacy", [False, True])
def test_texts_of_each_language_are_those_of_open_clip(is_legacy: bool, tmp_path: Path) -> None:
    model = save_nllb_clip(tmp_path, is_legacy=is_legacy)
    assert "is an NLLB-CLIP, which must be told the language of each text" in load_error(tmp_path)
    clip = worldclip.load(tmp_path, device="cpu", tells_language=True)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    codes = {"en": "eng_Latn", "de": "deu_Latn", "zh": "zho_Hans", "ar": "arb_Arab", "fa": "pes_Arab"}
    used = {lang: nllb.in_language(clip, lang) for lang in codes}  # all at once: none changes another
    texts = ["a red apple", "a text of many words " * 40, ""]
    german = tokenizer.tokenizer.convert_tokens_to_ids("deu_Latn")
    for lang, code in codes.items():
        tokenizer.tokenizer.src_lang = code  # set_language alone: transformers 5 goes back to src_lang at each call
        ids = tokenizer(texts)
        assert used[lang].tokenizer.encode(texts).padded().tolist() == ids.tolist()
        np.testing.assert_allclose(used[lang].encode_text(texts), unit(model.encode_text(ids)), atol=2e-6)
        is_once = used[lang].tokenizer.encode(["deu_Latn apple"]).ids.tolist().count(german)
        assert is_once == (lang == "de")  # a language's name in a text stays text
    assert nllb.in_language(clip, "fr") is clip  # its tokenizer has no token of it
    np.testing.assert_array_equal(clip.encode_text(texts), used["en"].encode_text(texts))
