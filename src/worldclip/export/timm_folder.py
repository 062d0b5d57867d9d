"""The image tower as timm's, its projection as the head: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worldclip.core.errors import require
from worldclip.export import probe
from worldclip.model import preprocess
from worldclip.model import tensor_names as names
from worldclip.model.formats import timm_folder as timm

if TYPE_CHECKING:
    from worldclip.model.inference import Clip


def write(clip: Clip, folder: Path) -> None:
    import torch

    library = require("timm", extra="export")
    config = clip.model.vision_model.config
    architecture, arguments = timm.architecture(config)
    model = library.create_model(architecture, pretrained=False, **arguments)
    state = names.to_theirs(names.timm_rules(config.num_hidden_layers), clip.model.state_dict())
    state["head.bias"] = torch.zeros(config.projection_dim)
    model.load_state_dict(state, strict=True)
    data = preprocess.to_timm(preprocess.facts_of(clip.processor))
    library.models.save_for_hf(model, folder, safe_serialization=True, data_config=data)


def compare(clip: Clip, folder: Path) -> float:
    """Largest difference of any image embedding's element when timm loads the folder."""
    import torch

    model = require("timm", extra="export").create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = probe.pixels(clip)
    with torch.inference_mode():
        found = probe.unit(model(pixels))
    return probe.max_difference(found, clip.towers.encode_pixels(pixels))
