"""What all model folders share: the options of worldclip.load, and the packages that torch needs."""

from __future__ import annotations

from dataclasses import dataclass

from worldclip.core.registry import Requirement

TORCH = Requirement(("torch", "torchvision", "transformers", "tokenizers", "safetensors", "PIL"), extra="train")
"""The packages that reading weights into torch needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """The options of worldclip.load; None is the source's own choice."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    arch: str | None = None
    """The architecture of a bare file: a published name, or the path of an open_clip configuration."""
    tokenizer: str | None = None
    """Folder or hub id, for weights without a tokenizer."""
    precision: str | None = None
    """fp32, fp16, bf16 (torch), or of an ONNX folder fp32, fp16, int8."""
    tells_language: bool = False
    """Whether the caller tells NLLB-CLIP the language of each text."""
