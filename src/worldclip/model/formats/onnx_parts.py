"""Read the other files of an ONNX folder without torch and transformers: configuration, tokenizer, preprocessing.

Only numpy, Pillow and the package tokenizers are needed.  Texts become the same ids as by transformers.  Pixels come
from Pillow, where transformers' processors resize tensors: of the pixels of model/sample_inputs.py 4.6% differ, by at
most two levels of 255 (tests/export/test_export_onnx.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from worldclip.core.errors import UserError, require
from worldclip.model import weights
from worldclip.model.clip import check_tokenizer
from worldclip.model.formats.huggingface_folder import FAMILY, complete_special_ids
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.preprocess import PerImage, facts_of, pillow_pixels
from worldclip.model.tokenizer import Tokenizer
from worldclip.model.weights import library_faults

TOKENIZER = "tokenizer.json"
PROCESSOR = "preprocessor_config.json"
# What transformers' MetaClip2Config takes for keys that config.json leaves out.
_DEFAULTS = {
    "vision_config": {"image_size": 224},
    "text_config": {"max_position_embeddings": 77, "vocab_size": 49408},
}


def are_plain(folder: Path, options: LoadOptions) -> bool:
    """Return whether a folder has the files that are read here; others need transformers."""
    place = Path(options.tokenizer or folder)
    return (place / TOKENIZER).is_file() and (folder / PROCESSOR).is_file()


def read_plain_parts(folder: Path, options: LoadOptions) -> tuple[Any, Tokenizer, PerImage]:
    """Return the configuration (attributes as transformers'), tokenizer and image processor, which must fit together.

    Raises UserError for anything incomplete, corrupt or of another family.
    """
    weights.refuse_foreign_code(folder)
    record = weights.read_json_config(folder / "config.json")
    if record.get("model_type") != FAMILY:
        raise UserError(f"{folder} holds a {record.get('model_type')!r} model; this needs a {FAMILY!r} one")
    for name, defaults in _DEFAULTS.items():
        record[name] = SimpleNamespace(**defaults | dict(record.get(name) or {}))
    config: Any = SimpleNamespace(**record)
    plain: Any = PlainTokenizer(Path(options.tokenizer or folder))
    tokenizer = Tokenizer(plain, config.text_config.max_position_embeddings)
    complete_special_ids(config.text_config, vars(config.text_config), tokenizer)
    check_tokenizer(config, tokenizer)
    facts = facts_of(SimpleNamespace(**weights.read_json_config(folder / PROCESSOR)))
    image_size = config.vision_config.image_size
    if facts.size != image_size:
        raise UserError(
            f"{folder}: {PROCESSOR} makes images of {facts.size} px, the model reads {image_size} px; they belong to "
            "different models"
        )
    return config, tokenizer, PerImage(partial(pillow_pixels, facts), facts)


class PlainTokenizer:
    """A tokenizer.json, with what model.tokenizer.Tokenizer asks of transformers' tokenizers."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's tokenizer.  Raises UserError for files that are corrupt or name unknown special tokens."""
        tokenizers = require("tokenizers", extra="onnx")
        file = folder / TOKENIZER
        with library_faults(f"{file} does not load as a tokenizer", "copy or download it again"):
            self.backend_tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self.backend_tokenizer.no_padding()
        named = weights.read_optional_config(folder / "tokenizer_config.json")
        self._truncation_side = named.get("truncation_side", "right")
        tokens: dict[str, str] = {}
        for name in ("bos", "eos", "pad", "unk"):
            token = named.get(f"{name}_token")
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                tokens[name] = text
        ids = {name: self.backend_tokenizer.token_to_id(token) for name, token in tokens.items()}
        self.all_special_tokens = list(tokens.values())
        self.added_tokens_decoder: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        self.eos_token = tokens.get("eos")
        self.bos_token_id: int | None = ids.get("bos")
        self.eos_token_id: int | None = ids.get("eos")
        self.pad_token_id: int | None = ids.get("pad")

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def __call__(
        self, texts: str | Sequence[str], *, truncation: bool = False, max_length: int | None = None, **options: bool
    ) -> dict[str, Any]:
        """Return {"input_ids": ids of a text, or of each text}, special tokens included."""
        if truncation and max_length is not None:
            self.backend_tokenizer.enable_truncation(max_length, direction=self._truncation_side)
        else:
            self.backend_tokenizer.no_truncation()
        if isinstance(texts, str):
            return {"input_ids": self.backend_tokenizer.encode(texts).ids}
        return {"input_ids": [encoding.ids for encoding in self.backend_tokenizer.encode_batch(list(texts))]}
