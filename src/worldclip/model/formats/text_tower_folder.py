"""Text towers that others aligned with the images of an existing CLIP, which `image_tower` names.

    Sentence Transformers     modules.json: a Transformer, a Pooling, then Dense layers, such as its multilingual CLIP
                              (clip-ViT-B-32-multilingual-v1)
    M-CLIP                    config.json of model type M-CLIP, whose `modelBase` names the transformer, with the mean
                              over tokens and one linear layer in the weights

Each makes its texts as its own library does.  Longer texts than the tower reads are truncated.

B a batch, D embed_dim, T tokens, W the transformer's width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import UserError
from worldclip.core.safe_path import safe_join
from worldclip.model import weights
from worldclip.model.clip import pick_device
from worldclip.model.formats.huggingface_folder import read_config_json
from worldclip.model.formats.interface import TORCH, LoadOptions
from worldclip.model.formats.other_clips import (
    OLD_BUFFER,
    OtherBackend,
    TextTower,
    lower_case,
    read_whole,
    tokenizer_of,
)
from worldclip.model.inference import Clip
from worldclip.model.records import library_faults
from worldclip.model.tokenizer import load_hugging_face, require_transformers

if TYPE_CHECKING:
    import torch

OPTIONS: tuple[str, ...] = ("image_tower", "tokenizer", "precision")
requires = TORCH
has_torch_weights, yields_to = True, ""
MCLIP = "M-CLIP"
MODULES, SENTENCE_CONFIG = "modules.json", "sentence_bert_config.json"
ENCODERS = ("bert", "distilbert", "mpnet", "roberta", "xlm-roberta")
POOLER = "pooler."  # transformers' own pooling, which these towers do not use and often lack
COUNTED_FROM_PAD = ("mpnet", "roberta", "xlm-roberta")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# A module of Sentence Transformers is named by its class; where the class stands changed with its versions.
TRANSFORMER, POOLING, DENSE, NORMALIZE = "Transformer", "Pooling", "Dense", "Normalize"
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "Identity",
    "torch.nn.modules.activation.Tanh": "Tanh",
}
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# The towers whose repositories say which CLIP's images belong to them; of the others, `image_tower` does.
_B32, _L14 = "openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14"
IMAGE_TOWERS = {
    "clip-ViT-B-32-multilingual-v1": _B32,
    "XLM-Roberta-Large-Vit-B-32": _B32,
    "XLM-Roberta-Large-Vit-L-14": _L14,
    "LABSE-Vit-L-14": _L14,
}


def missing(folder: Path) -> str | None:
    """Return what the folder lacks to be such a text tower."""
    if _is_mclip(folder):
        return None
    kinds = [kind for kind, _ in _modules(folder)]
    if kinds[:1] == [TRANSFORMER] and POOLING in kinds:
        return None
    return f"no {MODULES} with a Transformer and a Pooling, no config.json of M-CLIP"


def hub_weights(folder: Path, precision: str) -> tuple[str, ...] | None:
    """Return the patterns of the weights, None where the repository is no such text tower."""
    if missing(folder) is not None:
        return None
    return (*WEIGHT_FILES, "model-*.safetensors", *(f"*_{DENSE}/{name}" for name in WEIGHT_FILES))


def _is_mclip(folder: Path) -> bool:
    return bool(read_config_json(folder).get("model_type") == MCLIP)


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Return (class, folder) of each of Sentence Transformers' modules; empty where there are none."""
    path = folder / MODULES
    if not path.exists():
        return []
    modules = weights.read_json_objects(path)
    return [(str(module.get("type")).rpartition(".")[2], str(module.get("path", ""))) for module in modules]


def read(path: Path, options: LoadOptions) -> Clip:
    """Load the text tower, and the images of options.image_tower, or of the CLIP that its name stands for."""
    image_tower = options.image_tower or _usual_image_tower(path)
    if image_tower is None:
        raise UserError(
            f"{path} holds a text tower alone; name the CLIP whose images it was aligned with: "
            f"image_tower='FOLDER or hub id', for example {_B32!r}"
        )
    assert options.load_base is not None
    images = options.load_base(image_tower, dataclasses.replace(options, image_tower=None, tokenizer=None))
    texts, tokenizer = _read_mclip(path, options) if _is_mclip(path) else _read_modules(path, options)
    if texts.embed_dim != images.embed_dim:
        raise UserError(
            f"{path} embeds texts in {texts.embed_dim} dimensions, {image_tower} images in {images.embed_dim}; "
            "the text tower was aligned with another CLIP"
        )
    return dataclasses.replace(images, backend=OtherBackend(images.backend, texts), tokenizer=tokenizer)


