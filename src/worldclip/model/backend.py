"""Run the two towers of a loaded model: torch here, onnxruntime in model/formats/onnx_folder.py.

B images or texts, D embed_dim, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from worldclip.core.errors import UserError
from worldclip.model.clip import image_features, text_features
from worldclip.model.tokenizer import Tokens

if TYPE_CHECKING:
    import torch

IMAGE_TOWER_ONLY = "the model is an image tower alone; load the whole model to embed texts or to classify"


class Backend(Protocol):
    """Turn normalised pixels or tokens into embeddings of unit length."""

    @property
    def embed_dim(self) -> int: ...

    @property
    def logit_scale(self) -> float:
        """The factor of cosines in a softmax."""
        ...

    def encode_pixels(self, pixels_B3SS: torch.Tensor) -> np.ndarray:
        """Return (B, D) float32."""
        ...

    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray:
        """Return (B, D) float32; the batch runs as num_chunks chunks of texts of similar length."""
        ...


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """A MetaClip2Model, or a MetaClip2VisionModelWithProjection, which has no text tower."""

    model: Any

    @property
    def embed_dim(self) -> int:
        return self.model.visual_projection.out_features

    @property
    def logit_scale(self) -> float:
        self._require_text_tower()
        return float(self.model.logit_scale.detach().exp().item())

    def encode_pixels(self, pixels_B3SS: torch.Tensor) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return image_features(self.model, pixels_B3SS.to(self.model.device)).cpu().numpy()

    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray:
        import torch

        self._require_text_tower()
        with torch.inference_mode():
            return text_features(self.model, tokens, num_chunks).cpu().numpy()

    def _require_text_tower(self) -> None:
        if not hasattr(self.model, "text_model"):
            raise UserError(IMAGE_TOWER_ONLY)
