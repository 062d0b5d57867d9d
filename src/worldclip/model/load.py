"""What `worldclip.load(x)` is given: found out from the files that are there, never guessed.

    run           train/step_*                                       its best step, else its latest
    huggingface   config.json of a metaclip_2 model and its weights
    open_clip     open_clip_config.json and weights, or a single .pt, .pth, .bin, .safetensors (the reference's too)
    timm          config.json with timm's `architecture`: an image tower
    onnx          onnx/vision_model*.onnx and onnx/text_model*.onnx

The source decides on the preprocessing: a Hugging Face folder by its own processor, an open_clip checkpoint by
open_clip's transform, timm's by timm's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.layout import best_checkpoint
from worldclip.model import published, weights
from worldclip.model import tensor_names as names
from worldclip.model.backend import TorchTowers, Towers
from worldclip.model.clip import check_tokenizer, pick_device
from worldclip.model.formats import onnx_folder as onnx
from worldclip.model.formats import open_clip_folder as open_clip
from worldclip.model.formats import timm_folder as timm
from worldclip.model.tokenizer import Tokenizer, load_tokenizer, require_transformers

Layout = Literal["huggingface", "open_clip", "timm", "onnx"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "sentencepiece.bpe.model", "spiece.model")


@dataclass(frozen=True, slots=True)
class Source:
    """A folder, or a single checkpoint file, and what it is."""

    layout: Layout
    path: Path


@dataclass(frozen=True, slots=True)
class Loaded:
    towers: Towers
    tokenizer: Tokenizer | None
    processor: Any


def find(source: str | Path, layout: Layout | None = None, precision: str | None = None) -> Source:
    """What a source is; a repository of the hub is downloaded, of an ONNX one the encoders of `precision` alone.

    Raises UserError where it is nothing that worldclip loads, or may be two things.
    """
    path = _local(source, precision)
    if path.is_file():
        if path.suffix not in weights.SUFFIXES:
            raise UserError(
                f"{path} is no checkpoint; a file that worldclip loads ends in {', '.join(weights.SUFFIXES)}"
            )
        return Source("open_clip", path)
    checkpoint = best_checkpoint(path)
    if checkpoint is not None:
        return Source("huggingface", checkpoint)
    candidates = _candidates(path)
    if layout is not None:
        if layout not in candidates:
            raise UserError(f"{path} is not in the layout {layout!r}; {_found(path, candidates)}")
        return Source(layout, path)
    if candidates == ["open_clip", "timm"]:
        return Source("open_clip", path)  # timm's own repositories hold both: the whole model and its image tower
    if len(candidates) != 1:
        raise UserError(f"{path}: {_found(path, candidates)}")
    return Source(candidates[0], path)


def digest(source: Source) -> str:
    """32 hex digits of what decides a model's embeddings: the file, or the folder's files but card and trainer."""
    root = source.path
    if root.is_file():
        return artifacts.digest([artifacts.fingerprint(root, root.parent)])
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".md")
    decide = [path for path in files if path.relative_to(root).parts[0] != "trainer"]
    return artifacts.digest([artifacts.fingerprint(path, root) for path in decide])


def _candidates(path: Path) -> list[Layout]:
    """Layouts whose files stand in a folder."""
    found: list[Layout] = []
    config = _read_config(path)
    has_weights = weights.safetensors_shapes(path) is not None or (path / "pytorch_model.bin").exists()
    if config.get("model_type") is not None and (has_weights or not (path / onnx.FOLDER).is_dir()):
        found.append("huggingface")
    if (path / open_clip.CONFIG_FILE).exists():
        found.append("open_clip")
    if "architecture" in config and "model_type" not in config:
        found.append("timm")
    if any((path / onnx.FOLDER).glob("*_model*.onnx")):
        found.append("onnx")
    return found


def _found(path: Path, candidates: list[Layout]) -> str:
    if candidates:
        return f"it holds a model as {' and as '.join(candidates)}; say which: layout={candidates[0]!r}"
    checkpoints = sorted(file.name for file in path.glob("*") if file.suffix in weights.SUFFIXES)
    if checkpoints:
        return (
            f"it holds {', '.join(checkpoints[:3])} and no configuration (config.json, {open_clip.CONFIG_FILE}); "
            f"load the file and say what it is: worldclip.load({str(path / checkpoints[0])!r}, arch=...)"
        )
    return (
        f"it holds neither config.json (a Hugging Face folder), nor {open_clip.CONFIG_FILE}, nor onnx/*.onnx, "
        f"nor train/step_* (a run); if it is a run, train it first: worldclip train {path}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error})") from error


def _local(source: str | Path, precision: str | None) -> Path:
    """The path given, or the local copy of a repository of the hub, which is downloaded where it is not there."""
    path = Path(str(source).removeprefix("local-dir:"))  # open_clip's and timm's ways to name a folder and a hub id
    if path.exists():
        return path
    name = str(source).removeprefix("hf-hub:")
    if isinstance(source, Path) or name.count("/") != 1 or name.startswith((".", "~", "/")):
        known = published.find(name)
        hint = f"; {known.hub_id} is its name on the hub" if known else ""
        raise UserError(
            f"{source} does not exist; give a run, a model's folder or file, or a hub id (owner/name){hint}"
        )
    return _download(name, precision or "fp32")


def _download(hub_id: str, precision: str) -> Path:
    """Configuration first, then only the weights of the layout that it says."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    small = ["*.json", "*.txt", "*.model", "README.md"]
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=small))
        if (folder / open_clip.CONFIG_FILE).exists():
            kept = list(open_clip.WEIGHT_FILES)
        elif (folder / "config.json").exists() and "architecture" in _read_config(folder):
            kept = list(timm.WEIGHT_FILES)
        elif hub_id.endswith("-ONNX"):
            suffix = onnx.SUFFIXES.get(precision, "")
            kept = [f"{onnx.FOLDER}/{tower}{suffix}.onnx*" for tower in (onnx.IMAGE, onnx.TEXT)]
        else:
            kept = ["model*.safetensors"]
        return Path(snapshot_download(hub_id, allow_patterns=[*small, *kept]))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{hub_id} is neither a path here nor a repository that the hub gives ({str(error).splitlines()[0]}); "
            "check the name, or the network"
        ) from error


