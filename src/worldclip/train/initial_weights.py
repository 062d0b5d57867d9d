"""Weights of another model to start from: train.initial_weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from worldclip.contracts import layout
from worldclip.core.errors import UserError
from worldclip.model.clip import IMAGE_MEAN, IMAGE_STD
from worldclip.model.load import find, load
from worldclip.model.preprocess import describe
from worldclip.model.tokenizer import Tokenizer
from worldclip.train.checkpoint import CheckpointReader

if TYPE_CHECKING:
    from transformers import MetaClip2Model

POSITIONS = "vision_model.embeddings.position_embedding.weight"


def load_initial_weights(model: MetaClip2Model, source: str, tokenizer: Tokenizer) -> None:
    """Fill `model` with the weights of a run, a Hugging Face folder or a hub id, whose image size may differ.

    tokenizer: the run's.  Raises UserError if shapes differ, or the heads or the activation, which shapes do not show;
    if the source's tokenizer has other pieces: rows of its token table would stand for other pieces here; and if the
    source normalises pixels in another way than training does.
    """
    clip = load(source, device="cpu")
    other: Any = clip.model
    weights = other.state_dict()
    own_weights = model.state_dict()
    weights[POSITIONS] = resize_positions(weights[POSITIONS], len(own_weights[POSITIONS]))
    problems = []
    for name, own_weight in own_weights.items():
        shape = tuple(weights[name].shape) if name in weights else "missing"
        own_shape = tuple(own_weight.shape)
        if shape != own_shape:
            problems.append(f"{name} is {shape} there, {own_shape} here")
    for encoder in ("vision_config", "text_config"):
        for key in ("hidden_act", "num_attention_heads"):
            value = getattr(getattr(other.config, encoder), key)
            own_value = getattr(getattr(model.config, encoder), key)
            if value != own_value:
                problems.append(f"{encoder}.{key} is {value} there, {own_value} here")
    if problems:
        raise UserError(
            f"train.initial_weights = {source!r}: its architecture differs ({'; '.join(problems[:3])}); set "
            "train.model and train.tokenizer.path to that model's"
        )
    if clip.tokenizer.hf.get_vocab() != tokenizer.hf.get_vocab():
        raise UserError(
            f"train.initial_weights = {source!r}: its token table is that of another tokenizer; set "
            f"train.tokenizer.path = {clip.tokenizer.hf.name_or_path!r}"
        )
    facts = describe(clip.processor, applies_exif=False)
    for key, values in (("mean", IMAGE_MEAN), ("std", IMAGE_STD)):
        ours = [round(value, 4) for value in values]
        if facts[key] != ours:
            raise UserError(
                f"train.initial_weights = {source!r}: it normalises pixels with {key} {facts[key]}, and training with "
                f"{ours}; choose a model that was trained with these numbers"
            )
    model.load_state_dict(weights)


def resize_positions(positions_PW: torch.Tensor, num_positions: int) -> torch.Tensor:
    """Interpolate the positions of an image tower of width W, (P, W), to (num_positions, W).

    Row 0, of the class token, stays.  The others are a square of n rows by n, and are interpolated by antialiased
    bicubic weights, as open_clip does when a model's image size changes.
    """
    if len(positions_PW) == num_positions:
        return positions_PW
    side = math.isqrt(len(positions_PW) - 1)
    new_side = math.isqrt(num_positions - 1)
    square_WNN = positions_PW[1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized_WMM = torch.nn.functional.interpolate(
        square_WNN, size=(new_side, new_side), mode="bicubic", antialias=True, align_corners=False
    )
    patches_MW = resized_WMM.permute(0, 2, 3, 1).reshape(new_side * new_side, -1)
    return torch.cat([positions_PW[:1].float(), patches_MW])


def read_logit_bias(source: str) -> torch.Tensor | None:
    """Return SigLIP's bias of a run or a checkpoint; None of any other model: model.safetensors does not hold it."""
    folder = find(source).path
    if not layout.trainer_state(folder).exists():
        return None
    reader = CheckpointReader(folder)
    if "weights.logit_bias" not in reader:
        return None
    return reader.read("weights.logit_bias")
