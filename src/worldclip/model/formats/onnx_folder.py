"""Encoders for onnxruntime, as transformers.js reads them: dynamic batch and text length, three precisions.

    FOLDER/config.json, tokenizer.json, ..., preprocessor_config.json     as in the Hugging Face folder
    FOLDER/onnx/vision_model<suffix>.onnx   pixel_values (batch, 3, S, S) float32          -> image_embeds (batch, D)
    FOLDER/onnx/text_model<suffix>.onnx     input_ids, attention_mask (batch, length) int64 -> text_embeds (batch, D)
    FOLDER/onnx/model<suffix>.onnx          both in one graph, with logits (onnx_joint.py), which is not read here

Embeddings of the encoders are not of unit length, as in transformers' ...WithProjection classes.  The suffix is the
precision, as transformers.js reads it.  config.json has the logit scale, which the encoders do not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import read_json, write_json
from worldclip.core.errors import UserError, require
from worldclip.core.job import Report
from worldclip.core.registry import Requirement
from worldclip.model import sample_inputs
from worldclip.model.formats.huggingface_folder import read_config_json, read_parts, write_tokenizer_and_processor
from worldclip.model.formats.interface import TORCH, LoadOptions
from worldclip.model.formats.onnx_backend import (
    FOLDER,
    IMAGE,
    JOINT,
    SUFFIXES,
    TEXT,
    OnnxBackend,
    attention_mask,
    model_path,
    open_session,
)
from worldclip.model.formats.onnx_joint import write_joint
from worldclip.model.formats.onnx_parts import are_plain, read_plain_parts
from worldclip.model.inference import Clip
from worldclip.model.tokenizer import Tokens
from worldclip.model.weights import library_faults

MIN_COSINE = {"fp16": 0.999, "int8": 0.999}  # smallest cosine of embeddings with the model's
JOINT_SHAPES = ((1, 1), (1, 2), (5, 7), (20, 20), (16, 2))  # numbers of images and texts of joint graphs
SCALE = "logit_scale"  # key of config.json


def needs(path: Path, options: LoadOptions) -> tuple[Requirement, ...]:
    """Return what reading needs: torch's packages only where tokenizer or processor are not plain files."""
    plain = Requirement(("onnxruntime", "tokenizers", "PIL"), extra="onnx")
    return (plain,) if are_plain(path, options) else (TORCH, Requirement(("onnxruntime",), extra="export"))


def encoders(folder: Path, precision: str) -> list[Path]:
    """Return the files of both encoders in a precision."""
    if precision not in SUFFIXES:
        raise UserError(f"precision = {precision!r}: ONNX encoders have one of {', '.join(SUFFIXES)}")
    return [model_path(folder, tower, precision) for tower in (IMAGE, TEXT)]


def read(path: Path, options: LoadOptions) -> Clip:
    """Load the encoders of one precision, float32 by default; torch is not imported if are_plain."""
    if options.device not in ("auto", "cpu"):
        raise UserError(f"device = {options.device!r}: ONNX folders run on the CPU; use auto or cpu")
    precision = options.precision or "fp32"
    files = encoders(path, precision)
    written = [name for name in SUFFIXES if all(map(Path.exists, encoders(path, name)))]
    if precision not in written:
        raise UserError(f"{path} has no {precision} encoders; choose a precision: {', '.join(written)}")
    read_all = read_plain_parts if are_plain(path, options) else read_parts
    _, tokenizer, processor = read_all(path, options)
    image, text = map(open_session, files)
    return Clip(OnnxBackend(image, text, float(read_config_json(path)[SCALE])), tokenizer, processor)


def write(clip: Clip, folder: Path, precisions: Sequence[str], *, has_joint: bool = True) -> None:
    """Write the encoders in these precisions, and config.json with logit_scale, which the encoders do not hold.

    has_joint: write the joint graphs too.
    """
    from worldclip.model.formats import onnx_graphs

    clip.model.config.save_pretrained(folder)
    config_path = folder / "config.json"
    write_json(config_path, {**read_json(config_path), SCALE: clip.backend.logit_scale})
    write_tokenizer_and_processor(clip, folder)
    (folder / FOLDER).mkdir()
    for tower in (IMAGE, TEXT):
        onnx_graphs.write_encoder(clip.model, tower, folder, precisions)
    if has_joint:
        for precision in precisions:
            image, text = encoders(folder, precision)
            joint = model_path(folder, JOINT, precision)
            write_joint(image, text, joint, clip.backend.logit_scale, onnx_graphs.MAX_FILE_BYTES)


def compare(clip: Clip, folder: Path, precisions: Sequence[str], *, has_joint: bool = True) -> Report:
    """Compare in onnxruntime: the largest difference in float32, the smallest cosine in the other precisions.

    has_joint: compare the joint graphs too, on the numbers of images and texts in JOINT_SHAPES.  `joint_bytes` is their
    size; they hold small weights a second time.
    Raises UserError also for files that are not valid ONNX, which some runtimes load all the same.
    """
    onnx = require("onnx", extra="export")
    tokens = clip.tokenizer.encode(sample_inputs.TEXTS)
    pixels = sample_inputs.pixels(clip)
    expected = (clip.backend.encode_pixels(pixels), clip.encode_text(list(sample_inputs.TEXTS)))
    names = (IMAGE, TEXT, JOINT) if has_joint else (IMAGE, TEXT)
    checked: dict[str, float] = {}
    for precision in precisions:
        for name in names:
            path = model_path(folder, name, precision)
            with library_faults(f"{path} is not valid ONNX", "nothing was exported"):
                onnx.checker.check_model(str(path))
        backend = read(folder, LoadOptions(device="cpu", precision=precision)).backend
        embeds = (backend.encode_pixels(pixels), backend.encode_tokens(tokens, num_chunks=len(tokens)))
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
        images = np.arange(num_images) % len(pixels_B3SS)
        texts = np.arange(num_texts) % len(tokens)
        mask = attention_mask(tokens.lengths[texts])
        inputs = {"pixel_values": pixels_B3SS[images], "input_ids": tokens.padded(texts), "attention_mask": mask}
        problem = f"{path} does not run on {num_images} images and {num_texts} texts"
        with library_faults(problem, "nothing was exported. Leave its precision out of onnx_precisions"):
            image_BD, text_BD = session.run(["image_embeds", "text_embeds"], inputs)
        yield image_BD, expected[0][images]
        yield text_BD, expected[1][texts]
