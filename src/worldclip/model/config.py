"""The sizes of the model and its tokenizer: presets, and the keys of a recipe that change them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from worldclip.core.settings import AtLeast, Between, Config, Place, Problems

PresetName = Literal["tiny", "vit_s16", "vit_m16", "vit_b32", "vit_b16", "vit_l14", "vit_h14", "vit_bigg14"]
Init = Literal["scaled", "reference"]
Activation = Literal["gelu", "quick_gelu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Sizes of both towers.  Heads are given by their width, not their number: a wider tower gets more of them."""

    image_size: int = 224
    patch_size: int
    vision_layers: int
    vision_width: int
    vision_head_width: int = 64
    vision_mlp_ratio: float = 4.0
    text_layers: int
    text_width: int
    text_head_width: int = 64
    embed_dim: int
    context_length: int = 77


def _preset(
    patch_size: int, vision: tuple[int, int], text: tuple[int, int], embed_dim: int, **sizes: Any
) -> Architecture:
    """Return an architecture; vision and text are (layers, width) of the towers."""
    return Architecture(
        patch_size=patch_size,
        vision_layers=vision[0],
        vision_width=vision[1],
        text_layers=text[0],
        text_width=text[1],
        embed_dim=embed_dim,
        **sizes,
    )


# From arXiv:2507.22062 and the configurations of the published weights; `tiny` is ours, for two CPU cores.
PRESETS: dict[str, Architecture] = {
    "tiny": _preset(
        8, (4, 128), (3, 128), 128, image_size=40, context_length=32, vision_head_width=32, text_head_width=32
    ),
    "vit_s16": _preset(16, (12, 384), (12, 384), 384),
    "vit_m16": _preset(16, (12, 512), (12, 512), 512),
    "vit_b32": _preset(32, (12, 768), (12, 512), 512),
    "vit_b16": _preset(16, (12, 768), (12, 512), 512),
    "vit_l14": _preset(14, (24, 1024), (12, 768), 768),
    "vit_h14": _preset(14, (32, 1280), (24, 1024), 1024, vision_head_width=80),
    "vit_bigg14": _preset(14, (48, 1664), (32, 1280), 1280, vision_head_width=104, vision_mlp_ratio=4.9231),
}

_Size = Annotated[int | None, AtLeast(1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Config):
    """The two towers: a preset, and sizes in place of the preset's."""

    SECTION: ClassVar[str | None] = "train.model"

    preset: PresetName = "vit_b32"
    """Named architecture that the other keys change; `tiny` trains on two CPU cores."""
    image_size: _Size = None
    """Side of the square image that the model sees, in pixels; a multiple of the patch."""
    patch_size: _Size = None
    """Side of a square patch, in pixels."""
    vision_layers: _Size = None
    """Transformer blocks of the image tower."""
    vision_width: _Size = None
    """Channels of the image tower; a multiple of the preset's head width."""
    text_layers: _Size = None
    """Transformer blocks of the text tower."""
    text_width: _Size = None
    """Channels of the text tower; a multiple of the preset's head width."""
    embed_dim: _Size = None
    """Dimensions of an embedding."""
    context_length: Annotated[int | None, AtLeast(2, "tokens; a text and its end token need two")] = None
    """Tokens per text, end token included; longer texts are truncated."""
    activation: Activation | None = None
    """Activation of both towers' MLPs.  Unset: that of the published weights of this size, else gelu.  The reference
    trains every size from scratch with quick_gelu; its distilled small models are published with gelu."""
    init: Init = "scaled"
    """Initial weights. scaled: CLIP's scheme of the text tower (normal, scaled by width and depth; biases 0) in both
    towers; reference: in the text tower only, and PyTorch's defaults elsewhere, as in CLIP, open_clip and Meta CLIP."""

    def architecture(self) -> Architecture:
        """Return the preset's architecture with the sizes that are set."""
        return dataclasses.replace(PRESETS[self.preset], **self._sizes())

    def _sizes(self) -> dict[str, int]:
        """Return the sizes that are set."""
        sizes = {}
        for field in dataclasses.fields(Architecture):
            size = getattr(self, field.name, None)
            if size is not None:
                sizes[field.name] = size
        return sizes

    def own_problems(self) -> Problems:
        """Yield sizes that are no multiples of a patch or a head."""
        if min(self._sizes().values(), default=1) < 1:
            return
        sizes = self.architecture()
        size = sizes.image_size
        patch = sizes.patch_size
        if size % patch:
            nearest = max(1, size // patch) * patch
            yield "image_size", f"{size} is not a multiple of the patch size {patch}; set {nearest}, for example"
        for tower, width, head_width in (
            ("vision", sizes.vision_width, sizes.vision_head_width),
            ("text", sizes.text_width, sizes.text_head_width),
        ):
            if width % head_width:
                yield f"{tower}_width", f"must be a multiple of {head_width}, the width of the heads of {self.preset}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig(Config):
    """A Hugging Face tokenizer, or one that is trained on the curated texts."""

    SECTION: ClassVar[str | None] = "train.tokenizer"

    path: Annotated[str | None, Place(or_name=True)] = None
    """Hub id or folder of a tokenizer.  Unset: train one on the curated texts."""
    vocab_size: Annotated[int, AtLeast(16, "pieces")] = 8_000
    """Pieces of the tokenizer to train, special tokens included; fewer if the texts do not have that many."""
    lang_exponent: Annotated[
        float, Between(0, 1, "an exponent; 0 weighs every language alike, 1 weighs them as curated")
    ] = 0.3
    """Exponent that each language's share of the curated texts is raised to before the tokenizer is trained; 1: shares
    as curated, 0: the same share for every language."""
