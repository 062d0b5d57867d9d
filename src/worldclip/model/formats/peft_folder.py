"""LoRA adapters in peft's layout: adapter_config.json and adapter_model.safetensors, which names a base model.

They are read by adding them to that model; export/adapters.py writes them from a checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from worldclip.core.errors import UserError, require
from worldclip.model import weights
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.inference import Clip, TorchBackend

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OPTIONS: tuple[str, ...] = ("tokenizer", "precision")
PREFIX = "base_model.model."  # of every tensor in peft's file
_SIDES = {".lora_A.weight": 1, ".lora_B.weight": 0}  # suffix -> dimension that the layer decides; the other is the rank


def missing(folder: Path) -> str | None:
    """Return what the folder lacks to hold adapters."""
    return next((f"no {name}" for name in (CONFIG, WEIGHTS) if not (folder / name).exists()), None)


def base_of(folder: Path) -> str:
    """Return the model that the adapters are added to, as adapter_config.json names it.

    Raises UserError for adapters of another kind than LoRA's, and without a name.
    """
    path = folder / CONFIG
    config = weights.read_json_config(path)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise UserError(f"{path}: peft_type is {kind!r}; worldclip loads LoRA adapters alone")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{path} names no base model; set its base_model_name_or_path to the one that was adapted")
    return base


def read(path: Path, options: LoadOptions) -> Clip:
    """Load the base model and merge the adapters into it.  Raises UserError for adapters of another model."""
    from worldclip.model import load

    peft = require("peft", extra="lora")
    base = base_of(path)
    source = load.find(base)
    if source.layout == "peft":
        raise UserError(f"{path}: its base model {base} holds adapters itself; export it to huggingface first")
    clip = load.read(source, LoadOptions(device=options.device, tokenizer=options.tokenizer))
    if not isinstance(clip.backend, TorchBackend):
        raise UserError(f"{path}: its base model {base} has no torch weights of a MetaClip2Model to add adapters to")
    shapes = {name: tuple(tensor.shape) for name, tensor in clip.model.state_dict().items()}
    problems = list(_mismatches(weights.read_state(path / WEIGHTS), shapes))
    if problems:
        raise UserError(
            f"{path}: the adapters are of another model than {base} ({'; '.join(problems[:3])}); set "
            f"base_model_name_or_path in {CONFIG} to the model that they were trained on"
        )
    merged = peft.PeftModel.from_pretrained(clip.model, path).merge_and_unload()
    return dataclasses.replace(clip, backend=TorchBackend(merged.eval()))


def _mismatches(adapter: Mapping[str, torch.Tensor], base_shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield the tensors of the adapters that have no place in a model of these shapes."""
    for name, tensor in adapter.items():
        own_name, dimension = name.removeprefix(PREFIX), None
        for suffix, decided in _SIDES.items():
            if own_name.endswith(suffix):
                own_name, dimension = own_name.removesuffix(suffix) + ".weight", decided
        shape = base_shapes.get(own_name)
        if shape is None:
            yield f"no {own_name} there"
        elif dimension is None and shape != tuple(tensor.shape):
            yield f"{own_name} is {shape} there, {tuple(tensor.shape)} here"
        elif dimension is not None and (len(shape) != 2 or shape[dimension] != tensor.shape[dimension]):
            yield f"{own_name} is {shape} there, its adapter has {tensor.shape[dimension]} channels"
