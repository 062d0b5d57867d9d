"""Encoders for onnxruntime in the layout of the onnx-community: dynamic batch and text length, three precisions.

    FOLDER/config.json, tokenizer.json, ..., preprocessor_config.json     as in the Hugging Face folder
    FOLDER/onnx/vision_model<suffix>.onnx   pixel_values (batch, 3, S, S) float32          -> image_embeds (batch, D)
    FOLDER/onnx/text_model<suffix>.onnx     input_ids, attention_mask (batch, length) int64 -> text_embeds (batch, D)
    FOLDER/onnx/model<suffix>.onnx          both in one graph, with logits (onnx_joint.py)

Embeddings of the encoders are not of unit length, as in transformers' ...WithProjection classes.  The suffix is the
precision, as transformers.js reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.artifacts import read_json, write_json
from worldclip.core.errors import UserError, first_line, is_no_memory
from worldclip.core.job import Record, Report
from worldclip.core.registry import Requirement
from worldclip.model import published, sample_inputs, weights
from worldclip.model.formats import onnx_graphs
from worldclip.model.formats.huggingface_folder import (
    read_config_json,
    read_parts,
    write_tokenizer_and_processor,
)
from worldclip.model.formats.interface import TEXT_FILES, TORCH, CardFacts, LoadOptions
from worldclip.model.formats.onnx_backend import OnnxBackend, attention_mask, open_session
from worldclip.model.formats.onnx_graphs import FOLDER, IMAGE, JOINT, TEXT, check_file, model_path
from worldclip.model.formats.onnx_joint import write_joint
from worldclip.model.formats.onnx_parts import are_plain, read_plain_parts
from worldclip.model.inference import Clip
from worldclip.model.tokenizer import Tokens

logger = logging.getLogger(__name__)
OPTIONS: tuple[str, ...] = ("tokenizer", "precision")
requires = Requirement(("onnx", "onnx_ir", "onnxscript", "onnxruntime"), extra="export")
has_torch_weights, yields_to = False, "text"  # repositories of text towers hold their graphs, too
MIN_COSINE = {"fp16": 0.999, "int8": 0.999}  # smallest cosine of embeddings with the model's
JOINT_SHAPES = ((1, 1), (1, 2), (5, 7), (20, 20), (16, 2))  # numbers of images and texts of joint graphs


def _suffixes_of(precision: str) -> list[str]:
    """Return the suffixes of a precision's files, the first that is there counts; `_quantized` is our own int8."""
    if precision == "fp32":
        return [""]
    return ["_int8", "_quantized"] if precision == "int8" else [f"_{precision}"]


def missing(folder: Path) -> str | None:
    if _graphs(folder):
        return None
    files = sorted(path.name for place in (folder, folder / FOLDER) for path in place.glob("*.onnx"))
    if files:
        return f"{', '.join(files[:3])} without its other half: {IMAGE}*.onnx and {TEXT}*.onnx belong together"
    return f"no {IMAGE}*.onnx with {TEXT}*.onnx, and no {JOINT}*.onnx, there or in {FOLDER}"