def load(source: Source, device: str, arch: str | None, tokenizer: str | None, precision: str | None) -> Loaded:
    """The model of a source; see worldclip.load."""
    unused = (
        [f"arch is {arch!r}, and {source.path} says itself what it is"]
        if arch and source.layout in ("huggingface", "onnx")
        else []
    )
    if precision and source.layout != "onnx":
        unused.append(f"precision is {precision!r}; only ONNX folders hold several")
    if unused:
        raise UserError([*unused, "leave it out"])
    if source.layout == "huggingface":
        return _load_hugging_face(source.path, device, tokenizer)
    if source.layout == "open_clip":
        return _load_open_clip(source.path, device, arch, tokenizer)
    if source.layout == "timm":
        tower: Any
        tower, processor = timm.load(source.path, arch)
        return Loaded(TorchTowers(tower.to(pick_device(device))), None, processor)
    return _load_onnx(source.path, device, tokenizer, precision)


def _load_hugging_face(folder: Path, device: str, tokenizer: str | None) -> Loaded:
    import torch

    transformers = require_transformers()
    config = _hugging_face_config(folder)
    with torch.device("meta"):
        expected = names.shapes(transformers.MetaClip2Model(config).state_dict())
    found = weights.safetensors_shapes(folder)
    if found is None and not (folder / "pytorch_model.bin").exists():
        raise UserError(f"{folder} holds config.json and no weights (model.safetensors); copy or download it whole")
    if found is None:
        state = weights.read_state(folder / "pytorch_model.bin")
        names.check_tensors(str(folder), names.shapes(state), expected, ignore=("position_ids",))
        model = open_clip.build(transformers.MetaClip2Model, config, {name: state[name].float() for name in expected})
    else:
        names.check_tensors(str(folder), found, expected, ignore=("position_ids",))
        model = transformers.MetaClip2Model.from_pretrained(folder, dtype="float32")  # mapped, not read twice
    wrapped = _load_tokenizer(tokenizer or folder, config.text_config.max_position_embeddings)
    check_tokenizer(config, wrapped)
    processor = _load_processor(folder, config.vision_config.image_size)
    return Loaded(TorchTowers(model.to(pick_device(device)).eval()), wrapped, processor)


def _hugging_face_config(folder: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError

    transformers = require_transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"{folder} does not load as a Hugging Face model ({error})") from error
    if config.model_type == "metaclip_2_vision_model":
        raise UserError(f"{folder} holds an image tower for transformers' MetaClip2VisionModel; it has no embeddings")
    if config.model_type != "metaclip_2":
        raise UserError(f"{folder} holds a {config.model_type!r} model; worldclip loads 'metaclip_2' models")
    return config


def _load_tokenizer(source: str | Path, context_length: int) -> Tokenizer:
    """Raises UserError, also for a folder without one: transformers would make an empty one up."""
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder} holds no tokenizer ({', '.join(TOKENIZER_FILES)}); give one: tokenizer='FOLDER or id'"
        )
    try:
        return load_tokenizer(source, context_length)
    except (KeyError, TypeError) as error:  # what transformers raises of a tokenizer.json that is none
        raise UserError(
            f"{source} does not load as a tokenizer ({error!r}); copy or download its files again"
        ) from error


