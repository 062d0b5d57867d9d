"""open_clip's folders and checkpoints, which the MetaCLIP reference writes too: open_clip_config.json and weights.

A written folder loads as `local-dir:FOLDER` at any size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from worldclip.core.artifacts import fingerprint
from worldclip.core.errors import UserError, require
from worldclip.core.job import Report
from worldclip.core.registry import Requirement
from worldclip.model import preprocess, published, sample_inputs, tensor_names, weights
from worldclip.model.clip import build_config, check_tokenizer, model_config, pick_device
from worldclip.model.config import Architecture
from worldclip.model.formats import other_clips
from worldclip.model.formats.huggingface_folder import TOKENIZER_FILES, build, has_tokenizer, read_tokenizer
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.inference import Clip, TorchBackend

if TYPE_CHECKING:
    from transformers import MetaClip2Config

REQUIRES = Requirement(("open_clip",), extra="export")
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
# in the order in which open_clip looks for weights in a folder
WEIGHT_FILES = (
    WEIGHTS_FILE,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
FILES_NEXT_TO_WEIGHTS = (CONFIG_FILE, *TOKENIZER_FILES, "special_tokens_map.json")

# open_clip's defaults for keys that a configuration leaves out (model.py: CLIPVisionCfg, CLIPTextCfg)
_VISION_DEFAULTS = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
_TEXT_DEFAULTS = {"context_length": 77, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
# The keys of a model of this family.  Any other key changes what open_clip builds.
_TOP_KEYS = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
_TEXT_KEYS = {*_TEXT_DEFAULTS, "vocab_size", "eos_id", "pool_type", "hf_tokenizer_name"}
_KNOWN_NAMES = ", ".join(dict.fromkeys(row.open_clip or row.reference for row in published.FAMILY))


def read(path: Path, options: LoadOptions) -> Clip:
    """Load a folder, or a bare checkpoint file with the files next to it."""
    folder = path.parent
    file = path
    if path.is_dir():
        files = [path / name for name in WEIGHT_FILES if (path / name).exists()]
        if not files:
            raise UserError(f"{path} holds {CONFIG_FILE} and none of its weights: {', '.join(WEIGHT_FILES)}")
        folder = path
        file = files[0]
    state = weights.read_state(file)
    table = state.get("token_embedding.weight", state.get("text.token_embedding.weight"))
    num_ids = None if table is None else len(table)
    arch = options.arch
    if arch is not None:
        record = read_config(Path(arch)) if Path(arch).is_file() else named_config(arch, num_ids)
    elif (folder / CONFIG_FILE).exists():
        record = read_config(folder / CONFIG_FILE)
    else:
        raise UserError(
            f"{file} does not say what it is; give arch=, the path of its {CONFIG_FILE} or a name: {_KNOWN_NAMES}"
        )
    text_cfg = record["model_cfg"]["text_cfg"]
    if not is_of_family(record["model_cfg"]):
        return other_clips.read_open_clip(options.arch or folder / CONFIG_FILE, record["model_cfg"], state, options)
    source = options.tokenizer or (folder if has_tokenizer(folder) else text_cfg.get("hf_tokenizer_name"))
    if not source:
        raise UserError(
            f"{file} does not name its tokenizer, and the folder contains none; give tokenizer='FOLDER or hub id'"
        )
    tokenizer = read_tokenizer(source, text_cfg.get("context_length", 77))
    config: Any = to_hugging_face_config(record["model_cfg"], tokenizer.pad_id)
    check_tokenizer(config, tokenizer)
    state = {name.removeprefix("text."): tensor for name, tensor in state.items()}  # open_clip's CustomTextCLIP
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(())  # (1,) under open_clip's nonscalar_logit_scale
    rules = tensor_names.open_clip_rules(config)
    unlike = sorted({rule.theirs for rule in rules} ^ (state.keys() - {"attn_mask"}))  # the causal mask, a buffer
    if unlike:
        raise UserError(f"{file}: {len(unlike)} tensors are missing or unknown, such as {unlike[0]}")
    model = build(config, tensor_names.to_ours(rules, state))
    processor = preprocessing(record["preprocess_cfg"], config.vision_config.image_size)
    return Clip(TorchBackend(model.to(pick_device(options.device))), tokenizer, processor)


def named_tokenizer(folder: Path) -> list[Report]:
    """Return the fingerprints of a tokenizer elsewhere on this machine that a folder's configuration names."""
    if not (folder / CONFIG_FILE).is_file() or has_tokenizer(folder):
        return []
    model_cfg = read_config(folder / CONFIG_FILE)["model_cfg"]
    text_cfg = model_cfg.get("text_cfg", {}) if isinstance(model_cfg, dict) else {}
    name = text_cfg.get("hf_tokenizer_name") if isinstance(text_cfg, dict) else None
    if not isinstance(name, str) or not Path(name).is_dir():
        return []
    place = Path(name)
    return [fingerprint(path, place) for path in sorted(place.iterdir()) if path.name in FILES_NEXT_TO_WEIGHTS]


