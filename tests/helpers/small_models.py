"""Write random models and tokenizers in the published formats, at reduced width and depth."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import MetaClip2Config, MetaClip2Model

from worldclip.model.clip import image_processor, model_config
from worldclip.model.config import ModelConfig
from worldclip.model.published import MT5, Published
from worldclip.model.tokenizer import Tokenizer, adapt_tokenizer_config, load_tokenizer

TEXTS = ("a red apple", "ein Hund im Garten", "赤いリンゴ", "قطة صغيرة", "แมวสองตัว", "x " * 200, "")
# Texts that tokenizers and their copies in other languages get wrong; the special strings are not among them, since
# worldclip keeps them as text and other libraries do not.
HOSTILE = (
    "\0nul", "tab\tand\nnew line\r\n", "  spaces \u3000 of\u00a0kinds ", "zero\u200bwidth\u200djoiner", "   ",
    "\u202eright to left\u202c", "e\u0301 and é, ﬁ ﷺ Ⅷ ½", "👩\u200d👩\u200d👧 🏳️\u200d🌈 🇩🇪 👍🏽", "“curly” ‘quotes’ ’",
    "&lt;b&gt; <b>html</b> %20", "𝒳 𓀀 \U0010fffd", "a" * 5000, "ก" * 300, "ക്ഷ ক্ষ ཀྵ", "<unk", "s>", "\u2028\u2029",
    "İıſß ΣΑΣ", "\ufffd", "1\u0661\u0967一",
)  # fmt: skip
# White space in Python and not in JavaScript, and the other way round; so texts differ whose ends have one of them.
UNLIKE_IN_JS = ("\u0085a", "a red apple\ufeff")
SPECIAL = ("a </s> b", "<s><pad></s><unk><mask>", "</s>", "\ue000eos")
CORPUS = [text for text in TEXTS if text] + ["the quick brown fox jumps over the lazy dog", "0123456789 .,;:!?"]


@functools.cache
def sentencepiece_model() -> bytes:
    """Train a Unigram vocabulary over CORPUS with mT5's numbering: <pad> 0, </s> 1, <unk> 2."""
    import sentencepiece

    model_file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model_file,
        vocab_size=200,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model_file.getvalue()


def save_xlm_v(folder: Path, model_max_length: int = 512) -> None:
    """Write a tokenizer in XLM-V's format: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last.

    model_max_length: as published, which is not the model's context of 77 tokens.
    """
    import sentencepiece
    from transformers import XLMRobertaTokenizer

    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(3, len(model))]
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces, ("<mask>", 0.0)]
    XLMRobertaTokenizer(vocab=vocab, model_max_length=model_max_length).save_pretrained(folder)


def save_mt5(folder: Path) -> None:
    """Write a tokenizer in the format of SigLIP's i18n models: mT5's pieces, the end token 1 is the padding too.

    Its model_max_length is 64, as published.
    """
    from transformers import SiglipTokenizer

    file = folder / "spiece_source.model"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(sentencepiece_model())
    SiglipTokenizer(str(file), do_lower_case=False).save_pretrained(folder)
    adapt_tokenizer_config(folder, context_length=64)  # published by transformers 4
    file.unlink()


def save_tokenizer(row: Published, folder: Path) -> Tokenizer:
    (save_mt5 if row.tokenizer is MT5 else save_xlm_v)(folder)
    return load_tokenizer(folder, row.tokenizer.context_length)


def reduced_config(row: Published, tokenizer: Tokenizer) -> MetaClip2Config:
    """Return the row's configuration with two blocks per tower, two heads, few tokens and a grid of 2 x 2 patches."""
    sizes = row.model_config().architecture()
    small = ModelConfig(
        preset=row.preset,
        image_size=2 * sizes.patch_size,
        vision_layers=2,
        vision_width=2 * sizes.vision_head_width,
        text_layers=2,
        text_width=2 * sizes.text_head_width,
        embed_dim=48,
    )
    config = model_config(small, tokenizer)
    for tower in (config.text_config, config.vision_config):
        tower.hidden_act = row.activation
    return config


def random_model(config: MetaClip2Config, seed: int = 0) -> MetaClip2Model:
    """Return a model whose tensors are random, and large enough that an exchanged or transposed one shows."""
    torch.manual_seed(seed)
    model = _randomise(MetaClip2Model(config).eval())
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    return model


def save_hugging_face(row: Published, folder: Path) -> MetaClip2Model:
    """Write a folder as on the hub."""
    tokenizer = save_tokenizer(row, folder)
    config = reduced_config(row, tokenizer)
    model = random_model(config)
    model.save_pretrained(folder)
    image_processor(config.vision_config.image_size).save_pretrained(folder)
    return model


def reduced_open_clip_config(name: str, vocab_size: int) -> dict[str, Any]:
    """Return open_clip's configuration of that name with reduced depth, width and vocabulary."""
    import open_clip

    model_cfg = open_clip.get_model_config(name)
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    head_width = text["width"] // text["heads"]
    vision.update(layers=2, width=2 * vision.get("head_width", 64), image_size=2 * vision["patch_size"])
    text.update(layers=2, heads=2, width=2 * head_width, vocab_size=vocab_size)
    model_cfg["embed_dim"] = 48
    return model_cfg


def write_open_clip_config(folder: Path, model_cfg: dict[str, Any], **preprocess_cfg: Any) -> Path:
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}), encoding="utf-8")
    return path


def save_open_clip(folder: Path, model_cfg: dict[str, Any], model: torch.nn.Module) -> None:
    """Write a folder as open_clip does, with a mean and a deviation of 0.5."""
    write_open_clip_config(folder, model_cfg, mean=[0.5] * 3, std=[0.5] * 3)
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def random_open_clip(model_cfg: dict[str, Any]) -> torch.nn.Module:
    """Build open_clip's model of a configuration with random tensors."""
    import open_clip

    torch.manual_seed(0)
    return _randomise(open_clip.CLIP(**model_cfg).eval())


def _randomise(model: Any) -> Any:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                parameter.normal_(std=0.5 if parameter.ndim == 1 else 2 * parameter[0].numel() ** -0.5)
    return model


def random_pixels(size: int, num: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(num, 3, size, size)).astype(np.float32))


def unit(features: Any) -> np.ndarray:
    """Return the features, a tensor or an output of transformers, as rows of unit length."""
    features = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(features.detach().float(), dim=-1).numpy()
