"""Any model that inference.load takes, in mteb (MTEB and MIEB): mteb.evaluate(mteb_model(clip), tasks)."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldclip.core.errors import require
from worldclip.evaluate.image_features import Model


def mteb_model(clip: Model, name: str = "worldclip/model", revision: str = "0") -> Any:
    """An mteb encoder of images and texts; a pair of both is the normalised sum of their embeddings.

    clip: what inference.load gives.  name: organisation/model, what mteb files the results under.
    """
    mteb = require("mteb", extra="dev")
    meta = mteb.models.ModelMeta.create_empty(
        {"name": name, "revision": revision, "modalities": ["image", "text"], "similarity_fn_name": "cosine"}
    )

    class Encoder(mteb.models.abs_encoder.AbsEncoder):  # type: ignore[name-defined]
        mteb_model_meta = meta

        def __init__(self) -> None: ...

        def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
            """(n, embed_dim) of a loader of batches with `text`, `image` or both."""
            batches = [self._encode(batch) for batch in inputs]
            return np.concatenate(batches)

        def _encode(self, batch: Any) -> np.ndarray:
            parts = []
            if "image" in batch:
                parts.append(clip.encode_image([image.convert("RGB") for image in batch["image"]]))
            if "text" in batch:
                parts.append(clip.encode_text(list(batch["text"])))
            total: np.ndarray = np.sum(parts, axis=0)
            return total / np.linalg.norm(total, axis=1, keepdims=True)

    return Encoder()
