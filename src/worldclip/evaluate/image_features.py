"""Images -> features: each image is encoded once, in chunks that are cached on disk.

The cache's key is (digest of the model, digest of the images, preprocessing, version of the decoder).  In its folder is
a file per CHUNK_IMAGES images, so that an interrupted pass resumes at the next chunk and several processes share the
work.  Languages, prompts and tasks are no part of the key: they never encode an image again.

N images of a dataset, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from worldclip.core.artifacts import digest, read_json, write_array, write_json
from worldclip.core.errors import UserError
from worldclip.evaluate.tasks import Dataset
from worldclip.model import decode

CHUNK_IMAGES = 4096  # a file of 16 MiB at 1,024 dimensions


class Model(Protocol):
    """The part of a model that evaluation needs, see model.inference.Clip."""

    @property
    def preprocess(self) -> dict[str, Any]: ...
    @property
    def processor(self) -> Any: ...
    @property
    def tokenizer(self) -> Any: ...
    def encode_each(self, images: Sequence[bytes]) -> tuple[np.ndarray, dict[int, str]]: ...
    def encode_text(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFeatures:
    """Features of images, and those that cannot be decoded."""

    features_ND: np.ndarray
    """(N, D) float32; NaN in the rows of images that cannot be decoded."""
    bad: list[dict[str, str]]
    """Key and reason of each such image."""


def cache_folder(root: Path, model: Model, model_digest: str, dataset: Dataset) -> Path:
    """Return the folder below `root` for the features of a dataset's images under a model."""
    preprocessing = [repr(model.processor), model.preprocess]
    images = [dataset.images_digest or dataset.digest, decode.VERSION]
    return root / digest([model_digest, images, preprocessing, CHUNK_IMAGES])


def encode_images(
    model: Model,
    dataset: Dataset,
    batch_size: int,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> ImageFeatures:
    """Return the features of all images of a dataset.  Raises UserError if none can be decoded.

    cache: a cache_folder whose chunks are read, and written if they are missing; None: nothing is cached.  say: gets a
    message after each chunk that was encoded.
    """
    num_images = len(dataset.image_keys)
    chunks: list[np.ndarray] = []
    bad: list[dict[str, str]] = []
    for start in range(0, num_images, CHUNK_IMAGES):
        path = cache and cache / f"{start:09}.npy"
        if path is not None and path.exists():
            try:
                features_nD = np.load(path, allow_pickle=False)
                bad_of_chunk = read_json(path.with_suffix(".json"))
            except (ValueError, EOFError, FileNotFoundError) as error:
                remedy = f"remove {path.parent} and rerun to encode it again"
                raise UserError(f"{path} is corrupt ({error}); {remedy}") from error
        else:
            stop = min(start + CHUNK_IMAGES, num_images)
            features: list[np.ndarray] = []
            bad_of_chunk = []
            for first in range(start, stop, batch_size):
                images = dataset.read_images(first, min(first + batch_size, stop))
                features_BD, reasons = model.encode_each(images)
                features.append(features_BD)
                for row, reason in reasons.items():
                    bad_of_chunk.append({"key": dataset.image_keys[first + row], "reason": reason})
            features_nD = np.concatenate(features)
            if path is not None:
                write_json(path.with_suffix(".json"), bad_of_chunk)
                write_array(path, features_nD)  # last: its existence says that the chunk is done
            say(f"{dataset.name}: {start + len(features_nD):,} of {num_images:,} images encoded")
        chunks.append(features_nD)
        bad += bad_of_chunk
    if len(bad) == num_images:
        problem = f"dataset {dataset.name}: none of its {num_images} images can be decoded"
        if bad:
            problem += f": {bad[0]['key']}: {bad[0]['reason']}"
        raise UserError(problem)
    return ImageFeatures(features_ND=np.concatenate(chunks), bad=bad)
