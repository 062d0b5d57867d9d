"""timm's folders of a CLIP image tower, its projection as the head: config.json and model.safetensors.

A written folder loads as `timm.create_model("local-dir:FOLDER", pretrained=True)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError, require
from worldclip.core.job import Report
from worldclip.core.registry import Requirement
from worldclip.model import preprocess, published, sample_inputs, tensor_names, weights
from worldclip.model.clip import pick_device
from worldclip.model.formats.huggingface_folder import build, read_config_json
from worldclip.model.formats.interface import CardFacts, LoadOptions, about, largest_difference
from worldclip.model.inference import Clip, TorchBackend
from worldclip.model.records import MAX_RESIZE, MAX_SIDE, library_faults
from worldclip.model.tokenizer import require_transformers

OPTIONS: tuple[str, ...] = ("arch", "precision")
requires = Requirement(("timm",), extra="export")
has_torch_weights, yields_to = True, "open_clip"  # timm's own repositories hold the whole model, and its image tower
CARD = CardFacts(
    library="timm",
    use=(
        "import timm",
        "",
        'model = timm.create_model("local-dir:THIS FOLDER", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
    ),
    checked=largest_difference("timm"),
    files=("*.json", "*.safetensors"),
    about=about("The image encoder of a CLIP, with its projection as the head"),
    is_image_tower=True,
)
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# timm's names of CLIP towers by patch size, width and depth (vision_transformer.py); {} is "_quickgelu" or nothing
_ARCHITECTURES = {
    (14, 1280, 32): "vit_huge_patch14_clip{}_224",
    (14, 1664, 48): "vit_gigantic_patch14_clip{}_224",
    (14, 1024, 24): "vit_large_patch14_clip{}_224",
    (16, 768, 12): "vit_base_patch16_clip{}_224",
    (32, 768, 12): "vit_base_patch32_clip{}_224",
}
# Arguments of a model that a config.json may set; others load files (checkpoint_path) or fetch (pretrained_cfg).
MODEL_ARGUMENTS = (
    *("img_size", "num_classes", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "global_pool"),
    *("act_layer", "norm_layer", "class_token", "pre_norm", "qkv_bias", "init_values", "no_embed_class", "in_chans"),
)
_BASE_ARCHITECTURE = "vit_base_patch16_clip{}_224"  # other sizes override its own


def missing(folder: Path) -> str | None:
    config = read_config_json(folder)
    is_timm = "architecture" in config and "model_type" not in config
    if is_timm:
        return None
    return "a config.json that is not timm's" if config else "no config.json with timm's architecture"


def hub_weights(folder: Path, precision: str) -> tuple[str, ...] | None:
    """Return the patterns of the weights, None where the repository is not timm's."""
    return WEIGHT_FILES if "architecture" in read_config_json(folder) else None


def read(path: Path, options: LoadOptions) -> Clip:
    """Load the image tower with its projection, and timm's own preprocessing."""
    timm = require("timm", extra="export")
    file = next((path / name for name in WEIGHT_FILES if (path / name).exists()), None)
    if file is None:
        raise UserError(f"{path} holds timm's config.json and none of its weights: {', '.join(WEIGHT_FILES)}")
    record = read_config_json(path)
    model = _create_model(record, path, options.arch)
    config = _to_hugging_face_config(model, path)
    state = weights.read_state(file)
    tensor_names.check_tensors(str(file), tensor_names.shapes(state), tensor_names.shapes(model.state_dict()))
    bias = state.pop("head.bias", None)
    if bias is not None and bool(bias.any()):
        raise UserError(f"{file}: head.bias is not zero; a CLIP's projection has no bias, so this is another model")
    ours = tensor_names.to_ours(tensor_names.timm_rules(config.num_hidden_layers), state)
    tower = build(require_transformers().MetaClip2VisionModelWithProjection, config, ours)
    data = timm.data.resolve_data_config(pretrained_cfg=record.get("pretrained_cfg", {}), model=model)
    if problems := [f"{path / 'config.json'}: {problem}" for problem in _data_problems(data)]:
        raise UserError(problems)
    processor = preprocess.PerImage(timm.data.create_transform(**data, is_training=False), _facts_of(data))
    return Clip(TorchBackend(tower.to(pick_device(options.device))), None, processor)


def _data_problems(data: Report) -> Iterator[str]:
    """Yield values of timm's data configuration that make no image transform, or one of any size."""
    size, share = data["input_size"], data["crop_pct"]
    sides = list(size[1:]) if isinstance(size, list | tuple) and len(size) == 3 else []
    if not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in sides) or len(set(sides)) != 1:
        yield f"input_size is {size!r:.80}; it must be 3 and twice a side of at most {MAX_SIDE} pixels"
    if not isinstance(share, int | float) or not 1 / MAX_RESIZE <= share <= 1:
        yield f"crop_pct is {share!r:.80}; it must be between {1 / MAX_RESIZE} and 1"
    if data["interpolation"] not in preprocess.FILTERS:
        yield f"interpolation is {data['interpolation']!r:.80}; it must be one of {', '.join(preprocess.FILTERS)}"
    for name in ("mean", "std"):
        values = data[name]
        if not isinstance(values, list | tuple) or not all(isinstance(value, int | float) for value in values):
            yield f"{name} is {values!r:.80}; it must be numbers"