def _usual_image_tower(path: Path) -> str | None:
    """Return the image tower of a published text tower, by the name of its folder or repository."""
    for part in reversed(path.resolve().parts):  # the hub's cache: models--OWNER--NAME/snapshots/REVISION
        name = part.rpartition("--")[2]
        if name in IMAGE_TOWERS:
            return IMAGE_TOWERS[name]
    return None


# --- Sentence Transformers --------------------------------------------------------------------------------------------


def _read_modules(folder: Path, options: LoadOptions) -> tuple[TextTower, Any]:
    """Load a Transformer, a Pooling and Dense layers.  Raises UserError for any other module, or another setting."""
    modules = _modules(folder)
    kinds = [kind for kind, _ in modules]
    is_known = kinds[:2] == [TRANSFORMER, POOLING] and all(kind in (DENSE, NORMALIZE) for kind in kinds[2:])
    if not is_known or NORMALIZE in kinds[2:-1]:
        raise UserError(
            f"{folder / MODULES}: {', '.join(kinds)}; worldclip loads a Transformer, a Pooling, then Dense layers and "
            "at most a Normalize"
        )
    _refuse_prompt(folder)
    inner = _below(folder, modules[0][1])
    record = weights.read_optional_config(inner / SENTENCE_CONFIG)
    if record.get("max_seq_length") is not None:
        weights.require_values(record, {"max_seq_length": weights.COUNT}, inner / SENTENCE_CONFIG)
    transformer, hf = _read_encoder(inner, options)
    if record.get("do_lower_case"):
        lower_case(hf)
    layers = [_read_dense(_below(folder, path)) for kind, path in modules if kind == DENSE]
    pooling = _pooling_of(_below(folder, modules[1][1]) / "config.json")
    return _tower(transformer, hf, layers, pooling, record.get("max_seq_length"), options)


def _below(folder: Path, path: str) -> Path:
    """Return a module's folder; an empty path is the model's own."""
    return folder if path in ("", ".") else safe_join(folder, path)


def _refuse_prompt(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    prompt = weights.read_optional_config(path).get("default_prompt_name")
    if prompt is not None:
        raise UserError(f"{path}: default_prompt_name = {prompt!r:.80} puts words before each text; set it to null")


def _read_encoder(folder: Path, options: LoadOptions) -> tuple[Any, Any]:
    """Return the transformer and its tokenizer.  Raises UserError for other code, and for other than ENCODERS."""
    weights.refuse_foreign_code(folder)
    for name in WEIGHT_FILES:
        weights.weight_files(folder, name)  # refuses an index that names tensors elsewhere
    transformers = require_transformers()
    with library_faults(f"{folder} does not load as a text encoder"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_encoder(config, folder)
        model = read_whole(transformers.AutoModel, folder, (POOLER,), config=config, trust_remote_code=False)
    return model, load_hugging_face(options.tokenizer or folder)


def _check_encoder(config: Any, where: object) -> None:
    if config.model_type not in ENCODERS:
        raise UserError(f"{where} holds a {config.model_type!r} text encoder; worldclip loads {', '.join(ENCODERS)}")
    if not 1 <= config.num_hidden_layers <= weights.MAX_LAYERS:
        raise UserError(
            f"{where}: the text encoder has {config.num_hidden_layers} layers; at most {weights.MAX_LAYERS}"
        )
    if config.model_type in COUNTED_FROM_PAD and config.pad_token_id is None:
        raise UserError(f"{where} names no pad_token_id, from which the text encoder counts positions")


def _pooling_of(path: Path) -> str:
    """Return cls or mean.  Raises UserError for any other pooling."""
    record = weights.read_optional_config(path)
    stated = record.get("pooling_mode") or [mode for key, mode in _OLD_POOLINGS.items() if record.get(key)] or "mean"
    modes = stated if isinstance(stated, list) else [stated]
    if modes not in (["mean"], ["cls"]):
        raise UserError(f"{path}: pooling {', '.join(map(str, modes))}; worldclip knows mean and cls")
    return str(modes[0])


def _read_dense(folder: Path) -> Any:
    """Return a Dense layer as a torch module."""
    import torch

    path = folder / "config.json"
    record = weights.read_optional_config(path)
    activation = record.get("activation_function")
    inputs = (record.get("module_input_name"), record.get("module_output_name"))
    is_plain = not record.get("use_residual") and all(name in (None, "sentence_embedding") for name in inputs)
    if activation not in list(_ACTIVATIONS) or not is_plain:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(
            f"{path}: activation_function = {activation!r:.80}; worldclip knows {known}, without a residual"
        )
    file = _weight_files(folder)[0]
    linear = _linear(weights.read_state(file), "linear", file)
    return torch.nn.Sequential(linear, getattr(torch.nn, _ACTIVATIONS[activation])())


def _linear(state: Mapping[str, torch.Tensor], name: str, file: Path) -> Any:
    """Return the linear layer of a name.  Raises UserError where its tensors are missing or do not fit each other."""
    import torch

    weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    if weight is None or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise UserError(f"{file} has no {name}.weight of two dimensions, or a {name}.bias of another size")
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()}))
    return layer


