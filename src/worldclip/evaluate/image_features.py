"""Images -> features, each image once: a chunk of them is encoded, written aside, and found again by what made it.

The key of a data set's features is (the model's digest, the digest of the images, the preprocessing); under it lies a
file for each CHUNK_IMAGES images, so that a pass which is cut goes on at the next chunk and several processes may
share it.  Languages, prompts and tasks are no part of the key: whatever asks, the images are encoded once.
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

CHUNK_IMAGES = 4096  # 16 MiB a file at 1,024 dimensions


class Model(Protocol):
    """What is asked of a model, see inference.Clip."""

    def encode_image(self, images: Sequence[bytes]) -> np.ndarray: ...
    def encode_text(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFeatures:
    """(N, embed_dim) float32, NaN in the rows of images that would not decode, which `bad` lists with their reason."""

    features_ND: np.ndarray
    bad: list[dict[str, str]]


def cache_folder(root: Path, model: Any, model_digest: str, dataset: Dataset) -> Path:
    """Where the features of `dataset`'s images under `model` lie below `root`."""
    preprocessing = repr(getattr(model, "processor", None))
    return root / digest([model_digest, dataset.images_digest or dataset.digest, preprocessing, CHUNK_IMAGES])


def chunk_starts(dataset: Dataset) -> range:
    """First image of each chunk."""
    return range(0, len(dataset.image_keys), CHUNK_IMAGES)


def encode_images(
    model: Model,
    dataset: Dataset,
    batch_size: int,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> ImageFeatures:
    """All images of `dataset`; one that will not decode is dropped and listed.  UserError where none decodes.

    cache: a cache_folder; chunks that lie there are read, the others are written.  None: nothing is kept.  say: told
    after each chunk that was encoded.
    """
    chunks = []
    for start in chunk_starts(dataset):
        is_known = cache is not None and is_encoded(cache, start)
        chunks.append(encode_chunk(model, dataset, start, batch_size, cache))
        if not is_known:
            num_images = len(dataset.image_keys)
            say(f"{dataset.name}: {min(start + CHUNK_IMAGES, num_images):,} of {num_images:,} images encoded")
    bad = [entry for chunk in chunks for entry in chunk.bad]
    embed_dim = max((chunk.features_ND.shape[1] for chunk in chunks), default=0)
    if not embed_dim:
        example = f": {bad[0]['key']}: {bad[0]['reason']}" if bad else ""
        num_images = len(dataset.image_keys)
        raise UserError(f"data set {dataset.name}: not one of its {num_images} images decodes{example}")
    features = np.full((len(dataset.image_keys), embed_dim), np.nan, np.float32)
    for start, chunk in zip(chunk_starts(dataset), chunks, strict=True):
        if chunk.features_ND.shape[1]:
            features[start : start + len(chunk.features_ND)] = chunk.features_ND
    return ImageFeatures(features_ND=features, bad=bad)


def encode_chunk(model: Model, dataset: Dataset, start: int, batch_size: int, cache: Path | None) -> ImageFeatures:
    """The images from `start` to the chunk's end; (n, 0) where not one of them decodes."""
    if cache is not None and is_encoded(cache, start):
        try:
            features = np.load(_path(cache, start), allow_pickle=False)
            return ImageFeatures(features_ND=features, bad=read_json(_path(cache, start).with_suffix(".json")))
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise UserError(
                f"{_path(cache, start)} is damaged ({error}); remove {cache}, and it is made anew"
            ) from error
    found = _encode(model, dataset, start, min(start + CHUNK_IMAGES, len(dataset.image_keys)), batch_size)
    if cache is not None:
        write_json(_path(cache, start).with_suffix(".json"), found.bad)
        write_array(_path(cache, start), found.features_ND)  # last: its presence says that the chunk is done
    return found


def is_encoded(cache: Path, start: int) -> bool:
    return _path(cache, start).exists()


def _path(cache: Path, start: int) -> Path:
    return cache / f"{start:09}.npy"


def _encode(model: Model, dataset: Dataset, first: int, stop: int, batch_size: int) -> ImageFeatures:
    features: np.ndarray | None = None
    bad: list[dict[str, str]] = []
    for start in range(first, stop, batch_size):
        rows, good, reasons = _encode_batch(model, dataset.read_images(start, min(start + batch_size, stop)))
        bad += [{"key": dataset.image_keys[start + i], "reason": reason} for i, reason in reasons.items()]
        if features is None and len(rows):
            features = np.full((stop - first, rows.shape[1]), np.nan, np.float32)
        if features is not None and len(rows):
            features[start - first + good] = rows
    return ImageFeatures(features_ND=np.empty((stop - first, 0), np.float32) if features is None else features, bad=bad)


def _encode_batch(model: Model, images: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Features, the positions they are of, and the reason of each image that has none."""
    try:
        return model.encode_image(images), np.arange(len(images)), {}
    except UserError:  # one of them will not decode: find out which
        rows, good, reasons = [], [], {}
    for i, image in enumerate(images):
        try:
            rows.append(model.encode_image([image])[0])
            good.append(i)
        except UserError as error:
            reasons[i] = str(error).removeprefix("image 0: ")
    return np.array(rows, np.float32), np.array(good, np.int64), reasons
