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
from worldclip.core.job import Report
from worldclip.model import weights
from worldclip.model.clip import IMAGE_MEAN, IMAGE_STD, check_tokenizer
from worldclip.model.formats.huggingface_folder import FAMILY
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.preprocess import BICUBIC, PerImage, facts_of, pillow_pixels
from worldclip.model.records import check_normaliser, tokenizer_faults
from worldclip.model.tokenizer import Tokenizer

TOKENIZER = "tokenizer.json"
PROCESSOR = "preprocessor_config.json"
# What transformers' MetaClip2Config takes for keys that config.json leaves out.
_VISION_DEFAULTS = {"image_size": 224}
_TEXT_DEFAULTS = {"max_position_embeddings": 77, "vocab_size": 49408}
_PROCESSOR_DEFAULTS: Report = {
    "do_resize": True,
    "do_center_crop": True,
    "do_normalize": True,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": BICUBIC,
    "rescale_factor": 1 / 255,
    "image_mean": IMAGE_MEAN,
    "image_std": IMAGE_STD,
}  # defaults of transformers' CLIPImageProcessor


def are_plain(folder: Path, options: LoadOptions) -> bool:
    """Return whether a folder has the files that are read here; others need transformers."""
    place = Path(options.tokenizer or folder)
    return (place / TOKENIZER).is_file() and (folder / PROCESSOR).is_file()


def read_plain_parts(folder: Path, options: LoadOptions) -> tuple[Any, Tokenizer, PerImage]:
    """Return the configuration (attributes as transformers'), tokenizer and image processor, which must fit together.

    Raises UserError for anything incomplete, corrupt or of another family.
    """
    weights.refuse_foreign_code(folder)
    config = _read_config(folder)
    plain: Any = PlainTokenizer(Path(options.tokenizer or folder))
    tokenizer = Tokenizer(plain, config.text_config.max_position_embeddings)
    for name in ("bos", "eos", "pad"):
        if getattr(config.text_config, f"{name}_token_id", None) is None:
            setattr(config.text_config, f"{name}_token_id", getattr(tokenizer, f"{name}_id"))
    check_tokenizer(config, tokenizer)
    return config, tokenizer, _read_processor(folder / PROCESSOR, config.vision_config.image_size)


def _read_config(folder: Path) -> Any:
    record = weights.read_json_config(folder / "config.json")
    if record.get("model_type") != FAMILY:
        raise UserError(f"{folder} holds a {record.get('model_type')!r} model; this needs a {FAMILY!r} one")
    towers = {
        "vision_config": SimpleNamespace(**_VISION_DEFAULTS | dict(record.get("vision_config") or {})),
        "text_config": SimpleNamespace(**_TEXT_DEFAULTS | dict(record.get("text_config") or {})),
    }
    return SimpleNamespace(**record | towers)


def _read_processor(path: Path, image_size: int) -> PerImage:
    record = _PROCESSOR_DEFAULTS | weights.read_json_config(path)
    size, crop = record["size"], record["crop_size"]
    record["size"] = {"shortest_edge": size} if isinstance(size, int) else size  # older transformers write a number
    record["crop_size"] = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    facts = facts_of(SimpleNamespace(**record))
    if facts.size != image_size:
        raise UserError(
            f"{path.parent}: {path.name} makes images of {facts.size} px, the model reads {image_size} px; they belong "
            "to different models"
        )
    return PerImage(partial(pillow_pixels, facts), facts)


class PlainTokenizer:
    """A tokenizer.json, with what model.tokenizer.Tokenizer asks of transformers' tokenizers."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's tokenizer.  Raises UserError for files that are corrupt or name unknown special tokens."""
        tokenizers = require("tokenizers", extra="onnx")
        try:
            with tokenizer_faults(folder / TOKENIZER):
                self.backend_tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        except UserError:
            raise
        except Exception as error:  # the library raises plain Exceptions
            raise UserError(
                f"{folder / TOKENIZER} does not load as a tokenizer ({error}); copy or download it again"
            ) from error
        check_normaliser(self.backend_tokenizer.normalizer, folder / TOKENIZER)
        self.backend_tokenizer.no_padding()
        records = [folder / "special_tokens_map.json", folder / "tokenizer_config.json"]
        named: Report = {}
        for path in records:
            named |= weights.read_json_config(path) if path.exists() else {}
        self._specials = {name: _content(named.get(f"{name}_token")) for name in ("bos", "eos", "pad", "unk")}
        self._truncation_side = named.get("truncation_side", "right")

    @property
    def all_special_tokens(self) -> list[str]:
        return [token for token in self._specials.values() if token is not None]

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        decoder: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return decoder

    @property
    def eos_token(self) -> str | None:
        return self._specials["eos"]

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of("bos")

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of("eos")

    @property
    def pad_token_id(self) -> int | None:
        return self._id_of("pad")

    def _id_of(self, name: str) -> int | None:
        token = self._specials[name]
        token_id: int | None = None if token is None else self.backend_tokenizer.token_to_id(token)
        return token_id

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


def _content(token: Any) -> str | None:
    """Return the text of a special token, which records write as a string or as a table."""
    return token.get("content") if isinstance(token, dict) else token
