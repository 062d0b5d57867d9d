"""Encoders in the layout of the onnx-community, run by onnxruntime.

    FOLDER/config.json, tokenizer.json, ..., preprocessor_config.json     as in the Hugging Face folder
    FOLDER/onnx/vision_model<suffix>.onnx   pixel_values (batch, 3, S, S) float32          -> image_embeds (batch, D)
    FOLDER/onnx/text_model<suffix>.onnx     input_ids, attention_mask (batch, length) int64 -> text_embeds (batch, D)

Embeddings in the files are not of unit length, as those of transformers' ...WithProjection classes; the suffix says
the precision, as transformers.js reads it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import UserError, require
from worldclip.model.tokenizer import Tokens

if TYPE_CHECKING:
    import torch

FOLDER = "onnx"
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
IMAGE, TEXT = "vision_model", "text_model"


def model_path(folder: Path, tower: str, precision: str) -> Path:
    return folder / FOLDER / f"{tower}{SUFFIXES[precision]}.onnx"


def precisions(folder: Path) -> list[str]:
    """Those of which both encoders are there."""
    return [name for name in SUFFIXES if all(model_path(folder, tower, name).exists() for tower in (IMAGE, TEXT))]


@dataclass(frozen=True, slots=True)
class OnnxTowers:
    """Both encoders in onnxruntime; precision: fp32, fp16 or int8."""

    image: Any
    text: Any
    config_path: Path
    known_logit_scale: float | None
    """None where config.json does not state it: the encoders do not hold it."""

    @property
    def logit_scale(self) -> float:
        if self.known_logit_scale is None:
            raise UserError(
                f"{self.config_path} has no logit_scale, the factor of cosines in probabilities; add it (exp of the "
                "model's own logit_scale), or use the embeddings alone"
            )
        return self.known_logit_scale

    @property
    def embed_dim(self) -> int:
        return self.image.get_outputs()[0].shape[1]

    def encode_pixels(self, pixels_B3SS: torch.Tensor) -> np.ndarray:
        return _unit(self.image.run(["image_embeds"], {"pixel_values": pixels_B3SS.numpy()})[0])

    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray:
        order = np.argsort(tokens.lengths, kind="stable")
        found = np.zeros((len(tokens), self.embed_dim), np.float32)
        for rows in np.array_split(order, min(num_chunks, max(1, len(order)))):
            ids = tokens.padded(rows)
            mask = (np.arange(ids.shape[1]) < tokens.lengths[rows][:, None]).astype(np.int64)
            found[rows] = _unit(self.text.run(["text_embeds"], {"input_ids": ids, "attention_mask": mask})[0])
        return found


def load(folder: Path, logit_scale: float | None, precision: str | None) -> OnnxTowers:
    """The encoders of a folder; precision None: float32, which must then be there."""
    there = precisions(folder)
    wanted = precision or "fp32"
    if wanted not in there:
        raise UserError(
            f"{folder / FOLDER} has no {wanted} encoders; there are {', '.join(there) or 'none that are whole'}"
            + (", give one as precision" if there else f" ({IMAGE}.onnx and {TEXT}.onnx)")
        )
    image, text = (_session(model_path(folder, tower, wanted)) for tower in (IMAGE, TEXT))
    return OnnxTowers(image, text, folder / "config.json", logit_scale)


def _session(path: Path) -> Any:
    onnxruntime = require("onnxruntime", extra="export")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if "OMP_NUM_THREADS" in os.environ:  # onnxruntime has threads of its own and does not read it
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise UserError(
            f"{path} does not load in onnxruntime ({str(error).splitlines()[0]}); export it again"
        ) from error


def _unit(embeds_BD: np.ndarray) -> np.ndarray:
    embeds_BD = embeds_BD.astype(np.float32)
    return embeds_BD / np.linalg.norm(embeds_BD, axis=1, keepdims=True)