def _load_processor(folder: Path, image_size: int) -> Any:
    """The folder's image processor.  Raises UserError where there is none, or it makes images of another size."""
    try:
        processor = require_transformers().AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder} does not say how images become pixels: preprocessor_config.json is missing or wrong "
            f"({str(error).splitlines()[0]}); copy or download it again"
        ) from error
    size = dict((processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size) or {})
    made = {side for side in (size.get("height"), size.get("width")) if side is not None}
    if made and made != {image_size}:
        raise UserError(
            f"{folder}: preprocessor_config.json makes images of {' x '.join(map(str, made))} px, the model reads "
            f"{image_size} px; they are of different models"
        )
    return processor


def _load_onnx(folder: Path, device: str, tokenizer: str | None, precision: str | None) -> Loaded:
    if pick_device(device).type != "cpu" and device != "auto":
        raise UserError(f"device is {device!r}; worldclip runs ONNX folders on the CPU")
    config = _hugging_face_config(folder)
    wrapped = _load_tokenizer(tokenizer or folder, config.text_config.max_position_embeddings)
    check_tokenizer(config, wrapped)
    processor = _load_processor(folder, config.vision_config.image_size)
    return Loaded(onnx.load(folder, getattr(config, "logit_scale", None), precision), wrapped, processor)


def _load_open_clip(path: Path, device: str, arch: str | None, tokenizer: str | None) -> Loaded:
    folder, file = (path.parent, path) if path.is_file() else (path, _weights_of(path))
    state = weights.read_state(file)
    record = _architecture(folder, file, state, arch)
    text_cfg = record["model_cfg"]["text_cfg"]
    wrapped = _load_tokenizer(_tokenizer_of(folder, file, text_cfg, tokenizer), text_cfg.get("context_length", 77))
    config: Any = open_clip.to_hugging_face_config(record["model_cfg"], str(file), wrapped.pad_id)
    check_tokenizer(config, wrapped)
    model: Any = open_clip.to_model(state, config, str(file))
    processor = open_clip.preprocessing(record["preprocess_cfg"], config.vision_config.image_size)
    return Loaded(TorchTowers(model.to(pick_device(device))), wrapped, processor)


def _weights_of(folder: Path) -> Path:
    found = [folder / name for name in open_clip.WEIGHT_FILES if (folder / name).exists()]
    if not found:
        raise UserError(
            f"{folder} holds {open_clip.CONFIG_FILE} and none of its weights: {', '.join(open_clip.WEIGHT_FILES)}"
        )
    return found[0]


def _architecture(folder: Path, file: Path, state: dict[str, Any], arch: str | None) -> dict[str, Any]:
    """model_cfg and preprocess_cfg: those named, those beside the file, or the only ones that fit its tensors."""
    if arch is not None:
        return open_clip.read_config(Path(arch)) if Path(arch).is_file() else _named(arch)
    if (folder / open_clip.CONFIG_FILE).exists():
        return open_clip.read_config(folder / open_clip.CONFIG_FILE)
    if "visual.conv1.weight" not in state:
        raise UserError(f"{file} holds no open_clip model of this family: there is no visual.conv1.weight in it")
    fitting = fitting_names(state)
    if len(fitting) != 1:
        what = (
            f"may be {' or '.join(fitting)}, whose tensors have the same shapes and whose activation differs; say "
            f"which: arch={fitting[0]!r}"
            if fitting
            else "has the shapes of no published model; give its configuration: arch='PATH/open_clip_config.json'"
        )
        raise UserError(f"{file} {what}")
    return _named(fitting[0])


def _named(name: str) -> dict[str, Any]:
    row = published.find(name)
    if row is None or row.open_clip == name:
        return open_clip.named_config(name)
    return {"model_cfg": open_clip.published_config(row), "preprocess_cfg": {}}


def fitting_names(state: dict[str, Any]) -> list[str]:
    """Names of published models whose tensors have these shapes."""
    patch, width = state["visual.conv1.weight"].shape[-1], state["visual.conv1.weight"].shape[0]
    image_size = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5) * patch
    vocab_size = state["token_embedding.weight"].shape[0]
    rows = []
    for row in published.FAMILY:
        sizes = row.model_config().architecture()
        same = (sizes.patch_size, sizes.vision_width, sizes.image_size) == (patch, width, image_size)
        if same and row.tokenizer.vocab_size == vocab_size:
            rows.append(row)
    found = [row.open_clip or row.name for row in rows]
    return [*found, "ViT-H-14-worldwide"] if "ViT-H-14-worldwide-quickgelu" in found else found


def _tokenizer_of(folder: Path, file: Path, text_cfg: dict[str, Any], given: str | None) -> str | Path:
    if given is not None:
        return given
    if any((folder / name).exists() for name in TOKENIZER_FILES):
        return folder
    named = text_cfg.get("hf_tokenizer_name")
    if not named:
        raise UserError(
            f"{file} says nothing of its tokenizer, and none stands beside it; give one: tokenizer='FOLDER or hub id'"
        )
    return named
