"""Distillation: a teacher's features of each batch.

B pairs, S image side, E embed_dim of the teacher.
"""

from __future__ import annotations

import torch

from worldclip.core.errors import UserError
from worldclip.model.inference import Clip
from worldclip.model.load import load
from worldclip.model.preprocess import facts_of
from worldclip.train.dual_encoder import TEXT_CHUNKS
from worldclip.train.loader import Batch
from worldclip.train.step import Features


def load_teacher(source: str, device: torch.device) -> Clip:
    """Load train.distill.teacher.  Raises UserError for one whose pixels cannot be made from a square crop."""
    clip = load(source, device=device.type)
    try:
        facts_of(clip.processor)
    except UserError as error:
        raise UserError(f"train.distill.teacher = {source!r}: {error}; choose another teacher") from error
    return clip


def encode_by_teacher(clip: Clip, batch: Batch, device: torch.device, precision: str) -> Features:
    """Return (B, E) float32 features of unit length of the batch's images and texts.

    clip: train.distill.teacher, which reads them with its own preprocessing and tokenizer.  Images are resized
    bicubically from the model's crop to the teacher's size, the whole crop.
    """
    facts = facts_of(clip.processor)
    images_B3SS = batch.images.to(device)
    if images_B3SS.shape[-1] != facts.size:
        size = (facts.size, facts.size)
        images_B3SS = torch.nn.functional.interpolate(images_B3SS, size, mode="bicubic", antialias=True)
    pixels = images_B3SS.float() / 255
    mean = torch.tensor(facts.mean, device=device)[:, None, None]
    std = torch.tensor(facts.std, device=device)[:, None, None]
    tokens = clip.tokenizer.encode(batch.texts)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        image_BE = clip.backend.encode_pixels((pixels - mean) / std)
        text_BE = clip.backend.encode_tokens(tokens, num_chunks=TEXT_CHUNKS)
    return torch.from_numpy(image_BE).to(device), torch.from_numpy(text_BE).to(device)