def _graphs(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each precision by the suffix of its files: (image, text) encoders, or one joint graph.

    Encoders count before a joint graph, FOLDER/onnx before FOLDER.
    """
    graphs: dict[str, tuple[Path, ...]] = {}
    for place in (folder / FOLDER, folder):
        for image in sorted(place.glob(f"{IMAGE}*.onnx")):
            text = image.with_name(image.name.replace(IMAGE, TEXT, 1))
            if text.exists():
                graphs.setdefault(image.stem.removeprefix(IMAGE), (image, text))
    for place in (folder / FOLDER, folder):
        for joint in sorted(place.glob(f"{JOINT}*.onnx")):
            graphs.setdefault(joint.stem.removeprefix(JOINT), (joint,))
    return graphs


def _find_graphs(folder: Path, precision: str) -> tuple[Path, ...]:
    """Return the files of a precision.  Raises UserError that names the precisions that are there."""
    graphs = _graphs(folder)
    for suffix in _suffixes_of(precision):
        if suffix in graphs:
            return graphs[suffix]
    available = ", ".join("fp32" if not suffix else suffix.removeprefix("_") for suffix in graphs)
    choice = f"choose a precision: {available}" if graphs else f"both {IMAGE} and {TEXT}, or {JOINT}, are needed"
    raise UserError(f"{folder} has no {precision} graphs; {choice}")


def needs(path: Path, options: LoadOptions) -> tuple[Requirement, ...]:
    """Return what reading needs: torch's packages only where tokenizer or processor are not plain files."""
    plain = Requirement(("onnxruntime", "tokenizers", "PIL"), extra="onnx")
    return (plain,) if are_plain(path, options) else (TORCH, Requirement(("onnxruntime",), extra="export"))


def hub_weights(folder: Path, hub_id: str, precision: str) -> list[str] | None:
    """Return the patterns of both encoders, None where the repository is not named as onnx-community names them."""
    if not hub_id.endswith("-ONNX"):
        return None
    return [f"{FOLDER}/{tower}{suffix}.onnx*" for tower in (IMAGE, TEXT) for suffix in _suffixes_of(precision)]


def read(path: Path, options: LoadOptions) -> Clip:
    """Load the encoders of one precision, float32 by default; torch is not imported if are_plain."""
    if options.device not in ("auto", "cpu"):
        raise UserError(f"device = {options.device!r}: ONNX folders run on the CPU; use auto or cpu")
    read = read_plain_parts if are_plain(path, options) else read_parts
    config, tokenizer, processor = read(path, options)
    sessions = [open_session(file) for file in _find_graphs(path, options.precision or "fp32")]
    backend = OnnxBackend(
        sessions[0],
        sessions[-1],
        path / "config.json",
        _logit_scale(path, config),
        config.vision_config.image_size,
        tokenizer.eos_id,
    )
    return Clip(backend, tokenizer, processor)


def _logit_scale(folder: Path, config: Any) -> float | None:
    """Return the factor of cosines of config.json, else of the published weights that the folder or origin names."""
    stored = getattr(config, "logit_scale", None)
    if stored is not None:
        weights.require_values({"logit_scale": stored}, {"logit_scale": weights.POSITIVE}, folder / "config.json")
        return float(stored)
    cached = [part.rpartition("--")[2] for part in folder.parts if part.startswith("models--")]
    origin = str(read_config_json(folder).get("_name_or_path", ""))
    for name in (origin, folder.name, *cached):
        row = published.find(name.removesuffix("-ONNX"))
        if row is not None:
            logger.warning(
                f"{folder / 'config.json'} has no logit_scale; {published.LOGIT_SCALE:g} is used, the factor of "
                f"cosines in Meta CLIP 2's README ({row.name} is one of its models)"
            )
            return published.LOGIT_SCALE
    return None


def write(clip: Clip, folder: Path, precisions: Sequence[str], *, has_joint: bool = True) -> None:
    """Write the encoders in these precisions, and config.json with logit_scale, which the encoders do not hold.

    has_joint: write the joint graphs too.
    """
    clip.model.config.save_pretrained(folder)
    config_path = folder / "config.json"
    write_json(config_path, {**read_json(config_path), "logit_scale": clip.backend.logit_scale})
    write_tokenizer_and_processor(clip, folder)
    (folder / FOLDER).mkdir()
    for tower in (IMAGE, TEXT):
        onnx_graphs.write_encoder(clip.model, tower, folder, precisions)
    for precision in precisions if has_joint else ():
        image, text, joint = (model_path(folder, name, precision) for name in (IMAGE, TEXT, JOINT))
        write_joint(image, text, joint, clip.backend.logit_scale, onnx_graphs.MAX_FILE_BYTES)


def compare(clip: Clip, folder: Path, precisions: Sequence[str], *, has_joint: bool = True) -> Report:
    """Compare in onnxruntime: the largest difference in float32, the smallest cosine in the other precisions.

    has_joint: compare the joint graphs too, on the numbers of images and texts in JOINT_SHAPES.  `joint_bytes` is their
    size; they hold small weights a second time.
    Raises UserError also for files that are not valid ONNX, which some runtimes load all the same.
    """
    tokens = clip.require_tokenizer().encode(sample_inputs.TEXTS)
    pixels = sample_inputs.pixels(clip)
    expected = (clip.backend.encode_pixels(pixels), clip.encode_text(list(sample_inputs.TEXTS)))
    checked: dict[str, float] = {}
    for precision in precisions:
        for name in (IMAGE, TEXT, JOINT) if has_joint else (IMAGE, TEXT):
            check_file(model_path(folder, name, precision))
        encoders = read(folder, LoadOptions(device="cpu", precision=precision)).backend
        embeds = (encoders.encode_pixels(pixels), encoders.encode_tokens(tokens, num_chunks=len(tokens)))
        pairs = list(zip(embeds, expected, strict=True))
        if has_joint:
            pairs += _run_joint(model_path(folder, JOINT, precision), pixels.numpy(), tokens, expected)
        checked[precision] = _require_near(pairs, precision)
    joint_bytes = sum(path.stat().st_size for path in (folder / FOLDER).glob(f"{JOINT}*"))
    return {"checked": checked, "joint_bytes": joint_bytes}


def _require_near(pairs: Sequence[tuple[np.ndarray, np.ndarray]], precision: str) -> float:
    """Return the largest difference of (embeddings, expected ones) in float32, else their smallest cosine.

    Raises UserError for encoders that embed too differently.
    """
    if precision == "fp32":
        difference = max(sample_inputs.max_difference(*pair) for pair in pairs)
        return sample_inputs.require_close(difference, "onnxruntime")
    cosine = min(sample_inputs.min_cosine(*pair) for pair in pairs)
    if not cosine >= MIN_COSINE[precision]:
        raise UserError(
            f"the {precision} encoders' embeddings have a cosine of {cosine:.5f} with the model's (at least "
            f"{MIN_COSINE[precision]} is needed); leave {precision} out of onnx_precisions"
        )
    return cosine


def _run_joint(
    path: Path, pixels_B3SS: np.ndarray, tokens: Tokens, expected: tuple[np.ndarray, np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (embeddings of the joint graph, expected ones) of images, then of texts, for each of JOINT_SHAPES.

    Samples are repeated.  Raises UserError for a shape that the graph does not run on.
    """
    session = open_session(path)
    for num_images, num_texts in JOINT_SHAPES:
        images, texts = np.arange(num_images) % len(pixels_B3SS), np.arange(num_texts) % len(tokens)
        mask = attention_mask(tokens.lengths[texts])
        inputs = {"pixel_values": pixels_B3SS[images], "input_ids": tokens.padded(texts), "attention_mask": mask}
        try:
            image_BD, text_BD = session.run(["image_embeds", "text_embeds"], inputs)
        except Exception as error:  # onnxruntime's errors have no common class
            if is_no_memory(error):
                raise
            raise UserError(
                f"{path} does not run on {num_images} images and {num_texts} texts ({first_line(error)}); nothing was "
                "exported. Leave its precision out of onnx_precisions"
            ) from error
        yield image_BD, expected[0][images]
        yield text_BD, expected[1][texts]


def _checked(report: Record) -> str:
    """Return what the card says of `compare`."""
    kinds = dict.fromkeys(report["checked"], "smallest cosine") | {"fp32": "largest difference"}
    measured = ", ".join(f"{key}: {kinds[key]} {value:.2g}" for key, value in report["checked"].items())
    return (
        f"in onnxruntime ({measured}); `onnx/model*.onnx`, both encoders in one graph, take "
        f"{report['joint_bytes']:,} bytes"
    )


CARD = CardFacts(
    library="transformers.js",
    use=(
        "import worldclip",
        "",
        'clip = worldclip.load("THIS FOLDER", precision="int8")',
        'clip.classify("apple.png", ["red apple", "赤いリンゴ"])',
    ),
    checked=_checked,
    files=(*TEXT_FILES, "*.onnx", "*.onnx_data", "onnx/*"),
)
