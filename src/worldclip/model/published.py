"""List the published Meta CLIP 2 weights: their names in each library, and facts that their tensors do not show.

Sources: arXiv:2507.22062; the model pages of huggingface.co/facebook; open_clip's model_configs/*worldwide*.json and
pretrained.py; timm's vision_transformer.py (tags `metaclip2_worldwide`).  The reference's names: the two tables of Meta
CLIP 2 in the README of facebookresearch/MetaCLIP of 2025-11-21; at 384 px, the names of its configuration files.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldclip.model.config import Activation, ModelConfig, PresetName


@dataclass(frozen=True, slots=True)
class PublishedTokenizer:
    """A tokenizer on the hub, in the numbers that a model depends on."""

    hub_id: str
    vocab_size: int
    bos_id: int | None
    pad_id: int
    eos_id: int
    context_length: int = 77


XLM_V = PublishedTokenizer("facebook/xlm-v-base", 901_629, bos_id=0, pad_id=1, eos_id=2)
MT5 = PublishedTokenizer("google/siglip-so400m-patch16-256-i18n", 250_000, bos_id=None, pad_id=1, eos_id=1)
XLM_R = PublishedTokenizer("FacebookAI/xlm-roberta-base", 250_002, bos_id=0, pad_id=1, eos_id=2)
GEMMA = PublishedTokenizer("google/gemma-2b", 256_000, bos_id=2, pad_id=0, eos_id=1)
TOKENIZERS = (XLM_V, MT5, XLM_R, GEMMA)  # the four that the paper's ablation compares


_REFERENCE_SIZES: dict[str, str] = {
    "vit_s16": "ViT-S-16",
    "vit_m16": "ViT-M-16",
    "vit_b32": "ViT-B-32",
    "vit_b16": "ViT-B-16",
    "vit_l14": "ViT-L-14",
    "vit_h14": "ViT-H-14",
    "vit_bigg14": "ViT-bigG-14",
}


@dataclass(frozen=True, slots=True)
class Published:
    """One set of published weights."""

    hub_id: str
    preset: PresetName
    image_size: int
    activation: Activation = "gelu"
    tokenizer: PublishedTokenizer = XLM_V
    open_clip: str | None = None
    """Name of open_clip's built-in configuration, None where it has none."""
    timm: str | None = None
    """timm's hub repository, which holds both towers."""

    @property
    def name(self) -> str:
        return self.hub_id.rpartition("/")[2]

    @property
    def reference(self) -> str:
        """The name in the MetaCLIP reference's mini_clip/model_configs."""
        parts = [_REFERENCE_SIZES[self.preset]]
        if self.activation == "quick_gelu":
            parts.append("quickgelu")
        if self.tokenizer is MT5:
            parts.append("mT5")
        if self.image_size != 224:
            parts.append(str(self.image_size))
        return "-".join([*parts, "worldwide"])

    def model_config(self) -> ModelConfig:
        return ModelConfig(preset=self.preset, image_size=self.image_size)


_HUB = "facebook/metaclip-2-"
_H14 = "timm/vit_huge_patch14_clip_{}.metaclip2_worldwide"
_BIGG14 = "timm/vit_gigantic_patch14_clip_{}.metaclip2_worldwide"
_SMALL: tuple[tuple[str, PresetName], ...] = (
    ("s16", "vit_s16"),
    ("m16", "vit_m16"),
    ("b32", "vit_b32"),
    ("b16", "vit_b16"),
)

FAMILY: tuple[Published, ...] = (
    Published(
        f"{_HUB}worldwide-huge-quickgelu",
        "vit_h14",
        224,
        activation="quick_gelu",
        open_clip="ViT-H-14-worldwide-quickgelu",
        timm=_H14.format(224),
    ),
    Published(f"{_HUB}worldwide-huge-378", "vit_h14", 378, open_clip="ViT-H-14-worldwide-378", timm=_H14.format(378)),
    Published(f"{_HUB}worldwide-giant", "vit_bigg14", 224, open_clip="ViT-bigG-14-worldwide", timm=_BIGG14.format(224)),
    Published(
        f"{_HUB}worldwide-giant-378", "vit_bigg14", 378, open_clip="ViT-bigG-14-worldwide-378", timm=_BIGG14.format(378)
    ),
    *(Published(f"{_HUB}worldwide-{size}", preset, 224) for size, preset in _SMALL),
    *(Published(f"{_HUB}worldwide-{size}-384", preset, 384) for size, preset in _SMALL),
    Published(f"{_HUB}worldwide-l14", "vit_l14", 224),
    *(Published(f"{_HUB}mt5-worldwide-{size}", preset, 224, tokenizer=MT5) for size, preset in _SMALL[:3]),
)

_MT5_BASE = (
    "its tokenizer is mT5-base with 250,100 ids, after lower-casing and removing marks; no published weights of "
    "Meta CLIP 2 have that shape"
)
# open_clip's configurations with similar names that build another model; the reference's model of the first name is
# told apart by its token table
OTHER_MODELS = {"ViT-L-14-worldwide": _MT5_BASE, "ViT-L-14-worldwide-quickgelu": _MT5_BASE}
MT5_BASE_IDS = 250_100


def activation(preset: str, image_size: int) -> Activation:
    """Return the activation of the published weights of that size; gelu where none are published."""
    for row in FAMILY:
        if (row.preset, row.image_size) == (preset, image_size):
            return row.activation
    return "gelu"


def find(name: str) -> Published | None:
    """Return the row with this hub id, its last part, or name in open_clip, timm or the reference; else None.

    The README of the reference writes its name @ the class of the text encoder, `ViT-B-32-worldwide@WorldWideCLIP`.
    """
    for row in FAMILY:
        encoder = "WorldWideCLIP"
        if row.tokenizer is MT5:
            encoder = "mT5WorldWideCLIP"
        if name in (row.hub_id, row.name, row.open_clip, row.timm, row.reference, f"{row.reference}@{encoder}"):
            return row
    return None
