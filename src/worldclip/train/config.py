"""What is trained, on how many samples, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The two towers; `preset` names a row of the recipe's table, the other keys change it."""

    preset: str = "vit_b32"
    """Preset: tiny, vit_s16, vit_m16, vit_b32, vit_b16, vit_l14, vit_h14, vit_bigg14."""
    image_size: int | None = None
    patch_size: int | None = None
    vision_layers: int | None = None
    vision_width: int | None = None
    text_layers: int | None = None
    text_width: int | None = None
    embed_dim: int | None = None
    context_length: int | None = None

    def problems(self) -> list[str]:
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """A Hugging Face tokenizer, or one trained on the curated texts."""

    path: str | None = None
    """Hub id or folder; unset: a Unigram tokenizer is trained on the curated texts."""
    vocab_size: int = 8_000
    """Pieces of the tokenizer to train."""

    def problems(self) -> list[str]:
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The training loop; durations in samples seen."""

    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    samples_seen: int = 170_000
    """Image-text pairs seen in all."""
    global_batch_size: int = 256
    """Pairs a step, over all processes."""
    lr: float = 5e-4
    """Peak learning rate."""
    warmup_samples: int = 10_000
    """Samples of linear warm-up; cosine to 0 after it."""
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    seed: int = 0
    crop_scale_min: float = 0.9
    """Least share of the image's area in RandomResizedCrop."""
    shuffle_shards: int = 64
    """Shards in a window of the epoch's plan; pairs are shuffled within a window."""
    checkpoint_every_samples: int = 50_000
    checkpoint_every_minutes: float = 10.0
    keep_last: int = 2

    def problems(self) -> list[str]:
        return []
