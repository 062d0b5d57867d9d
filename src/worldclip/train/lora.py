"""LoRA (arXiv:2106.09685): the towers' weights stay fixed, and low-rank adapters learn in addition.

Every linear layer of the blocks of an adapted tower computes (W + B A) x + b: W and b are fixed, A (rank, inputs) is
drawn from the seed, B (outputs, rank) begins at zero.  The projections after the towers learn in full; the logit scale
stays fixed, since peft's files have no place for it.

A checkpoint holds W + B A as the weights, so that everything which reads checkpoints needs no peft; step_*/adapters is
what learns, as peft reads it.  W itself cannot be recovered from the sum to the bit: trainer/ has it, for the run that
resumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from worldclip.core.errors import require
from worldclip.model.weights import write_state
from worldclip.train.config import TrainConfig

if TYPE_CHECKING:
    from transformers import MetaClip2Model

FOLDER = "adapters"  # of a checkpoint
ADAPTER_NAME = "default"  # peft's own
PREFIX = "base_model.model."  # of peft's names
PROJECTIONS = ("visual_projection", "text_projection")
_LAYERS = r"\.encoder\.layers\.\d+\.(self_attn|mlp)\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


def adapter_config(config: TrainConfig) -> Any:
    """Return peft's LoraConfig of a recipe.  The scale of B A is 1: only the learning rate decides how far it goes."""
    towers = [f"{tower}_model" for tower in config.adapted_towers]
    return require("peft", extra="lora").LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_rank,
        target_modules=f"({'|'.join(towers)}){_LAYERS}",
        modules_to_save=list(PROJECTIONS),
        base_model_name_or_path=config.initial_weights,
        inference_mode=True,
    )


def add_adapters(clip: MetaClip2Model, config: TrainConfig) -> None:
    """Add adapters to the layers of `clip`, which compute the same until the first update; a function of the seed.

    Afterwards only the adapters and the projections require gradients.
    """
    peft = require("peft", extra="lora")
    layers = adapter_config(config)
    layers.modules_to_save = None  # a copy of each projection; they learn in place instead
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        peft.inject_adapter_in_model(layers, clip, adapter_name=ADAPTER_NAME)
    clip.requires_grad_(False)
    for name in PROJECTIONS:
        getattr(clip, name).requires_grad_(True)
    for layer in adapted_layers(clip).values():
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)


def adapted_layers(clip: torch.nn.Module) -> dict[str, Any]:
    """Return the layers that have an adapter, by the names of their weights in the Hugging Face folder."""
    return {f"{name}.weight": layer for name, layer in clip.named_modules() if hasattr(layer, "lora_A")}


def copy_adapters(clip: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of what learns, adapters and projections, by the names in peft's files."""
    learning = ((name, parameter) for name, parameter in clip.named_parameters() if parameter.requires_grad)
    return {f"{PREFIX}{stored_name(name)}": value.detach().to("cpu", copy=True) for name, value in learning}


def write_adapters(folder: Path, adapters: Mapping[str, torch.Tensor], config: TrainConfig) -> None:
    """Write the folder that peft.PeftModel.from_pretrained takes.  adapters: what copy_adapters returned."""
    adapter_config(config).save_pretrained(folder)
    write_state(folder / "adapter_model.safetensors", adapters, {"format": "pt"})


def stored_name(name: str) -> str:
    """Return a parameter's name in a checkpoint: the Hugging Face folder's, of an adapter the one in peft's files."""
    return name.replace(".base_layer.", ".").replace(f".{ADAPTER_NAME}.", ".")


def is_adapter(name: str) -> bool:
    """Return whether a stored name is that of A or B."""
    return ".lora_A." in name or ".lora_B." in name


@torch.no_grad()
def merged_weights(clip: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name in the Hugging Face folder, W + B A) of each adapted layer, float32."""
    for name, layer in adapted_layers(clip).items():
        yield name, layer.base_layer.weight + layer.get_delta_weight(ADAPTER_NAME)