def _facts_of(data: Report) -> preprocess.Preprocess:
    """Return the facts of timm's data configuration."""
    modes = {theirs: mode for mode, theirs in preprocess.TIMM_MODES.items()}
    return preprocess.Preprocess(
        data["input_size"][1],
        modes.get(data["crop_mode"], "shortest"),  # timm crops the center for any other word
        data["mean"],
        data["std"],
        data["interpolation"],
        data["crop_pct"],
    )


def _create_model(record: Report, folder: Path, arch: str | None) -> Any:
    """Return timm's own model without weights; arch: another architecture than config.json says.

    Raises UserError for another architecture than a CLIP ViT, and where the activation is known to differ from
    config.json: timm says so for the 224 px ViT-H/14 only in a note (vision_transformer.py: `natively QuickGELU`).
    """
    import torch

    timm = require("timm", extra="export")
    objects = [key for key in ("pretrained_cfg", "model_args") if key in record]
    weights.require_values(record, dict.fromkeys(objects, weights.OBJECT), folder / "config.json")
    name, tag = record["architecture"], record.get("pretrained_cfg", {}).get("tag", "")
    row = published.find(f"timm/{name}.{tag}")
    if arch is None and row is not None and row.activation == "quick_gelu" and "quickgelu" not in name:
        raise UserError(
            f"{folder}: config.json says {name}, which has gelu, and these weights were trained with quick_gelu; say "
            f"arch={name.replace('clip_', 'clip_quickgelu_')!r} (as trained) or arch={name!r} (as timm loads it)"
        )
    if not (isinstance(name, str) and timm.is_model(name)):  # "hf-hub:..." would be fetched
        raise UserError(f"{folder}: config.json says architecture = {name!r:.100}, which timm does not have")
    arguments = {"num_classes": record["num_classes"]} if "num_classes" in record else {}
    arguments |= record.get("model_args", {})
    if refused := [key for key in arguments if key not in MODEL_ARGUMENTS]:  # checkpoint_path would be unpickled
        raise UserError(
            f"{folder}: config.json has model_args {', '.join(refused)}; known: {', '.join(MODEL_ARGUMENTS)}"
        )
    if "depth" in arguments:
        weights.require_values(record, {"model_args.depth": weights.COUNT}, folder / "config.json")
    if arguments.get("depth", 1) > weights.MAX_LAYERS:
        raise UserError(f"{folder}: config.json has depth = {arguments['depth']}: at most {weights.MAX_LAYERS}")
    # on meta: only shapes are compared, and sizes of others take no memory
    with library_faults(f"{folder}: timm cannot create the model"), torch.device("meta"):
        model = timm.create_model(arch or name, pretrained=False, **arguments)
    # CLIP towers differ from timm's other ViTs by the norm before the blocks and by pooling the class token
    is_clip = type(model).__name__ == "VisionTransformer" and type(model.norm_pre).__name__ != "Identity"
    if not is_clip or model.global_pool != "token":
        raise UserError(
            f"{folder} holds timm's {model.pretrained_cfg['architecture']}, which is not a CLIP image tower"
        )
    return model


def _to_hugging_face_config(model: Any, folder: Path) -> Any:
    if not model.num_classes:
        raise UserError(f"{folder}: the tower has no projection (num_classes is 0), so it has no CLIP embeddings")
    block = model.blocks[0]
    return require_transformers().MetaClip2VisionConfig(
        hidden_size=model.embed_dim,
        intermediate_size=block.mlp.fc1.out_features,
        projection_dim=model.num_classes,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=block.attn.num_heads,
        image_size=model.patch_embed.img_size[0],
        patch_size=model.patch_embed.patch_size[0],
        hidden_act="quick_gelu" if "quick" in type(block.mlp.act).__name__.lower() else "gelu",
        layer_norm_eps=block.norm1.eps,
    )


def architecture(config: Any) -> tuple[str, Report]:
    """Return timm's name of a tower and the arguments by which it differs from the model of that name."""
    sizes = (config.patch_size, config.hidden_size, config.num_hidden_layers)
    suffix = "_quickgelu" if config.hidden_act == "quick_gelu" else ""
    arguments: Report = {"img_size": config.image_size, "num_classes": config.projection_dim}
    if sizes in _ARCHITECTURES:
        return _ARCHITECTURES[sizes].format(suffix), arguments
    arguments |= {
        "patch_size": config.patch_size,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
    }
    return _BASE_ARCHITECTURE.format(suffix), arguments


def write(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> None:
    import torch

    timm = require("timm", extra="export")
    config = clip.model.vision_model.config
    name, arguments = architecture(config)
    model = timm.create_model(name, pretrained=False, **arguments)
    state = tensor_names.to_theirs(tensor_names.timm_rules(config.num_hidden_layers), clip.model.state_dict())
    state["head.bias"] = torch.zeros(config.projection_dim)  # timm's head has one, a CLIP's projection does not
    model.load_state_dict(state, strict=True)
    data = preprocess.to_timm(preprocess.facts_of(clip.processor))
    timm.models.save_for_hf(model, folder, safe_serialization=True, data_config=data)


def compare(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> Report:
    """Compare image embeddings with timm's model of the folder."""
    import torch

    timm = require("timm", extra="export")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = sample_inputs.pixels(clip)
    with torch.inference_mode():
        actual = sample_inputs.unit(model(pixels))
    difference = sample_inputs.max_difference(actual, clip.backend.encode_pixels(pixels))
    return {"max_difference": sample_inputs.require_close(difference, "timm")}
