"""Describe how an image becomes pixels in four facts, read from one library's settings and written in another's.

The libraries do not do the same with the same facts.  Each rounds the crop's offset and the resized side in its own
way, and Hugging Face resizes tensors where the others resize PIL images.  docs/7_export.md measures the effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from worldclip.core.errors import UserError
from worldclip.core.job import Report
from worldclip.model.tokenizer import require_transformers

if TYPE_CHECKING:
    import torch
    from transformers import CLIPImageProcessor

BICUBIC = 3  # PIL.Image.Resampling.BICUBIC, without importing Pillow


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Bicubic resize to `size`, pixels in [0, 1] less `mean` over `std`."""

    size: int
    mode: Literal["shortest", "squash"]
    """shortest: the short side to size, then the central square; squash: both sides to size."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PerImage:
    """A library's transform of one PIL image, called as Hugging Face's image processors are."""

    transform: Callable[[Any], torch.Tensor]
    facts: Preprocess

    def __call__(self, images: list[Any], return_tensors: str = "pt") -> dict[str, torch.Tensor]:
        import torch

        return {"pixel_values": torch.stack([self.transform(image) for image in images])}


def facts_of(processor: Any) -> Preprocess:
    """Return what a loaded model's processor does.

    Raises UserError for anything but a bicubic resize to one size, in one of the two modes.
    """
    if isinstance(processor, PerImage):
        return processor.facts
    size = dict(processor.size or {})
    crop = dict(getattr(processor, "crop_size", None) or {})
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    is_rescaled = abs(processor.rescale_factor * 255 - 1) < 1e-6  # 1/255 as JSON writes it
    is_plain = processor.do_resize and processor.do_normalize and processor.resample == BICUBIC and is_rescaled
    shortest = size.get("shortest_edge")
    if is_plain and processor.do_center_crop and shortest is not None and set(crop.values()) == {shortest}:
        return Preprocess(shortest, "shortest", mean, std)
    if is_plain and "height" in size and size["height"] == size["width"]:
        return Preprocess(size["height"], "squash", mean, std)
    raise UserError(
        f"the image processor resizes to {size}, crops to {crop}, resample {processor.resample}; only a bicubic resize "
        "to one size (shortest edge and central crop, or both sides) can be written for other libraries"
    )


def to_hugging_face(facts: Preprocess) -> CLIPImageProcessor:
    """Return Hugging Face's processor."""
    edges = {"height": facts.size, "width": facts.size}
    is_shortest = facts.mode == "shortest"
    return require_transformers().CLIPImageProcessor(
        size={"shortest_edge": facts.size} if is_shortest else edges,
        do_center_crop=is_shortest,
        crop_size=edges,
        image_mean=list(facts.mean),
        image_std=list(facts.std),
    )


def to_open_clip(facts: Preprocess) -> Report:
    """Return preprocess_cfg of open_clip_config.json."""
    return {"mean": list(facts.mean), "std": list(facts.std), "interpolation": "bicubic", "resize_mode": facts.mode}


def to_timm(facts: Preprocess) -> Report:
    """Return the data keys of timm's pretrained_cfg."""
    return {
        "input_size": (3, facts.size, facts.size),
        "mean": facts.mean,
        "std": facts.std,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash" if facts.mode == "squash" else "center",
    }
