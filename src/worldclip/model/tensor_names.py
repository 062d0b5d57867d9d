"""Map the tensors of a MetaClip2Model to open_clip's names and back: one table, read both ways.

Hugging Face (ours) keeps q, k and v apart and projections as (out, in).  open_clip fuses q, k and v, and keeps
projections as (in, out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import MetaClip2Config


@dataclass(frozen=True, slots=True)
class Rule:
    """One tensor of theirs and the tensors of ours that it is made of."""

    ours: tuple[str, ...]
    """One tensor, or several that theirs concatenates along dimension 0 (q, k, v)."""
    theirs: str
    is_transposed: bool = False


def open_clip_rules(config: MetaClip2Config) -> list[Rule]:
    """Return the rules of both towers for open_clip's CLIP, whose names the MetaCLIP reference shares."""
    vision = "vision_model."
    text = "text_model."
    vision_config: Any = config.vision_config  # transformers types both as optional
    text_config: Any = config.text_config
    return [
        Rule(("logit_scale",), "logit_scale"),
        Rule(("visual_projection.weight",), "visual.proj", is_transposed=True),
        Rule(("text_projection.weight",), "text_projection", is_transposed=True),
        Rule((f"{vision}embeddings.class_embedding",), "visual.class_embedding"),
        Rule((f"{vision}embeddings.patch_embedding.weight",), "visual.conv1.weight"),
        Rule((f"{vision}embeddings.position_embedding.weight",), "visual.positional_embedding"),
        *_pair(f"{vision}pre_layrnorm", "visual.ln_pre"),
        *_pair(f"{vision}post_layernorm", "visual.ln_post"),
        Rule((f"{text}embeddings.token_embedding.weight",), "token_embedding.weight"),
        Rule((f"{text}embeddings.position_embedding.weight",), "positional_embedding"),
        *_pair(f"{text}final_layer_norm", "ln_final"),
        *_blocks(vision, vision_config.num_hidden_layers, "visual.transformer.resblocks"),
        *_blocks(text, text_config.num_hidden_layers, "transformer.resblocks"),
    ]


# Names within one transformer block, in one order.  Theirs begin with the fused q, k, v, up to `weight` or `bias`; ours
# name these three apart.
_BLOCK = ("self_attn.out_proj", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
_OPEN_CLIP_BLOCK = ("attn.in_proj_", "attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")


def _blocks(tower: str, num_layers: int, prefix: str) -> list[Rule]:
    """Return the rules of all transformer blocks of a tower; `prefix` is theirs."""
    rules = []
    for i in range(num_layers):
        ours = f"{tower}encoder.layers.{i}"
        for kind in ("weight", "bias"):
            qkv = tuple(f"{ours}.self_attn.{name}_proj.{kind}" for name in "qkv")
            rules.append(Rule(qkv, f"{prefix}.{i}.{_OPEN_CLIP_BLOCK[0]}{kind}"))
        for our_name, their_name in zip(_BLOCK, _OPEN_CLIP_BLOCK[1:], strict=True):
            rules += _pair(f"{ours}.{our_name}", f"{prefix}.{i}.{their_name}")
    return rules


def _pair(ours: str, theirs: str) -> list[Rule]:
    """Return the rules of a layer's weight and bias."""
    return [Rule((f"{ours}.{kind}",), f"{theirs}.{kind}") for kind in ("weight", "bias")]


def to_theirs(rules: Sequence[Rule], state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return their tensors from our state dict."""
    import torch

    theirs = {}
    for rule in rules:
        whole = state[rule.ours[0]]
        if len(rule.ours) > 1:
            whole = torch.cat([state[name] for name in rule.ours])
        if rule.is_transposed:
            whole = whole.T
        theirs[rule.theirs] = whole.contiguous()
    return theirs


def to_ours(rules: Sequence[Rule], state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return our state dict, in float32, from their tensors."""
    ours = {}
    for rule in rules:
        whole = state[rule.theirs]
        if rule.is_transposed:
            whole = whole.T
        if len(rule.ours) == 1:
            ours[rule.ours[0]] = whole.contiguous().float()
            continue
        for name, part in zip(rule.ours, whole.chunk(len(rule.ours)), strict=True):
            ours[name] = part.contiguous().float()
    return ours