def read_config(path: Path) -> Report:
    """Read model_cfg and preprocess_cfg from open_clip_config.json, or a bare model_cfg as open_clip ships them."""
    record = weights.read_json_config(path)
    if "model_cfg" not in record:
        record = {"model_cfg": record}
    return {"model_cfg": record["model_cfg"], "preprocess_cfg": record.get("preprocess_cfg", {})}


def named_config(name: str, num_ids: int | None = None) -> Report:
    """Return the configuration of a published model: open_clip's where it has one of that name, else ours.

    name: in open_clip, the reference, or on the hub.  num_ids: rows of the token table, which tell the reference's
    ViT-L-14-worldwide from open_clip's model of that name.

    It states no preprocessing, so open_clip's default for a local file holds: the central square, as in the reference.
    The squash of open_clip's tags at 378 px is for the hub's weights.  Raises UserError for any other model.
    """
    row = published.find(name)
    is_ours = row is not None and row.open_clip != name
    if name in published.OTHER_MODELS and (num_ids == published.MT5_BASE_IDS or not is_ours):
        raise UserError(f"open_clip's {name} is another model: {published.OTHER_MODELS[name]}")
    if row is not None and is_ours:
        config = model_config(row.model_config(), row.tokenizer)
        return {"model_cfg": from_hugging_face_config(config, row.tokenizer.hub_id), "preprocess_cfg": {}}
    open_clip = require("open_clip", extra="export")
    model_cfg = open_clip.get_model_config(name)
    if model_cfg is None:
        raise UserError(f"unknown architecture {name!r}; those of this family: {_KNOWN_NAMES}")
    return {"model_cfg": model_cfg, "preprocess_cfg": {}}


def to_hugging_face_config(model_cfg: Mapping[str, Any], pad_id: int = 1) -> MetaClip2Config:
    """Return the MetaClip2Config of an open_clip configuration of this family."""
    vision: Report = {**_VISION_DEFAULTS, **model_cfg["vision_cfg"]}
    text: Report = {**_TEXT_DEFAULTS, **model_cfg["text_cfg"]}
    sizes = Architecture(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        vision_layers=vision["layers"],
        vision_width=vision["width"],
        vision_head_width=vision["head_width"],
        text_layers=text["layers"],
        text_width=text["width"],
        text_head_width=text["width"] // text["heads"],
        embed_dim=model_cfg["embed_dim"],
        context_length=text["context_length"],
    )
    tokens = published.PublishedTokenizer("", text["vocab_size"], bos_id=None, pad_id=pad_id, eos_id=text["eos_id"])
    config: Any = build_config(sizes, "quick_gelu" if model_cfg.get("quick_gelu") else "gelu", tokens)
    config.vision_config.intermediate_size = int(vision["width"] * vision["mlp_ratio"])  # open_clip truncates
    config.text_config.intermediate_size = int(text["width"] * text["mlp_ratio"])
    return cast("MetaClip2Config", config)


def is_of_family(model_cfg: Mapping[str, Any]) -> bool:
    """Return whether a configuration has only what models of this family have."""
    vision = model_cfg["vision_cfg"]
    text = model_cfg["text_cfg"]
    has_own_keys = model_cfg.keys() <= _TOP_KEYS and text.keys() <= _TEXT_KEYS
    pools_end_token = text.get("pool_type") == "eos" and "eos_id" in text
    return has_own_keys and pools_end_token and vision.keys() <= _VISION_DEFAULTS.keys()


