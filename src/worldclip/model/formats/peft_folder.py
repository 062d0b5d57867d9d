"""LoRA adapters in peft's layout: adapter_config.json and adapter_model.safetensors, which names a base model.

They are read by adding them to that model; export/adapters.py writes them from a checkpoint.

peft never sees a folder's adapter_config.json: it imports modules, compiles patterns and allocates ranks that a file
names.  The keys that decide the merged weights are read here, and peft gets a configuration that is made of them and of
the tensors' own names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import UserError, require
from worldclip.model import weights
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.inference import Clip, TorchBackend

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OPTIONS: tuple[str, ...] = ("tokenizer", "precision")
PREFIX = "base_model.model."  # prefix of every tensor in peft's file
_SIDES = {".lora_A.weight": 1, ".lora_B.weight": 0}  # suffix -> dimension that the layer decides; the other is the rank
_DEFAULT_RANK = _DEFAULT_ALPHA = 8  # defaults of peft's LoraConfig
_READ = ("peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora")
# Keys without an effect on trained weights, or whose content the names of the tensors tell.
_WITHOUT_EFFECT = (
    *("task_type", "auto_mapping", "peft_version", "inference_mode", "lora_dropout", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"),
    *("megatron_core", "qalora_group_size", "ensure_weight_tying"),
)
# Of any other key: the values, besides empty ones, that leave LoRA as it is in the paper.
_PLAIN: Mapping[str, tuple[object, ...]] = {
    "bias": ("none",),
    "revision": ("main",),
    "init_lora_weights": (True, "gaussian", "orthogonal"),  # others change the base weights first
}


@dataclass(frozen=True, slots=True)
class Adapters:
    """The checked content of adapter_config.json."""

    base: str | None
    """The model that they are added to."""
    rank: int
    alpha: float
    use_rslora: bool
    """Whether the scale of B A is alpha / sqrt(rank) (arXiv:2312.03732) instead of alpha / rank."""

    def to_peft(self, layers: Iterable[str]) -> Any:
        """Return peft's configuration of adapters on these layers, by their full names."""
        return require("peft", extra="lora").LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            use_rslora=self.use_rslora,
            target_modules=sorted(layers),
            inference_mode=True,
        )


def missing(folder: Path) -> str | None:
    """Return what the folder lacks to hold adapters."""
    return next((f"no {name}" for name in (CONFIG, WEIGHTS) if not (folder / name).exists()), None)


def read_adapters(path: Path) -> Adapters:
    """Read an adapter_config.json.  Raises UserError for adapters of another kind, and for keys that say more."""
    record = weights.read_json_config(path)
    kind = record.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{path}: peft_type is {kind!r:.100}; worldclip loads only LoRA adapters")
    if problems := [f"{path}: {problem}" for problem in _problems(record)]:
        raise UserError(problems)
    return Adapters(
        base=record.get("base_model_name_or_path"),
        rank=record.get("r", _DEFAULT_RANK),
        alpha=record.get("lora_alpha", _DEFAULT_ALPHA),
        use_rslora=bool(record.get("use_rslora")),
    )


