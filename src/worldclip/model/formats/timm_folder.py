"""timm's image towers: a folder with config.json (architecture, pretrained_cfg) and model.safetensors, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import UserError, require
from worldclip.model import published
from worldclip.model import tensor_names as names
from worldclip.model.formats.open_clip_folder import build
from worldclip.model.preprocess import PerImage, Preprocess
from worldclip.model.tokenizer import require_transformers
from worldclip.model.weights import read_state

if TYPE_CHECKING:
    import torch
    from transformers import MetaClip2VisionConfig, MetaClip2VisionModelWithProjection

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# timm's names of CLIP towers by patch size, width and depth; other sizes are written as the first, its sizes overridden
_ARCHITECTURES = {
    (14, 1280, 32): "vit_huge_patch14_clip{}_224",
    (14, 1664, 48): "vit_gigantic_patch14_clip{}_224",
    (14, 1024, 24): "vit_large_patch14_clip{}_224",
    (16, 768, 12): "vit_base_patch16_clip{}_224",
    (32, 768, 12): "vit_base_patch32_clip{}_224",
}
_FALLBACK = "vit_base_patch16_clip{}_224"


def create(folder: Path, arch: str | None) -> torch.nn.Module:
    """timm's own model of a folder, without weights; arch: another architecture than the folder's config.json says.

    Raises UserError for another architecture than a CLIP ViT's, and where the activation is known to be another one
    than config.json says: timm's repository of the 224 px ViT-H/14 notes this in words alone.
    """
    timm = require("timm", extra="export")
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name, tag = record["architecture"], record.get("pretrained_cfg", {}).get("tag", "")
    row = published.find(f"timm/{name}.{tag}")
    if arch is None and row is not None and row.activation == "quick_gelu" and "quickgelu" not in name:
        raise UserError(
            f"{folder}: config.json says {name}, which has gelu, and these weights were trained with quick_gelu; say "
            f"arch={name.replace('clip_', 'clip_quickgelu_')!r} (as trained) or arch={name!r} (as timm loads it)"
        )
    try:
        model = timm.create_model(arch or name, pretrained=False, **model_arguments(record))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}: timm does not know its model ({error})") from error
    is_clip = type(model).__name__ == "VisionTransformer" and type(model.norm_pre).__name__ != "Identity"
    if not is_clip or model.global_pool != "token":
        raise UserError(f"{folder} holds timm's {model.pretrained_cfg['architecture']}, which is no CLIP image tower")
    return model


def vision_config(model: Any, where: str) -> MetaClip2VisionConfig:
    """Hugging Face's configuration of a timm tower."""
    transformers = require_transformers()
    if not model.num_classes:
        raise UserError(
            f"{where}: the tower has no projection (num_classes is 0), so that it embeds into no shared space"
        )
    block = model.blocks[0]
    activation = "quick_gelu" if "quick" in type(block.mlp.act).__name__.lower() else "gelu"
    return transformers.MetaClip2VisionConfig(
        hidden_size=model.embed_dim,
        intermediate_size=block.mlp.fc1.out_features,
        projection_dim=model.num_classes,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=block.attn.num_heads,
        image_size=model.patch_embed.img_size[0],
        patch_size=model.patch_embed.patch_size[0],
        hidden_act=activation,
        layer_norm_eps=block.norm1.eps,
    )


def model_arguments(record: dict[str, Any]) -> dict[str, Any]:
    """What a config.json adds to the architecture's own sizes."""
    head = {"num_classes": record["num_classes"]} if "num_classes" in record else {}
    return {**head, **record.get("model_args", {})}


def load(folder: Path, arch: str | None = None) -> tuple[MetaClip2VisionModelWithProjection, PerImage]:
    """The image tower with its projection, and timm's own preprocessing."""
    timm = require("timm", extra="export")
    transformers = require_transformers()
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if file is None:
        raise UserError(f"{folder} holds timm's config.json and none of its weights: {', '.join(WEIGHT_FILES)}")
    model = create(folder, arch)
    config = vision_config(model, str(folder))
    state = read_state(file)
    names.check_tensors(str(file), names.shapes(state), names.shapes(model.state_dict()))
    bias = state.pop("head.bias", None)
    if bias is not None and bool(bias.any()):
        raise UserError(f"{file}: head.bias is not zero; a CLIP's projection has none, so that this is another model")
    ours = names.to_ours(names.timm_rules(config.num_hidden_layers), state)
    tower = build(
        transformers.MetaClip2VisionModelWithProjection, config, {name: tensor.float() for name, tensor in ours.items()}
    )
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    data = timm.data.resolve_data_config(pretrained_cfg=record.get("pretrained_cfg", {}), model=model)
    facts = Preprocess(
        data["input_size"][1], "squash" if data["crop_mode"] == "squash" else "shortest", data["mean"], data["std"]
    )
    return tower, PerImage(timm.data.create_transform(**data, is_training=False), facts)


def architecture(config: Any) -> tuple[str, dict[str, Any]]:
    """timm's name of a tower and the arguments by which it differs from the model of that name."""
    sizes = (config.patch_size, config.hidden_size, config.num_hidden_layers)
    name = _ARCHITECTURES.get(sizes, _FALLBACK).format("_quickgelu" if config.hidden_act == "quick_gelu" else "")
    arguments: dict[str, Any] = {"img_size": config.image_size, "num_classes": config.projection_dim}
    if sizes not in _ARCHITECTURES:
        arguments |= {
            "patch_size": config.patch_size,
            "embed_dim": config.hidden_size,
            "depth": config.num_hidden_layers,
            "num_heads": config.num_attention_heads,
            "mlp_ratio": config.intermediate_size / config.hidden_size,
        }
    return name, arguments