# --- M-CLIP -----------------------------------------------------------------------------------------------------------


def _read_mclip(folder: Path, options: LoadOptions) -> tuple[TextTower, Any]:
    """Load M-CLIP's transformer and linear layer; of `modelBase`, only the configuration is read."""
    weights.refuse_foreign_code(folder)
    base = read_config_json(folder).get("modelBase")
    transformers = require_transformers()
    with library_faults(
        f"{folder / 'config.json'}: modelBase = {base!r:.80} does not load",
        "it is the hub id or the folder of a text encoder, of which the configuration is read",
    ):
        config = transformers.AutoConfig.from_pretrained(str(base), trust_remote_code=False)
        _check_encoder(config, base)
    state = {name: tensor for file in _weight_files(folder) for name, tensor in weights.read_state(file).items()}
    prefix = "transformer."
    own = {name.removeprefix(prefix): state[name].float() for name in state if name.startswith(prefix)}
    own = {name: tensor for name, tensor in own.items() if not name.endswith(OLD_BUFFER)}
    with library_faults(f"{folder}: the weights are not those of {base}"):
        model = transformers.AutoModel.from_config(config).eval()
        model.load_state_dict(own)
    hf = load_hugging_face(options.tokenizer or folder)
    layer = _linear(state, "LinearTransformation", folder)
    return _tower(model, hf, [layer], "mean", None, options)


def _weight_files(folder: Path) -> list[Path]:
    for name in WEIGHT_FILES:
        if files := weights.weight_files(folder, name):
            return files
    raise UserError(f"{folder} holds none of its weights: {', '.join(WEIGHT_FILES)}; copy or download it whole")


# --- both -------------------------------------------------------------------------------------------------------------


def _tower(
    transformer: Any, hf: Any, layers: list[Any], pooling: str, max_length: int | None, options: LoadOptions
) -> tuple[TextTower, Any]:
    """Return the tower and its tokenizer; layers: torch modules from the pooled width W to D."""
    import torch

    head = torch.nn.Sequential(*layers)
    widths = [transformer.config.hidden_size, *(layer.out_features for layer in _linears(head))]
    for width, layer in zip(widths, _linears(head), strict=False):
        if layer.in_features != width:
            raise UserError(f"a Dense layer reads {layer.in_features} features, the one before gives {width}")
    model = torch.nn.ModuleDict({"transformer": transformer, "head": head}).to(pick_device(options.device)).eval()
    most = min(hf.model_max_length, max_length or hf.model_max_length, _positions(transformer.config))

    def run(ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        hidden_BTW = transformer(input_ids=ids_BT, attention_mask=mask_BT.long())[0]
        if pooling == "cls":
            features_BD: torch.Tensor = head(hidden_BTW[:, 0])
            return features_BD
        mask_BT1 = mask_BT.unsqueeze(2).to(hidden_BTW.dtype)
        means_BW = (hidden_BTW * mask_BT1).sum(1, dtype=torch.float32) / mask_BT1.sum(1, dtype=torch.float32)
        features_BD = head(means_BW.to(hidden_BTW.dtype))
        return features_BD

    return TextTower(model, run, widths[-1]), tokenizer_of(hf, most)


def _linears(head: Any) -> list[Any]:
    return [module for module in head.modules() if hasattr(module, "in_features")]


def _positions(config: Any) -> int:
    """Return the tokens that an encoder reads; some count positions from the pad token's id on."""
    positions = int(config.max_position_embeddings)
    return positions - config.pad_token_id - 1 if config.model_type in COUNTED_FROM_PAD else positions
