"""A Hugging Face folder, checked with plain transformers; and the image tower alone, as MLLMs read it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.export import probe
from worldclip.model import preprocess
from worldclip.model.tokenizer import require_transformers

if TYPE_CHECKING:
    from worldclip.model.inference import Clip


def copy(checkpoint: Path, folder: Path) -> None:
    """A checkpoint without its trainer's state, its bytes unchanged."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("trainer"), dirs_exist_ok=True)


def write(clip: Clip, folder: Path) -> None:
    """A model of any source as a Hugging Face folder."""
    clip.model.save_pretrained(folder)
    write_tokenizer_and_processor(clip, folder)


def write_tokenizer_and_processor(clip: Clip, folder: Path) -> None:
    assert clip.tokenizer is not None
    clip.tokenizer.save(folder)
    preprocess.to_hugging_face(preprocess.facts_of(clip.processor)).save_pretrained(folder)


def compare(clip: Clip, folder: Path) -> float:
    """Largest difference of any embedding's element between `clip` and the folder in transformers' own classes."""
    import torch

    transformers = require_transformers()
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    labels = list(probe.LABELS)
    read = processor(text=labels, images=probe.images(), return_tensors="pt", padding=True, truncation=True)
    # the preprocessing too, where the source was a Hugging Face folder; else the source's own decides, on its pixels
    if isinstance(clip.processor, preprocess.PerImage):
        read["pixel_values"] = probe.pixels(clip)
    with torch.inference_mode():
        found = model(**read)
    return max(
        probe.max_difference(found.text_embeds.numpy(), clip.encode_text(labels)),
        probe.max_difference(found.image_embeds.numpy(), clip.towers.encode_pixels(read["pixel_values"])),
    )


def write_vision(clip: Clip, folder: Path) -> None:
    """The image tower for MetaClip2VisionModel: no projection, no text."""
    clip.model.vision_model.save_pretrained(folder)
    preprocess.to_hugging_face(preprocess.facts_of(clip.processor)).save_pretrained(folder)


def compare_vision(clip: Clip, folder: Path) -> float:
    """Largest relative difference of the penultimate block's patch features, which are of no fixed length."""
    import torch

    model = require_transformers().MetaClip2VisionModel.from_pretrained(folder).eval()
    pixels = probe.pixels(clip)
    with torch.inference_mode():
        found, expected = patch_features(model, pixels), patch_features(clip.model.vision_model, pixels)
    return float((found - expected).abs().max() / expected.abs().max())


def patch_features(vision_model: Any, pixels_B3SS: Any) -> Any:
    """(B, 3, S, S) -> (B, patches, width): the block before the last, without the class token, as LLaVA reads it."""
    return vision_model(pixel_values=pixels_B3SS, output_hidden_states=True).hidden_states[-2][:, 1:]
