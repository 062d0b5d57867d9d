"""A trained CLIP to use: images and texts in any language -> embeddings and probabilities.

    clip = worldclip.load("runs/emoji")
    clip.classify(["apple.png"], ["red apple", "赤いリンゴ", "تفاحة"])

N images, M texts or labels, D embed_dim.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.errors import UserError
from worldclip.interop import sources
from worldclip.tokenizer import Tokenizer
from worldclip.towers import TorchTowers, Towers

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH_SIZE = 256  # images or texts a forward pass
TEXT_CHUNK = 64  # of these, texts of similar length that are padded together


@dataclass(frozen=True, slots=True)
class Clip:
    """A model with its own tokenizer and preprocessing; embeddings are float32 of unit length."""

    towers: Towers
    tokenizer: Tokenizer | None
    """None where there is an image tower alone (timm's)."""
    processor: Any
    """The source's own preprocessing, called as Hugging Face's image processors are."""

    @property
    def model(self) -> Any:
        """The torch model, transformers' own.  Raises UserError for an ONNX folder, which has none."""
        if not isinstance(self.towers, TorchTowers):
            raise UserError("these are ONNX encoders, which have no torch model; load the model that they came from")
        return self.towers.model

    @property
    def embed_dim(self) -> int:
        return self.towers.embed_dim

    def encode_image(self, images: Any) -> np.ndarray:
        """(N, D).  images: paths, PIL images, bytes of image files, (height, width[, 3]) uint8 arrays, in any mix.

        Raises UserError that names every image which cannot be used.
        """
        images = _as_list(images)
        features = [np.zeros((0, self.embed_dim), np.float32)]
        for start in range(0, len(images), BATCH_SIZE):
            opened = _open_images(images[start : start + BATCH_SIZE], start)
            pixels = self.processor(images=opened, return_tensors="pt")["pixel_values"]
            features.append(self.towers.encode_pixels(pixels))
        return np.concatenate(features)

    def encode_text(self, texts: Any) -> np.ndarray:
        """(M, D).  Special strings stay text; texts longer than the context are cut.  ValueError for a lone surrogate.

        Texts run in order of their length, so that little padding is computed.
        """
        if self.tokenizer is None:
            raise UserError("this is an image tower alone; load the whole model to embed texts or to classify")
        texts = [texts] if isinstance(texts, str) else list(texts)
        features = np.zeros((len(texts), self.embed_dim), np.float32)
        order = np.argsort([len(text) for text in texts], kind="stable")
        for start in range(0, len(texts), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            tokens = self.tokenizer.encode([texts[row] for row in rows])
            features[rows] = self.towers.encode_tokens(tokens, num_chunks=-(-len(rows) // TEXT_CHUNK))
        return features

    def classify(self, images: Any, labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> np.ndarray:
        """(N, M) float32 probabilities of the labels for each image; rows sum to 1.

        templates: sentences around a label, each with one `{}`; a label's embedding is the mean over them.
        """
        labels = list(labels)
        problems = [
            f"template {template!r} holds no {{}} for the label" for template in templates if "{}" not in template
        ]
        if not labels:
            problems.append("labels is empty; give at least one")
        if not templates:
            problems.append('templates is empty; ("{}",) is the label alone')
        if problems:
            raise UserError(problems)
        sentences = [template.replace("{}", label) for label in labels for template in templates]
        label_MD = self.encode_text(sentences).reshape(len(labels), len(templates), -1).mean(axis=1)
        label_MD /= np.linalg.norm(label_MD, axis=1, keepdims=True)
        logits_NM = self.logit_scale * self.encode_image(images) @ label_MD.T
        odds_NM = np.exp(logits_NM - logits_NM.max(axis=1, keepdims=True))
        return odds_NM / odds_NM.sum(axis=1, keepdims=True)

    @property
    def logit_scale(self) -> np.float32:
        """The factor of cosines in a softmax."""
        return np.float32(self.towers.logit_scale)


def load(
    source: str | Path,
    device: str = "auto",
    *,
    layout: sources.Layout | None = None,
    arch: str | None = None,
    tokenizer: str | Path | None = None,
    precision: str | None = None,
) -> Clip:
    """A Clip from a run, a checkpoint's folder, a Hugging Face folder or hub id, an open_clip checkpoint (folder, .pt,
    .safetensors; the reference's .pt too), a timm folder (its image tower) or an ONNX folder.

    device: auto, cpu, cuda or mps.  layout: where a folder holds a model twice, which one.  arch: what a bare file does
    not say: a published name (`ViT-H-14-worldwide-quickgelu`), or the path of an open_clip configuration.  tokenizer:
    a folder or hub id, where none stands beside the weights.  precision: fp32, fp16 or int8, of an ONNX folder.

    The source decides on the preprocessing.  Raises UserError where it is nothing that can be loaded, or where it may
    be several things, which are then named.
    """
    found = sources.find(source, layout)
    loaded = sources.load(found, device, arch, None if tokenizer is None else str(tokenizer), precision)
    return Clip(loaded.towers, loaded.tokenizer, loaded.processor)


def _as_list(images: Any) -> list[Any]:
    """One image or many -> a list."""
    if isinstance(images, str | Path | bytes) or not isinstance(images, Iterable):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 2:
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[-1] == 3:
        return [images]
    return list(images)


def _open_images(images: Sequence[Any], first: int) -> list[Image]:
    """RGB PIL images, upright, as transformers' own load_image gives them.  UserError names each bad one."""
    opened, problems = [], []
    for i, image in enumerate(images, start=first):
        try:
            opened.append(_open_image(image))
        except (OSError, ValueError, SyntaxError) as error:
            name = str(image) if isinstance(image, str | Path) else f"image {i}"
            problems.append(f"{name}: {error}")
    if problems:
        raise UserError(problems)
    return opened


def _open_image(image: Any) -> Image:
    from PIL import Image as PillowImage
    from PIL import ImageOps

    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise ValueError("is a URL; download it and give the file")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise ValueError(f"is an array {image.shape} of {image.dtype}; give (height, width[, 3]) uint8")
        found = PillowImage.fromarray(image)
    elif isinstance(image, bytes):
        found = _decode(io.BytesIO(image))
    elif isinstance(image, str | Path):
        found = _decode(Path(image))
    elif isinstance(image, PillowImage.Image):
        found = image
    else:
        raise ValueError(f"is a {type(image).__name__}; give a path, a PIL image, bytes or a uint8 array")
    return ImageOps.exif_transpose(found).convert("RGB")


def _decode(file: Any) -> Image:
    from PIL import Image as PillowImage

    try:
        with PillowImage.open(file) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise ValueError("does not exist") from error
    except PillowImage.UnidentifiedImageError as error:
        raise ValueError("is no image that Pillow knows") from error
    except PillowImage.DecompressionBombError as error:
        raise ValueError(f"is a decompression bomb ({error})") from error
