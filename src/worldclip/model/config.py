"""The model and its tokenizer in numbers: presets, and the keys of a recipe that change them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

PresetName = Literal["tiny", "vit_s16", "vit_m16", "vit_b32", "vit_b16", "vit_l14", "vit_h14", "vit_bigg14"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Both towers in numbers; widths of a head, not their count, so that another width keeps the head."""

    image_size: int = 224
    patch_size: int
    vision_layers: int
    vision_width: int
    vision_head_width: int = 64
    vision_mlp_ratio: float = 4.0
    text_layers: int = 12
    text_width: int
    text_head_width: int = 64
    embed_dim: int
    context_length: int = 77


# arXiv:2507.22062 and the published weights' configurations; `tiny` is ours, for two CPU cores.
PRESETS: dict[str, Architecture] = {
    "tiny": Architecture(
        image_size=40,
        patch_size=8,
        vision_layers=4,
        vision_width=128,
        vision_head_width=32,
        text_layers=3,
        text_width=128,
        text_head_width=32,
        embed_dim=128,
        context_length=32,
    ),
    "vit_s16": Architecture(patch_size=16, vision_layers=12, vision_width=384, text_width=384, embed_dim=384),
    "vit_m16": Architecture(patch_size=16, vision_layers=12, vision_width=512, text_width=512, embed_dim=512),
    "vit_b32": Architecture(patch_size=32, vision_layers=12, vision_width=768, text_width=512, embed_dim=512),
    "vit_b16": Architecture(patch_size=16, vision_layers=12, vision_width=768, text_width=512, embed_dim=512),
    "vit_l14": Architecture(patch_size=14, vision_layers=24, vision_width=1024, text_width=768, embed_dim=768),
    "vit_h14": Architecture(
        patch_size=14,
        vision_layers=32,
        vision_width=1280,
        vision_head_width=80,
        text_layers=24,
        text_width=1024,
        embed_dim=1024,
    ),
    "vit_bigg14": Architecture(
        patch_size=14,
        vision_layers=48,
        vision_width=1664,
        vision_head_width=104,
        vision_mlp_ratio=4.9231,
        text_layers=32,
        text_width=1280,
        embed_dim=1280,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The two towers: a row of the recipe's table, the other keys change it."""

    preset: PresetName = "vit_b32"
    """Row of the table; `tiny` trains on two CPU cores."""
    image_size: int | None = None
    """Side of the square that images are cut to, in pixels; a multiple of patch_size."""
    patch_size: int | None = None
    """Side of a patch in pixels."""
    vision_layers: int | None = None
    """Transformer blocks of the image tower."""
    vision_width: int | None = None
    """Channels of the image tower; a multiple of the preset's head width."""
    text_layers: int | None = None
    """Transformer blocks of the text tower."""
    text_width: int | None = None
    """Channels of the text tower; a multiple of the preset's head width."""
    embed_dim: int | None = None
    """Length of an embedding."""
    context_length: int | None = None
    """Tokens of a text, the end token included; longer texts are cut."""

    def architecture(self) -> Architecture:
        """The preset with the keys that are set."""
        given = {key: value for key in _SIZES if (value := getattr(self, key)) is not None}
        return dataclasses.replace(PRESETS[self.preset], **given)

    def problems(self) -> list[str]:
        if self.preset not in PRESETS:
            return [f"train.model.preset is {self.preset!r}; it is one of {', '.join(PRESETS)}"]
        found = [
            f"train.model.{key} is {value}; it is a size and must be at least 1"
            for key in _SIZES
            if (value := getattr(self, key)) is not None and value < 1
        ]
        if found:
            return found
        sizes = self.architecture()
        if sizes.image_size % sizes.patch_size:
            found.append(
                f"train.model.image_size is {sizes.image_size}; it must be a multiple of the patch size "
                f"{sizes.patch_size}, for example {sizes.image_size // sizes.patch_size * sizes.patch_size}"
            )
        for tower in ("vision", "text"):
            width, head_width = getattr(sizes, f"{tower}_width"), getattr(sizes, f"{tower}_head_width")
            if width % head_width:
                found.append(
                    f"train.model.{tower}_width is {width}; the heads of {self.preset} are {head_width} wide, "
                    f"so that it must be a multiple of {head_width}"
                )
        if sizes.context_length < 2:
            found.append(f"train.model.context_length is {sizes.context_length}; a text and its end need at least 2")
        return found


_SIZES = tuple(item.name for item in dataclasses.fields(ModelConfig) if item.name != "preset")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """A Hugging Face tokenizer, or one trained on the curated texts."""

    path: str | None = None
    """Hub id or folder; unset: one is trained on the curated texts."""
    model: Literal["unigram", "bpe"] = "unigram"
    """Of the tokenizer to train: unigram (likeliest pieces) or bpe (merged pairs)."""
    vocab_size: int = 8_000
    """Pieces of the tokenizer to train, special tokens included; fewer where the texts do not hold so many."""
    lang_exponent: float = 0.3
    """A language's share of the texts to train on is its share of the curated ones to this power, scaled; 1: as
    curated, 0: every language alike."""

    def problems(self) -> list[str]:
        found = []
        if self.vocab_size < 16:
            found.append(f"train.tokenizer.vocab_size is {self.vocab_size}; it counts pieces and must be at least 16")
        if not 0 <= self.lang_exponent <= 1:
            found.append(
                f"train.tokenizer.lang_exponent is {self.lang_exponent}; it is a power from 0 (every language alike) "
                "to 1 (as curated)"
            )
        return found
