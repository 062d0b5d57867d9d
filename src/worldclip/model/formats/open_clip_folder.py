"""open_clip's configurations and checkpoints, which are the reference's too, to a MetaClip2Model and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import UserError, require
from worldclip.model import published
from worldclip.model import tensor_names as names
from worldclip.model.clip import INITIAL_LOGIT_SCALE
from worldclip.model.preprocess import PerImage, Preprocess
from worldclip.model.tokenizer import require_transformers

if TYPE_CHECKING:
    import torch
    from transformers import MetaClip2Config, MetaClip2Model

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
# what open_clip looks for in a folder, first found first
WEIGHT_FILES = (
    WEIGHTS_FILE,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)

# open_clip's defaults for keys that a configuration leaves out (model/clip.py: CLIPVisionCfg, CLIPTextCfg)
_VISION_DEFAULTS = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
_TEXT_DEFAULTS = {"context_length": 77, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
_TEXT_KEYS = (*_TEXT_DEFAULTS, "vocab_size", "eos_id", "pool_type", "hf_tokenizer_name")


def read_config(path: Path) -> dict[str, Any]:
    """open_clip_config.json, or a bare configuration as in open_clip's own folder: model_cfg and preprocess_cfg."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    record = record if "model_cfg" in record else {"model_cfg": record}
    return {"model_cfg": record["model_cfg"], "preprocess_cfg": record.get("preprocess_cfg", {})}


def named_config(name: str) -> dict[str, Any]:
    """open_clip's own configuration, with the preprocessing that it gives the published weights of that name.

    Raises UserError for a model that is not of this family.
    """
    if name in published.OTHER_MODELS:
        raise UserError(f"open_clip's {name} is another model: {published.OTHER_MODELS[name]}")
    open_clip = require("open_clip", extra="export")
    model_cfg = open_clip.get_model_config(name)
    if model_cfg is None:
        known = ", ".join(row.open_clip for row in published.FAMILY if row.open_clip)
        raise UserError(f"open_clip has no configuration {name!r}; of this family it has {known}")
    tag = open_clip.get_pretrained_cfg(name, "metaclip2_worldwide") or {}
    keys = ("mean", "std", "interpolation", "resize_mode")
    return {"model_cfg": model_cfg, "preprocess_cfg": {key: tag[key] for key in keys if key in tag}}


def to_hugging_face_config(model_cfg: Mapping[str, Any], where: str, pad_id: int = 1) -> MetaClip2Config:
    """MetaClip2Config of an open_clip configuration.  Raises UserError for what a MetaClip2Model cannot do."""
    vision = {**_VISION_DEFAULTS, **model_cfg["vision_cfg"]}
    text = {**_TEXT_DEFAULTS, **model_cfg["text_cfg"]}
    if text.get("hf_tokenizer_name") == "google/mt5-base":
        raise UserError(f"{where} is another model: {published.OTHER_MODELS['ViT-L-14-worldwide']}")
    problems = [f"vision_cfg.{key} is {vision[key]!r}" for key in vision if key not in _VISION_DEFAULTS]
    problems += [f"text_cfg.{key} is {text[key]!r}" for key in text if key not in _TEXT_KEYS]
    problems += [f"{key} is {model_cfg[key]!r}" for key in model_cfg if key not in _TOP_KEYS]
    if text.get("pool_type") != "eos" or "eos_id" not in text:
        problems.append(f"text_cfg.pool_type is {text.get('pool_type')!r}; expected 'eos' with its eos_id")
    if problems:
        raise UserError(f"{where} is no model of this family: {'; '.join(problems)}; load it with open_clip")
    transformers = require_transformers()
    shared = {
        "hidden_act": "quick_gelu" if model_cfg.get("quick_gelu") else "gelu",
        "projection_dim": model_cfg["embed_dim"],
    }
    return transformers.MetaClip2Config(
        projection_dim=model_cfg["embed_dim"],
        logit_scale_init_value=INITIAL_LOGIT_SCALE,
        text_config={
            "vocab_size": text["vocab_size"],
            "hidden_size": text["width"],
            "intermediate_size": int(text["width"] * text["mlp_ratio"]),
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "bos_token_id": None,
            "eos_token_id": text["eos_id"],
            "pad_token_id": pad_id,
            **shared,
        },
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision["mlp_ratio"]),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            **shared,
        },
    )


_TOP_KEYS = ("embed_dim", "quick_gelu", "vision_cfg", "text_cfg")


def published_config(row: published.Published) -> dict[str, Any]:
    """model_cfg of a published model for which open_clip has no configuration of its own."""
    sizes, tokenizer = row.model_config().architecture(), row.tokenizer
    found: dict[str, Any] = {"embed_dim": sizes.embed_dim, "quick_gelu": row.activation == "quick_gelu"}
    found["vision_cfg"] = {
        "image_size": sizes.image_size,
        "layers": sizes.vision_layers,
        "width": sizes.vision_width,
        "head_width": sizes.vision_head_width,
        "mlp_ratio": sizes.vision_mlp_ratio,
        "patch_size": sizes.patch_size,
    }
    found["text_cfg"] = {
        "hf_tokenizer_name": tokenizer.hub_id,
        "pool_type": "eos",
        "eos_id": tokenizer.eos_id,
        "context_length": tokenizer.context_length,
        "vocab_size": tokenizer.vocab_size,
        "width": sizes.text_width,
        "heads": sizes.text_width // sizes.text_head_width,
        "layers": sizes.text_layers,
    }
    return found


