"""Both ONNX encoders in onnxruntime, on the CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import UserError, first_line, is_no_memory, require
from worldclip.model.tokenizer import Tokens

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class OnnxBackend:
    """Both encoders in onnxruntime: two sessions, or one of a joint graph twice."""

    image: Any
    text: Any
    config_path: Path
    stored_logit_scale: float | None
    """logit_scale of config.json or of the published model, None where it is unknown; the encoders do not hold it."""
    image_size: int
    eos_id: int

    @property
    def logit_scale(self) -> float:
        if self.stored_logit_scale is None:
            raise UserError(
                f"{self.config_path} has no logit_scale, the factor of cosines in probabilities; add it (exp of the "
                "model's own logit_scale), or use the embeddings alone"
            )
        return self.stored_logit_scale

    @property
    def embed_dim(self) -> int:
        return int(next(output.shape[1] for output in self.image.get_outputs() if output.name == "image_embeds"))

    def encode_pixels(self, pixels_B3SS: torch.Tensor | np.ndarray) -> np.ndarray:
        return _unit(self._run(self.image, "image_embeds", {"pixel_values": np.asarray(pixels_B3SS)}))

    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray:
        features_BD = np.zeros((len(tokens), self.embed_dim), np.float32)
        for rows in tokens.chunks_by_length(num_chunks):
            ids = tokens.padded(rows)
            inputs = {"input_ids": ids, "attention_mask": attention_mask(tokens.lengths[rows])}
            features_BD[rows] = _unit(self._run(self.text, "text_embeds", inputs))
        return features_BD

    def _run(self, session: Any, output: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return an output, with only the inputs that the session has; a joint graph gets one unused row of the others.

        Inputs take the type that the session states (int32 ids, float16 pixels).
        """
        size = self.image_size
        unused = {
            "pixel_values": np.zeros((1, 3, size, size), np.float32),
            "input_ids": np.full((1, 2), self.eos_id),
            "attention_mask": np.ones((1, 2), np.int64),
        }
        every = unused | inputs
        fed = {value.name: every[value.name].astype(_TYPES[value.type]) for value in session.get_inputs()}
        embeds: np.ndarray = session.run([output], fed)[0]
        return embeds


_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def attention_mask(lengths_B: np.ndarray) -> np.ndarray:
    """Return (B, longest) int64: 1 for tokens, 0 for padding."""
    return (np.arange(lengths_B.max(initial=0)) < lengths_B[:, None]).astype(np.int64)


def _unit(embeds_BD: np.ndarray) -> np.ndarray:
    embeds_BD = embeds_BD.astype(np.float32)
    unit_BD: np.ndarray = embeds_BD / np.linalg.norm(embeds_BD, axis=1, keepdims=True)
    return unit_BD


def open_session(path: Path) -> Any:
    """Return a graph in onnxruntime, on the CPU.  Raises UserError for a file that does not load."""
    onnxruntime = require("onnxruntime", extra="export")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # only errors
    if "OMP_NUM_THREADS" in os.environ:  # onnxruntime has its own thread pool, which does not read the variable
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        if is_no_memory(error):
            raise
        raise UserError(f"{path} does not load in onnxruntime ({first_line(error)}); export it again") from error
    _check_batch(path, session)
    return session


def _check_batch(path: Path, session: Any) -> None:
    """Raise UserError if a graph holds the number of its rows as a constant.

    optimum-onnx 0.1 traces MetaClip2's text tower so, and the number of tokens with it: other lengths would pool at a
    wrong token.
    """
    for output in session.get_outputs():
        if output.name in ("image_embeds", "text_embeds") and isinstance(output.shape[0], int):
            raise UserError(
                f"{path} was traced for {output.shape[0]} rows of {output.name} and is wrong for others; export the "
                "model's Hugging Face folder with: worldclip export FOLDER --formats onnx"
            )
