"""The files of both ONNX encoders, and the encoders in onnxruntime, on the CPU.  No torch is needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import require
from worldclip.model.tokenizer import Tokens
from worldclip.model.weights import library_faults

if TYPE_CHECKING:
    import torch


FOLDER = "onnx"
IMAGE, TEXT, JOINT = "vision_model", "text_model", "model"
# Suffixes of transformers.js; its dtype q8 is our int8.
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}


def model_path(folder: Path, tower: str, precision: str) -> Path:
    """Return the file of an encoder, IMAGE or TEXT, or of both, JOINT, in fp32, fp16 or int8."""
    return folder / FOLDER / f"{tower}{SUFFIXES[precision]}.onnx"


@dataclass(frozen=True, slots=True)
class OnnxBackend:
    """Both encoders, as sessions of onnxruntime."""

    image: Any
    text: Any
    logit_scale: float

    @property
    def embed_dim(self) -> int:
        return int(self.image.get_outputs()[0].shape[1])

    def encode_pixels(self, pixels_B3SS: torch.Tensor | np.ndarray) -> np.ndarray:
        return _unit(self.image.run(["image_embeds"], {"pixel_values": np.asarray(pixels_B3SS)})[0])

    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray:
        features_BD = np.zeros((len(tokens), self.embed_dim), np.float32)
        for rows in tokens.chunks_by_length(num_chunks):
            mask = attention_mask(tokens.lengths[rows])
            inputs = {"input_ids": tokens.padded(rows), "attention_mask": mask}
            features_BD[rows] = _unit(self.text.run(["text_embeds"], inputs)[0])
        return features_BD


def attention_mask(lengths_B: np.ndarray) -> np.ndarray:
    """Return (B, longest) int64: 1 for tokens, 0 for padding."""
    return (np.arange(lengths_B.max(initial=0)) < lengths_B[:, None]).astype(np.int64)


def _unit(embeds_BD: np.ndarray) -> np.ndarray:
    unit_BD: np.ndarray = embeds_BD / np.linalg.norm(embeds_BD, axis=1, keepdims=True)
    return unit_BD


def open_session(path: Path) -> Any:
    """Return a graph in onnxruntime, on the CPU.  Raises UserError for a file that does not load."""
    onnxruntime = require("onnxruntime", extra="export")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # only errors
    if "OMP_NUM_THREADS" in os.environ:  # onnxruntime has its own thread pool, which does not read the variable
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    with library_faults(f"{path} does not load in onnxruntime", "export it again"):
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