def from_hugging_face_config(config: MetaClip2Config, tokenizer_name: str) -> dict[str, Any]:
    """open_clip's model_cfg, in the order and with the keys of its own files.

    Raises UserError where the towers' activations differ, which open_clip cannot say.
    """
    vision: Any = config.vision_config
    text: Any = config.text_config
    if vision.hidden_act != text.hidden_act:
        raise UserError(
            f"the image tower has {vision.hidden_act}, the text tower {text.hidden_act}; open_clip has one for both"
        )
    found: dict[str, Any] = {"embed_dim": config.projection_dim}
    if vision.hidden_act == "quick_gelu":
        found["quick_gelu"] = True
    found["vision_cfg"] = {
        "image_size": vision.image_size,
        "layers": vision.num_hidden_layers,
        "width": vision.hidden_size,
        "head_width": vision.hidden_size // vision.num_attention_heads,
        **_mlp_ratio(vision.hidden_size, vision.intermediate_size),
        "patch_size": vision.patch_size,
    }
    found["text_cfg"] = {
        "hf_tokenizer_name": tokenizer_name,
        "pool_type": "eos",
        "eos_id": text.eos_token_id,
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
        **_mlp_ratio(text.hidden_size, text.intermediate_size),
    }
    return found


def _mlp_ratio(width: int, mlp_width: int) -> dict[str, float]:
    """The ratio of an MLP's width where it is not 4, with the fewest digits that give the width back."""
    if mlp_width == 4 * width:
        return {}
    ratios = (float(f"{(mlp_width + 0.5) / width:.{digits}f}") for digits in range(1, 16))
    return {"mlp_ratio": next(ratio for ratio in ratios if int(width * ratio) == mlp_width)}


def own_name(model_cfg: Mapping[str, Any]) -> str | None:
    """The configuration of open_clip's own that builds the same model, None where there is none."""
    open_clip = require("open_clip", extra="export")
    wanted = _comparable(model_cfg)
    named = ((name, open_clip.get_model_config(name)) for name in open_clip.list_models() if "worldwide" in name)
    return next((name for name, found in named if _comparable(found) == wanted), None)


def _comparable(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by what it builds: defaults written out, MLPs by their width, without the tokenizer's name."""
    found: dict[str, Any] = {**model_cfg, "quick_gelu": bool(model_cfg.get("quick_gelu"))}
    for key, defaults in (("vision_cfg", _VISION_DEFAULTS), ("text_cfg", _TEXT_DEFAULTS)):
        tower = {**defaults, **model_cfg[key]}
        tower["mlp_width"] = int(tower["width"] * tower.pop("mlp_ratio"))
        tower.pop("hf_tokenizer_name", None)
        found[key] = tower
    return found


def to_model(state: Mapping[str, torch.Tensor], config: MetaClip2Config, where: str) -> MetaClip2Model:
    """A MetaClip2Model of open_clip's tensors, float32 on the CPU.

    Raises UserError that names each tensor that does not fit `config`.
    """
    import torch

    transformers = require_transformers()
    state = {name.removeprefix("text."): tensor for name, tensor in state.items()}  # of open_clip's CustomTextCLIP
    if state.get("logit_scale") is not None:
        state["logit_scale"] = state["logit_scale"].reshape(())
    rules = names.open_clip_rules(config)
    with torch.device("meta"):
        expected = names.to_theirs(rules, transformers.MetaClip2Model(config).state_dict())
    names.check_tensors(where, names.shapes(state), names.shapes(expected), ignore=("attn_mask",))
    ours = {name: tensor.float() for name, tensor in names.to_ours(rules, state).items()}
    return build(transformers.MetaClip2Model, config, ours)


def build(kind: Any, config: Any, state: dict[str, torch.Tensor]) -> Any:
    """A transformers model with exactly these tensors."""
    import torch

    model = kind.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32).eval()
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {k: v.shape for k, v in state.items()}
    return model


def preprocessing(preprocess_cfg: Mapping[str, Any], image_size: int) -> PerImage:
    """open_clip's own transform for evaluation."""
    require("open_clip", extra="export")
    from open_clip.transform import PreprocessCfg, image_transform_v2

    given = {key: value for key, value in preprocess_cfg.items() if key in PreprocessCfg.__dataclass_fields__}
    config = PreprocessCfg(**{**given, "size": image_size})
    if config.interpolation != "bicubic" or config.resize_mode not in ("shortest", "squash"):
        raise UserError(
            f"preprocess_cfg says {config.interpolation} and {config.resize_mode}; models of this family are resized "
            "bicubic, by the shortest side or squashed"
        )
    facts = Preprocess(image_size, config.resize_mode, tuple(config.mean), tuple(config.std))
    return PerImage(image_transform_v2(config, is_train=False), facts)