def _problems(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield keys of another type than theirs, and keys that ask for more than plain LoRA."""
    rank, alpha = record.get("r", _DEFAULT_RANK), record.get("lora_alpha", _DEFAULT_ALPHA)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        yield f"r is {rank!r:.100}; it must be a whole number of at least 1"
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        yield f"lora_alpha is {alpha!r:.100}; it must be a finite number"
    if not isinstance(record.get("use_rslora"), bool | None):
        yield f"use_rslora is {record['use_rslora']!r:.100}; it must be true or false"
    if not isinstance(record.get("base_model_name_or_path"), str | None):
        yield f"base_model_name_or_path is {record['base_model_name_or_path']!r:.100}; it must be a name or a path"
    for key, value in record.items():
        is_known = key in _READ or key in _WITHOUT_EFFECT
        if not is_known and value and value not in _PLAIN.get(key, ()):
            yield f"{key:.100} = {value!r:.100} is not plain LoRA; merge the adapters with peft and load the result"


def base_of(folder: Path) -> str:
    """Return the model that the adapters are added to.  Raises UserError as read_adapters, and without a name."""
    base = read_adapters(folder / CONFIG).base
    if not base:
        raise UserError(
            f"{folder / CONFIG} names no base model; set its base_model_name_or_path to the one that was adapted"
        )
    return base


def read(path: Path, options: LoadOptions) -> Clip:
    """Load the base model and merge the adapters into it.  Raises UserError for adapters of another model."""
    require("peft", extra="lora")
    base = base_of(path)
    tensors = weights.read_state(path / WEIGHTS)
    assert options.load_base is not None
    clip = options.load_base(base, LoadOptions(device=options.device, tokenizer=options.tokenizer))
    if not isinstance(clip.backend, TorchBackend):
        raise UserError(f"{path}: its base model {base} has no torch weights of a MetaClip2Model to add adapters to")
    problems = list(_mismatches(tensors, clip.model))
    if problems:
        raise UserError(
            f"{path}: the adapters are of another model than {base} ({'; '.join(problems[:3])}); set "
            f"base_model_name_or_path in {CONFIG} to the model that they were trained on"
        )
    adapters = read_adapters(path / CONFIG)
    layers = layers_of(tensors)
    if problems := list(_incomplete(tensors, layers, adapters.rank)):
        raise UserError([f"{path}: {problem}" for problem in problems[:3]])
    merged = _merge(clip.model, tensors, adapters.to_peft(layers))
    return dataclasses.replace(clip, backend=TorchBackend(merged.eval()))


def layers_of(tensors: Iterable[str]) -> list[str]:
    """Return the names of the layers that have A or B among these tensors, without PREFIX."""
    layers = [_split(name)[0] for name in tensors if _split(name)[1] is not None]
    return list(dict.fromkeys(layers))


def _split(name: str) -> tuple[str, str | None]:
    """Return (layer, suffix) of A or B, (name, None) of another tensor; both without PREFIX."""
    name = name.removeprefix(PREFIX)
    for suffix in _SIDES:
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, None


def _merge(model: Any, tensors: Mapping[str, torch.Tensor], config: Any) -> Any:
    """Return the model with W + scale * B A as the weights of the adapted layers; other tensors replace its own."""
    peft = require("peft", extra="lora")
    adapted = peft.get_peft_model(model, config)
    unexpected = peft.set_peft_model_state_dict(adapted, dict(tensors)).unexpected_keys
    assert not unexpected, f"peft has no place for {unexpected[:3]}"
    return adapted.merge_and_unload()


def _mismatches(adapter: Mapping[str, torch.Tensor], model: torch.nn.Module) -> Iterator[str]:
    """Yield the tensors of the adapters that have no place in a model."""
    import torch

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for name, tensor in adapter.items():
        layer, suffix = _split(name)
        own_name = layer if suffix is None else f"{layer}.weight"
        if own_name not in shapes or not name.startswith(PREFIX):
            yield f"no {own_name} there"
        elif suffix is None and shapes[own_name] != tuple(tensor.shape):
            yield f"{own_name} is {shapes[own_name]} there, {tuple(tensor.shape)} here"
        elif suffix is not None and layer not in linear:
            yield f"{own_name} is of no linear layer there"
        elif suffix is not None and tensor.ndim != 2:
            yield f"{own_name} is a matrix there, {layer}{suffix} has {tensor.ndim} dimensions"
        elif suffix is not None and shapes[own_name][_SIDES[suffix]] != tensor.shape[_SIDES[suffix]]:
            channels = tensor.shape[_SIDES[suffix]]
            yield f"{own_name} is {shapes[own_name]} there, its adapter has {channels} channels"


def _incomplete(tensors: Mapping[str, torch.Tensor], layers: Iterable[str], rank: int) -> Iterator[str]:
    """Yield adapters without A or B, and those of another rank than adapter_config.json states."""
    if not layers:
        yield f"{WEIGHTS} holds no lora_A and lora_B"
    for layer in layers:
        for suffix, dimension in _SIDES.items():
            tensor = tensors.get(f"{PREFIX}{layer}{suffix}")
            if tensor is None:
                yield f"{WEIGHTS} holds no {layer}{suffix}, the other half of an adapter"
            elif tensor.shape[1 - dimension] != rank:
                yield (
                    f"{CONFIG} says r = {rank}, {layer}{suffix} has rank {tensor.shape[1 - dimension]}; only adapters "
                    "of one rank are loaded"
                )
