"""One table for each other library: its name of every tensor of a MetaClip2Model, read in both directions.

Hugging Face (ours) keeps q, k and v apart and projections as (out, in); open_clip and timm fuse q, k, v, and open_clip
keeps projections as (in, out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import MetaClip2Config

MAX_LISTED = 8  # names in an error


@dataclass(frozen=True, slots=True)
class Rule:
    """One of their tensors from ours, and back."""

    ours: tuple[str, ...]
    """One tensor, or several that stand below each other in theirs (q, k, v)."""
    theirs: str
    is_transposed: bool = False
    leading_ones: int = 0
    """Dimensions of size 1 that theirs has in front."""

    def to_theirs(self, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        parts = [state[name] for name in self.ours]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        whole = whole.T if self.is_transposed else whole
        return whole.reshape((1,) * self.leading_ones + tuple(whole.shape)).contiguous()

    def to_ours(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        whole = tensor.reshape(tensor.shape[self.leading_ones :])
        whole = whole.T if self.is_transposed else whole
        parts = whole.chunk(len(self.ours)) if len(self.ours) > 1 else (whole,)
        return {name: part.contiguous() for name, part in zip(self.ours, parts, strict=True)}


def open_clip_rules(config: MetaClip2Config) -> list[Rule]:
    """Both towers under the names of open_clip's CLIP, which are the reference's too."""
    vision, text = "vision_model.", "text_model."
    towers: Any = (config.vision_config, config.text_config)  # transformers types them as what may also be None
    vision_layers, text_layers = (tower.num_hidden_layers for tower in towers)
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
        *_blocks(vision, vision_layers, "visual.transformer.resblocks", _OPEN_CLIP_BLOCK),
        *_blocks(text, text_layers, "transformer.resblocks", _OPEN_CLIP_BLOCK),
    ]


def timm_rules(num_layers: int) -> list[Rule]:
    """The image tower, its projection as timm's head; the head's bias, which we have not, stands apart."""
    vision = "vision_model."
    return [
        Rule(("visual_projection.weight",), "head.weight"),
        Rule((f"{vision}embeddings.class_embedding",), "cls_token", leading_ones=2),
        Rule((f"{vision}embeddings.patch_embedding.weight",), "patch_embed.proj.weight"),
        Rule((f"{vision}embeddings.position_embedding.weight",), "pos_embed", leading_ones=1),
        *_pair(f"{vision}pre_layrnorm", "norm_pre"),
        *_pair(f"{vision}post_layernorm", "norm"),
        *_blocks(vision, num_layers, "blocks", _TIMM_BLOCK),
    ]


_BLOCK = ("self_attn.out_proj", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")  # ours, beside q, k, v
_OPEN_CLIP_BLOCK = ("attn.in_proj_", "attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
_TIMM_BLOCK = ("attn.qkv.", "attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2")


def _blocks(tower: str, num_layers: int, place: str, theirs: Sequence[str]) -> list[Rule]:
    rules = []
    for i in range(num_layers):
        ours = f"{tower}encoder.layers.{i}"
        for kind in ("weight", "bias"):
            qkv = tuple(f"{ours}.self_attn.{name}_proj.{kind}" for name in "qkv")
            rules.append(Rule(qkv, f"{place}.{i}.{theirs[0]}{kind}"))
        for mine, name in zip(_BLOCK, theirs[1:], strict=True):
            rules += _pair(f"{ours}.{mine}", f"{place}.{i}.{name}")
    return rules


def _pair(ours: str, theirs: str) -> list[Rule]:
    return [Rule((f"{ours}.{kind}",), f"{theirs}.{kind}") for kind in ("weight", "bias")]


def to_theirs(rules: Sequence[Rule], state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {rule.theirs: rule.to_theirs(state) for rule in rules}


def to_ours(rules: Sequence[Rule], state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for rule in rules for name, tensor in rule.to_ours(state[rule.theirs]).items()}


def check_tensors(
    where: str,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    ignore: Sequence[str] = (),
) -> None:
    """Raises UserError that names each tensor that is missing, unknown, or of another shape than the model's.

    found, expected: name -> shape, in the file's names; ignore: ends of names that do not matter.
    """
    problems = [
        f"{where}: tensor {name} has shape {tuple(found[name])}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    unknown = [name for name in found if name not in expected and not name.endswith(tuple(ignore) or ("\0",))]
    for what, names in (("lacks", [name for name in expected if name not in found]), ("also holds", unknown)):
        if names:
            more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
            problems.append(f"{where} {what} {len(names)} tensor(s): {', '.join(names[:MAX_LISTED])}{more}")
    if problems:
        remedy = (
            "the file is another model than its configuration says, or is incomplete; give the one that belongs to it"
        )
        raise UserError([*problems[:MAX_LISTED], remedy])


def shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
