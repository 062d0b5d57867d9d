"""The bare image tower for transformers' MetaClip2VisionModel, as multimodal language models read it.

It has no projection, so it is written and compared, and never read as a CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldclip.core.job import Report
from worldclip.model import preprocess, sample_inputs
from worldclip.model.formats.interface import TORCH, CardFacts, about, largest_difference
from worldclip.model.inference import Clip
from worldclip.model.tokenizer import require_transformers

requires = TORCH
CARD = CardFacts(
    library="transformers",
    use=(
        "from transformers import MetaClip2VisionModel",
        "",
        'tower = MetaClip2VisionModel.from_pretrained("THIS FOLDER")',
        "patches = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]",
    ),
    checked=largest_difference("transformers"),
    files=("*.json", "*.safetensors"),
    about=about("The image encoder of a CLIP without its projection, for the patch features of multimodal LLMs"),
    is_image_tower=True,
)


def write(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> None:
    """Write the tower and its preprocessing."""
    clip.model.vision_model.save_pretrained(folder)
    preprocess.to_hugging_face(preprocess.facts_of(clip.processor)).save_pretrained(folder)


def compare(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> Report:
    """Compare patch features, relative to the largest: they are not normalised to any length."""
    import torch

    model = require_transformers().MetaClip2VisionModel.from_pretrained(folder).eval()
    pixels = sample_inputs.pixels(clip)
    with torch.inference_mode():
        actual = _patch_features(model, pixels)
        expected = _patch_features(clip.model.vision_model, pixels)
    difference = float((actual - expected).abs().max() / expected.abs().max())
    return {"max_difference": sample_inputs.require_close(difference, "transformers")}


def _patch_features(vision_model: Any, pixels_B3SS: Any) -> Any:
    """Return (B, patches, width): the block before the last, without the class token, as LLaVA (arXiv:2304.08485)."""
    return vision_model(pixel_values=pixels_B3SS, output_hidden_states=True).hidden_states[-2][:, 1:]
