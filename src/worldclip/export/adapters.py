"""The model format `peft`: write the LoRA adapters of a checkpoint, and compare them with its merged weights.

model/formats/peft_folder.py reads them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.artifacts import write_json
from worldclip.core.errors import UserError, require
from worldclip.core.job import Report
from worldclip.core.registry import Requirement
from worldclip.model import sample_inputs
from worldclip.model.formats.interface import CardFacts, about, largest_difference
from worldclip.model.formats.peft_folder import CONFIG, PREFIX, WEIGHTS, layers_of, read_adapters
from worldclip.model.formats.peft_folder import OPTIONS as OPTIONS
from worldclip.model.formats.peft_folder import base_of as base_of
from worldclip.model.formats.peft_folder import missing as missing
from worldclip.model.formats.peft_folder import read as read
from worldclip.model.inference import Clip, TorchBackend
from worldclip.model.load import hub_id
from worldclip.train.checkpoint import CheckpointReader
from worldclip.train.lora import FOLDER

if TYPE_CHECKING:
    import torch

_PROJECTIONS = ("visual_projection", "text_projection")  # they learn in full

requires = Requirement(("peft",), extra="lora")
has_torch_weights, yields_to = True, ""
CARD = CardFacts(
    library="peft",
    use=(
        "from peft import PeftModel",
        "from transformers import AutoModel",
        "",
        'model = PeftModel.from_pretrained(AutoModel.from_pretrained("THE BASE MODEL"), "THIS FOLDER")',
    ),
    checked=largest_difference("peft"),
    files=("*.json", "*.safetensors"),
    about=about(
        "LoRA adapters and projections of a CLIP, to be added to the weights that training started from "
        "(`base_model_name_or_path` of `adapter_config.json`, if they are on the hub)"
    ),
)


def writer(source: Path, clip: Clip, embedded: str) -> AdapterWriter:
    """Return the writer of a checkpoint's adapters."""
    return AdapterWriter(source)


@dataclass(frozen=True, slots=True)
class AdapterWriter:
    """Writes the adapters of one checkpoint."""

    checkpoint: Path

    def write(self, clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> None:
        """Write adapters and projections.  Raises UserError for a model that was trained without adapters.

        A base on the hub is named; one in a local folder is not, for its path says nothing to others.  The
        configuration is made anew: a checkpoint of others may name modules that peft would import.
        """
        from safetensors.torch import save_file

        source = self.checkpoint / FOLDER / CONFIG
        if not source.exists():
            raise UserError(
                f"{self.checkpoint} has no adapters; train with train.lora_rank, or leave peft out of export.formats"
            )
        adapters = read_adapters(source)
        state = clip.model.state_dict()
        tensors = self._read("adapter.")
        layers = layers_of(tensors)
        config = {
            **adapters.to_peft(layers).to_dict(),
            "target_modules": sorted(layers),
            "modules_to_save": list(_PROJECTIONS),
            "base_model_name_or_path": None if adapters.base is None else hub_id(adapters.base),
        }
        tensors |= {f"{name}.weight": state[f"{name}.weight"] for name in _PROJECTIONS}
        named = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
        write_json(folder / CONFIG, config)

    def compare(self, clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> Report:
        """Let peft add the adapters to the base weights, and compare with the merged model."""
        model: Any = copy.deepcopy(clip.model)
        model.load_state_dict(self._read("base."), strict=False)
        adapted = require("peft", extra="lora").PeftModel.from_pretrained(model, folder)
        other = dataclasses.replace(clip, backend=TorchBackend(adapted.base_model.model.eval()))
        pixels = sample_inputs.pixels(clip)
        images_BD, texts_BD = other.backend.encode_pixels(pixels), other.encode_text(list(sample_inputs.TEXTS))
        difference = sample_inputs.embedding_difference(clip, pixels, images_BD, texts_BD)
        return {"max_difference": sample_inputs.require_close(difference, "peft")}

    def _read(self, kind: str) -> dict[str, torch.Tensor]:
        """Return the tensors of one kind (train/checkpoint.py), by their names after it."""
        reader = CheckpointReader(self.checkpoint)
        return {name.removeprefix(kind): reader.read(name) for name in reader.tensors if name.startswith(kind)}
