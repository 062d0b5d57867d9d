"""Evaluate any model that worldclip.load accepts in mteb (MTEB and MIEB): mteb.evaluate(mteb_model(clip), tasks)."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldclip.core.errors import UserError, require
from worldclip.evaluate.engine import TextFeatures

TEXT_BATCH = 256


def mteb_meta(repository: str, revision: str | None = None) -> Any:
    """Return the ModelMeta of a pushed export (format huggingface); mteb's loader of Sentence Transformers loads it.

    `mteb.evaluate(meta, tasks)` evaluates the repository; `meta.to_python()` is the entry of mteb's list of models.
    mteb's own look at a repository takes it for a model of texts only, without the size of its embeddings.

    repository: owner/name on the hub.  revision: a commit; None: the newest.  Raises UserError for any other model.
    """
    mteb = require("mteb", extra="dev")
    model_meta = mteb.models.model_meta
    found = model_meta.ModelMeta.from_hub(repository, revision)
    config = model_meta._get_json_from_hub(repository, "config.json", "model", revision=found.revision) or {}
    if config.get("model_type") != "metaclip_2":
        raise UserError(f"{repository} is not a model of the hub that worldclip exported in the format huggingface")
    text = config["text_config"]
    return found.model_copy(
        update={
            "embed_dim": config["projection_dim"],
            "max_tokens": text["max_position_embeddings"],
            "modalities": ["image", "text"],
            "framework": ["Sentence Transformers", "PyTorch"],
            "license": None if found.license == "unknown" else found.license,
            "open_weights": True,
            "use_instructions": False,
        }
    )


def mteb_model(clip: Any, name: str = "worldclip/model", revision: str = "0") -> Any:
    """Return an mteb encoder of images and texts; a pair of both is the normalised sum of their embeddings.

    clip: a model of worldclip.load.  name: organisation/model, the name of the results in mteb.
    """
    mteb = require("mteb", extra="dev")
    cosine = mteb.models.model_meta.ScoringFunction.COSINE  # mteb compares by identity: a string is no function
    meta = mteb.models.ModelMeta.create_empty(
        {"name": name, "revision": revision, "modalities": ["image", "text"], "similarity_fn_name": cosine}
    )

    encode_text = TextFeatures(clip, TEXT_BATCH)  # each text once: equal texts get equal bits, so that they tie

    class Encoder(mteb.models.abs_encoder.AbsEncoder):  # type: ignore[name-defined]
        mteb_model_meta = meta

        def __init__(self) -> None: ...

        def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
            """Return (n, embed_dim) for a loader of batches with `text`, `image` or both."""
            return np.concatenate([self._encode(batch) for batch in inputs])

        def _encode(self, batch: Any) -> np.ndarray:
            parts = []
            if "image" in batch:
                parts.append(clip.encode_image([image.convert("RGB") for image in batch["image"]]))
            if "text" in batch:
                parts.append(encode_text(list(batch["text"])))
            total: np.ndarray = np.sum(parts, axis=0)
            unit: np.ndarray = total / np.linalg.norm(total, axis=1, keepdims=True)
            return unit

    return Encoder()
