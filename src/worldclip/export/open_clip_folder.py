"""A folder for open_clip: weights, open_clip_config.json and tokenizer, loaded as `local-dir:FOLDER` whatever the size.

Where open_clip has a configuration of its own for the same model, the weights load under that name too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import UserError, require
from worldclip.export import probe
from worldclip.model import preprocess
from worldclip.model import tensor_names as names
from worldclip.model.formats import open_clip_folder as open_clip

if TYPE_CHECKING:
    from worldclip.model.inference import Clip


def write(clip: Clip, folder: Path) -> None:
    from safetensors.torch import save_file

    assert clip.tokenizer is not None
    config = clip.model.config
    state = names.to_theirs(names.open_clip_rules(config), clip.model.state_dict())
    save_file(state, folder / open_clip.WEIGHTS_FILE, {"format": "pt"})
    clip.tokenizer.save(folder)
    record = {
        # in a folder, open_clip takes the tokenizer that stands there; the name says that it is Hugging Face's
        "model_cfg": open_clip.from_hugging_face_config(config, tokenizer_name="."),
        "preprocess_cfg": preprocess.to_open_clip(preprocess.facts_of(clip.processor)),
    }
    (folder / open_clip.CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def own_name(folder: Path) -> str | None:
    """open_clip's own name of the model, None where it has none."""
    return open_clip.own_name(open_clip.read_config(folder / open_clip.CONFIG_FILE)["model_cfg"])


def compare(clip: Clip, folder: Path) -> float:
    """Largest difference of any embedding's element when open_clip loads the folder, and under its own name."""
    library = require("open_clip", extra="export")
    tokens = library.get_tokenizer(f"local-dir:{folder}")(list(probe.LABELS))
    model, _, _ = library.create_model_and_transforms(f"local-dir:{folder}")
    differences = [_difference(clip, model.eval(), tokens)]
    if name := own_name(folder):
        model = library.create_model(name, pretrained=str(folder / open_clip.WEIGHTS_FILE))
        differences.append(_difference(clip, model.eval(), tokens))
    return max(differences)


def _difference(clip: Clip, model: Any, tokens: Any) -> float:
    import torch

    pixels = probe.pixels(clip)
    if not torch.equal(model.logit_scale.detach(), clip.model.logit_scale.detach().cpu()):
        raise UserError("open_clip reads another logit_scale than the model's")
    with torch.inference_mode():
        images, texts = probe.unit(model.encode_image(pixels)), probe.unit(model.encode_text(tokens))
    return max(
        probe.max_difference(images, clip.towers.encode_pixels(pixels)),
        probe.max_difference(texts, clip.encode_text(list(probe.LABELS))),
    )