def from_hugging_face_config(config: MetaClip2Config, tokenizer_name: str) -> Report:
    """Return open_clip's model_cfg, with the keys and the order of its own files.

    Raises UserError where the towers' activations differ, which open_clip cannot express.
    """
    vision: Any = config.vision_config
    text: Any = config.text_config
    if vision.hidden_act != text.hidden_act:
        raise UserError(
            f"the image tower has {vision.hidden_act}, the text tower {text.hidden_act}; open_clip has one for both"
        )
    return {
        "embed_dim": config.projection_dim,
        **({"quick_gelu": True} if vision.hidden_act == "quick_gelu" else {}),
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            **_mlp_ratio(vision),
            "patch_size": vision.patch_size,
        },
        "text_cfg": {
            "hf_tokenizer_name": tokenizer_name,
            "pool_type": "eos",
            "eos_id": text.eos_token_id,
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            **_mlp_ratio(text),
        },
    }


def _mlp_ratio(tower: Any) -> dict[str, float]:
    """Return mlp_ratio where it is not 4, with the fewest digits that give the MLP's width back after truncation."""
    width = tower.hidden_size
    mlp_width = tower.intermediate_size
    if mlp_width == 4 * width:
        return {}
    # aim at the middle of [mlp_width, mlp_width + 1): then a short ratio suffices
    ratio = 0.0
    digits = 0
    while int(width * ratio) != mlp_width:
        digits += 1
        ratio = round((mlp_width + 0.5) / width, digits)
    return {"mlp_ratio": ratio}


def preprocessing(preprocess_cfg: Mapping[str, Any], image_size: int) -> preprocess.PerImage:
    """Return open_clip's own transform for evaluation."""
    require("open_clip", extra="export")
    from open_clip.transform import PreprocessCfg, image_transform_v2

    settings = {"size": image_size}
    for key in PreprocessCfg.__dataclass_fields__.keys() - {"size"}:
        if preprocess_cfg.get(key) is not None:
            settings[key] = preprocess_cfg[key]
    mode = settings.get("mode", "RGB")
    if mode != "RGB":
        raise UserError(f"preprocess_cfg has mode {mode!r:.80}; models of this family see 'RGB'")
    config = PreprocessCfg(**settings)
    if config.interpolation != "bicubic" or config.resize_mode not in ("shortest", "squash"):
        raise UserError(
            f"preprocess_cfg has interpolation {config.interpolation!r} and resize_mode {config.resize_mode!r}; models "
            "of this family use 'bicubic' with 'shortest' or 'squash'"
        )
    mean = preprocess.per_channel(config.mean)
    std = preprocess.per_channel(config.std)
    facts = preprocess.Preprocess(image_size, config.resize_mode, mean, std)
    return preprocess.PerImage(image_transform_v2(config, is_train=False), facts)


def write(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> None:
    config = clip.model.config
    state = tensor_names.to_theirs(tensor_names.open_clip_rules(config), clip.model.state_dict())
    weights.write_state(folder / WEIGHTS_FILE, state, {"format": "pt"})
    clip.tokenizer.save(folder)
    facts = preprocess.facts_of(clip.processor)
    record = {
        # open_clip reads the tokenizer from the folder itself; a name, any name, says that it is Hugging Face's
        "model_cfg": from_hugging_face_config(config, tokenizer_name="."),
        "preprocess_cfg": {
            "mean": list(facts.mean),
            "std": list(facts.std),
            "interpolation": "bicubic",
            "resize_mode": facts.mode,
        },
    }
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def compare(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> Report:
    """Compare with open_clip's model of the folder."""
    import torch

    open_clip = require("open_clip", extra="export")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(sample_inputs.TEXTS))
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    pixels = sample_inputs.pixels(clip)
    if not torch.equal(model.logit_scale.detach(), clip.model.logit_scale.detach().cpu()):
        raise UserError("open_clip reads a different logit_scale; nothing was exported")
    with torch.inference_mode():
        images = model.encode_image(pixels, normalize=True).numpy()
        texts = model.encode_text(tokens, normalize=True).numpy()
    difference = sample_inputs.embedding_difference(clip, pixels, images, texts)
    return {"max_difference": sample_inputs.require_close(difference, "open_clip")}
