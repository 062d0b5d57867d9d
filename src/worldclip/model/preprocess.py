"""An image's way to pixels, as each library writes it down: four facts, read from one and given to another.

The libraries do not do the same with the same facts: they round the crop's place and the resized side each in its own
way, and Hugging Face resizes tensors where the others resize PIL images.  docs/7_export.md measures what that does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from worldclip.core.errors import UserError
from worldclip.model.tokenizer import require_transformers

if TYPE_CHECKING:
    import torch
    from transformers import CLIPImageProcessor

BICUBIC = 3  # Pillow's number


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
    """What a loaded model's processor does.  Raises UserError where it is none of the family's two ways."""
    if isinstance(processor, PerImage):
        return processor.facts
    size, crop = dict(processor.size or {}), dict(getattr(processor, "crop_size", None) or {})
    is_plain = processor.do_resize and processor.do_normalize and processor.resample == BICUBIC
    is_plain = is_plain and abs(processor.rescale_factor * 255 - 1) < 1e-6
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    if (
        is_plain
        and processor.do_center_crop
        and "shortest_edge" in size
        and set(crop.values()) == {size["shortest_edge"]}
    ):
        return Preprocess(size["shortest_edge"], "shortest", mean, std)
    if is_plain and "height" in size and size["height"] == size["width"]:
        return Preprocess(size["height"], "squash", mean, std)
    raise UserError(
        f"the image processor resizes to {size}, crops to {crop}, resample {processor.resample}; other libraries are "
        "told of a bicubic resize to one size (shortest edge and central crop, or both sides)"
    )


def to_hugging_face(facts: Preprocess) -> CLIPImageProcessor:
    transformers = require_transformers()
    edges = {"height": facts.size, "width": facts.size}
    is_shortest = facts.mode == "shortest"
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": facts.size} if is_shortest else edges,
        do_center_crop=is_shortest,
        crop_size=edges,
        image_mean=list(facts.mean),
        image_std=list(facts.std),
    )


def to_open_clip(facts: Preprocess) -> dict[str, Any]:
    """preprocess_cfg of open_clip_config.json."""
    return {
        "mean": list(facts.mean),
        "std": list(facts.std),
        "interpolation": "bicubic",
        "resize_mode": facts.mode,
    }


def to_timm(facts: Preprocess) -> dict[str, Any]:
    """The data keys of timm's pretrained_cfg."""
    return {
        "input_size": (3, facts.size, facts.size),
        "mean": facts.mean,
        "std": facts.std,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash" if facts.mode == "squash" else "center",
    }
