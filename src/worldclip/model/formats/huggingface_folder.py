"""Hugging Face folders of a MetaClip2Model: config.json, weights, tokenizer and preprocessor_config.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.contracts import layout
from worldclip.core.artifacts import write_json
from worldclip.core.errors import UserError
from worldclip.core.job import Report
from worldclip.core.printable import command_line
from worldclip.model import preprocess, sample_inputs, weights
from worldclip.model.clip import check_tokenizer, pick_device
from worldclip.model.formats import other_clips
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.inference import Clip, TorchBackend
from worldclip.model.tokenizer import Tokenizer, load_tokenizer, require_transformers

if TYPE_CHECKING:
    import torch

FAMILY = "metaclip_2"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "sentencepiece.bpe.model", "spiece.model")
# the class that reads the towers' outputs of transformers 4 and 5 alike; older versions of the library lack this path:
# they refuse the folder, where their own CLIPModel would build OpenAI's model around these weights
_SENTENCE_TRANSFORMERS = "sentence_transformers.sentence_transformer.modules"


def read_config_json(folder: Path) -> Report:
    """Return the folder's config.json, {} where there is none."""
    return weights.read_optional_config(folder / "config.json")


def read(path: Path, options: LoadOptions) -> Clip:
    config = _read_config(path)
    if config.model_type != FAMILY:
        return other_clips.read_transformers(path, config, options)
    config, tokenizer, processor = read_parts(path, options)
    if not weights.weight_files(path, "model.safetensors"):
        remedy = "copy or download it whole"
        if (layout.trainer_dir(path) / "shards").is_dir():  # written by several processes
            remedy = f"run {command_line('consolidate', path)}"
        raise UserError(f"{path} holds config.json and no weights (model.safetensors); {remedy}")
    model = other_clips.read_whole(require_transformers().MetaClip2Model, path, config, is_strict=True)
    return Clip(TorchBackend(model.to(pick_device(options.device)).eval()), tokenizer, processor)


def read_parts(folder: Path, options: LoadOptions) -> tuple[Any, Tokenizer, Any]:
    """Return the configuration, tokenizer and image processor.  Raises UserError where they do not fit together."""
    config = _read_config(folder)
    if config.model_type != FAMILY:
        raise UserError(f"{folder} holds a {config.model_type!r} model; this needs a {FAMILY!r} one")
    tokenizer = read_tokenizer(options.tokenizer or folder, config.text_config.max_position_embeddings)
    complete_special_ids(config.text_config, read_config_json(folder).get("text_config") or {}, tokenizer)
    check_tokenizer(config, tokenizer)
    image_size = config.vision_config.image_size
    processor = require_transformers().AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    size = processor.size
    if getattr(processor, "do_center_crop", False):
        size = processor.crop_size
    size = dict(size or {})
    sides = sorted({side for side in (size.get("height"), size.get("width")) if side is not None})
    if sides and sides != [image_size]:
        raise UserError(
            f"{folder}: preprocessor_config.json makes images of {' x '.join(map(str, sides))} px, the model reads "
            f"{image_size} px; they belong to different models"
        )
    return config, tokenizer, processor


def _read_config(folder: Path) -> Any:
    families = (FAMILY, *other_clips.FAMILIES)
    model_type = read_config_json(folder).get("model_type")
    if model_type not in families:  # transformers would run its code, or advise to install another version of itself
        raise UserError(f"{folder} holds a {model_type!r} model; worldclip loads {', '.join(families)}")
    weights.weight_files(folder, "model.safetensors")  # refuses an index that names tensors elsewhere
    config = require_transformers().AutoConfig.from_pretrained(folder, trust_remote_code=False)
    vars(config).pop("auto_map", None)  # names code of its own, and would be saved with the model
    return config


def complete_special_ids(text_config: Any, stated: Report, tokenizer: Tokenizer) -> None:
    """Set the special ids that config.json lacks, or states as null, to the tokenizer's.

    transformers would take OpenAI CLIP's end token (49407) for an absent one, and pool at an id that no text holds.
    """
    for name in ("bos", "eos", "pad"):
        if stated.get(f"{name}_token_id") is None:
            setattr(text_config, f"{name}_token_id", getattr(tokenizer, f"{name}_id"))


def build(config: Any, state: dict[str, torch.Tensor]) -> Any:
    """Return a MetaClip2Model with exactly these tensors, in names and shapes."""
    import torch

    create = require_transformers().MetaClip2Model.from_pretrained
    model = create(None, config=config, state_dict=state, dtype=torch.float32).eval()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in state.items()}
    return model


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in TOKENIZER_FILES)


def read_tokenizer(source: str | Path, context_length: int) -> Tokenizer:
    """Load a tokenizer by folder or hub id.

    Raises UserError, also for a folder without one: transformers would return an empty tokenizer.
    """
    folder = Path(source)
    if folder.is_dir() and not has_tokenizer(folder):
        raise UserError(
            f"{folder} holds no tokenizer ({', '.join(TOKENIZER_FILES)}); give one: tokenizer='FOLDER or id'"
        )
    return load_tokenizer(source, context_length)


def write(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> None:
    """Write a model of any source as a Hugging Face folder."""
    clip.model.save_pretrained(folder)
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)  # safetensors 0.8 lets only the owner read
    write_tokenizer_and_processor(clip, folder)
    write_sentence_modules(folder)


def write_sentence_modules(folder: Path) -> None:
    """Write modules.json: Sentence Transformers (5.4 and later) then gives normalised embeddings of both modalities."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{_SENTENCE_TRANSFORMERS}.CLIPModel"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{_SENTENCE_TRANSFORMERS}.Normalize"},
    ]
    write_json(folder / "modules.json", modules)


def write_tokenizer_and_processor(clip: Clip, folder: Path) -> None:
    clip.tokenizer.save(folder)
    preprocess.to_hugging_face(preprocess.facts_of(clip.processor)).save_pretrained(folder)


def compare(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> Report:
    """Compare with transformers' own classes, and its preprocessing where the source was a Hugging Face folder."""
    import torch

    transformers = require_transformers()
    model = transformers.AutoModel.from_pretrained(folder, dtype="float32", trust_remote_code=False).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    texts = list(sample_inputs.TEXTS)
    inputs = processor(text=texts, images=sample_inputs.images(), return_tensors="pt", padding=True, truncation=True)
    if isinstance(clip.processor, preprocess.PerImage):
        # another library's transform rounds differently: the models are compared on its pixels
        inputs["pixel_values"] = sample_inputs.pixels(clip)
    with torch.inference_mode():
        outputs = model(**inputs)
    difference = sample_inputs.embedding_difference(
        clip, inputs["pixel_values"], outputs.image_embeds.numpy(), outputs.text_embeds.numpy()
    )
    return {"max_difference": sample_inputs.require_close(difference, "transformers")}
