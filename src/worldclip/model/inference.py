"""Use a trained CLIP: images and texts in any language -> embeddings, cosines and probabilities.

    clip = worldclip.load("runs/emoji")
    clip.classify(["apple.png"], ["red apple", "赤いリンゴ", "تفاحة"])

The two towers run in torch here, in onnxruntime in model/formats/onnx_backend.py.

N images, M texts or labels, B a batch of either, S sentences around the labels, or an image's side, D embed_dim.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from worldclip.core.console import progress_bar
from worldclip.core.errors import UserError
from worldclip.core.execute import usable_cores
from worldclip.core.job import Report
from worldclip.core.local_path import has_surrogate
from worldclip.model import preprocess
from worldclip.model.images import as_list, open_image, to_pillow
from worldclip.model.precision import DTYPES
from worldclip.model.preprocess import describe
from worldclip.model.tokenizer import Tokens

if TYPE_CHECKING:
    import torch

IMAGE_BATCH = 64  # images per forward pass
GPU_IMAGE_BATCH = 256  # the same on a GPU
TEXT_BLOCK = 8192  # texts that are tokenised together and sorted by length
TEXT_BATCH = 64  # texts of similar length per forward pass

Batch: TypeAlias = tuple[Any, list[int], dict[int, str]]
"""(pixels as the tower reads them, their rows, reasons of the unusable images by row); pixels None without any."""


class Backend(Protocol):
    """Turn normalised pixels or tokens into (B, D) float32 embeddings of unit length.

    Texts run as num_chunks chunks of texts of similar length.  logit_scale is the factor of cosines in a softmax.
    """

    @property
    def embed_dim(self) -> int: ...
    @property
    def logit_scale(self) -> float: ...
    def encode_pixels(self, pixels_B3SS: torch.Tensor) -> np.ndarray: ...
    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """A MetaClip2Model."""

    model: Any

    @property
    def embed_dim(self) -> int:
        return int(self.model.visual_projection.out_features)

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp().item())

    def encode_pixels(self, pixels_B3SS: torch.Tensor) -> np.ndarray:
        from worldclip.model.forward import embed_pixels

        return embed_pixels(self.model, pixels_B3SS.to(self.model.device, self.model.dtype)).cpu().numpy()

    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray:
        from worldclip.model.forward import embed_tokens

        return embed_tokens(self.model, tokens, num_chunks).cpu().numpy()


@dataclass(frozen=True, slots=True)
class Clip:
    """A model with its own tokenizer and preprocessing; embeddings are float32 of unit length."""

    backend: Backend
    tokenizer: Any
    """A model.tokenizer.Tokenizer, or what encodes texts like one for another family."""
    processor: Any
    """The source's own preprocessing or the reference's, called as Hugging Face's image processors are."""
    applies_exif: bool = True
    """Whether images are turned upright as their EXIF orientation says; the reference does not."""

    @property
    def model(self) -> Any:
        """The MetaClip2Model.  Raises UserError for ONNX encoders and for CLIPs of other families, which have none."""
        if not isinstance(self.backend, TorchBackend):
            raise UserError(
                "this needs a model of the Meta CLIP family in torch; ONNX encoders and CLIPs of other families embed, "
                "classify and are evaluated, but are not exported or trained"
            )
        return self.backend.model

    @property
    def embed_dim(self) -> int:
        return self.backend.embed_dim

    @property
    def preprocess(self) -> Report:
        """A description of the preprocessing: resize, crop, interpolation, EXIF."""
        return describe(self.processor, applies_exif=self.applies_exif)

    @property
    def logit_scale(self) -> np.float32:
        """The factor of cosines in a softmax."""
        return np.float32(self.backend.logit_scale)

    @property
    def precision(self) -> str | None:
        """The precision of a model in torch; None of one that does not run in torch."""
        model = getattr(self.backend, "model", None)
        if model is not None:
            dtype = str(next(model.parameters()).dtype)
            for precision, name in DTYPES.items():
                if dtype == f"torch.{name}":
                    return precision
        return None

    def __repr__(self) -> str:
        """Return one line: sizes, tokens, device and precision, as far as the model has them."""
        model = getattr(self.backend, "model", None)
        facts = [f"{self.embed_dim} dimensions", f"{self.tokenizer.context_length} tokens"]
        if model is not None:
            facts.append(f"{sum(p.numel() for p in model.parameters()) / 1e6:,.1f}M parameters")
            facts.append(f"{self.precision} on {self._device()}")
        return f"Clip({type(model or self.backend).__name__}, {', '.join(facts)})"

    def encode_image(self, images: Any, *, batch_size: int | None = None, progress: bool = False) -> np.ndarray:
        """Return (N, D) embeddings of images.

        images: paths, PIL images, bytes of image files and (height, width[, 3]) uint8 arrays, in any mix.
        batch_size: images per forward pass (None: 64, on a GPU 256).  progress: show a bar.  Raises UserError that
        names every image that cannot be used.
        """
        images = as_list(images)
        features_ND, reasons = self.encode_each(images, batch_size=batch_size, progress=progress)
        if reasons:
            problems = []
            for row, reason in reasons.items():
                name = str(images[row]) if isinstance(images[row], str | Path) else f"image {row}"
                problems.append(f"{name}: {reason}")
            raise UserError(problems)
        return features_ND

    def encode_each(
        self,
        images: Sequence[Any],
        *,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Return (N, D) embeddings, NaN in the rows of images that cannot be used, and the reasons by row."""
        if batch_size is None:
            batch_size = GPU_IMAGE_BATCH if self._device().startswith("cuda") else IMAGE_BATCH
        _check_batch_size(batch_size)
        features_ND = np.full((len(images), self.embed_dim), np.nan, np.float32)
        all_reasons: dict[int, str] = {}
        with progress_bar("images", len(images), is_shown=progress) as advance:
            for pixels, rows, reasons in self._batches(images, batch_size):
                all_reasons |= reasons
                if pixels is not None:
                    features_ND[rows] = self.backend.encode_pixels(pixels)
                advance(len(rows) + len(reasons))
        return features_ND, all_reasons

    def _device(self) -> str:
        """Return the device of the model's weights; a model that does not run in torch runs on the CPU."""
        model = getattr(self.backend, "model", None)
        return "cpu" if model is None else str(next(model.parameters()).device)

    def _batches(self, images: Sequence[Any], batch_size: int) -> Iterator[Batch]:
        """Yield batches of preprocessed images, each image decoded, resized and cropped in one of a thread per core.

        The next batch is prepared while the caller runs the tower, unless the tower takes the same cores: its threads
        wait for each other after every operation, and thus for each one that shares its core with a decoder.
        """
        facts = preprocess.square_facts(self.processor)
        prepare_one: Callable[[np.ndarray], Any] = to_pillow
        join: Callable[[list[Any]], Any] | None = None  # None: the processor makes its own batches
        if facts is not None:
            prepare_one = partial(preprocess.to_square, facts)
            join = partial(preprocess.normalise_squares, facts, self._device())
        elif isinstance(self.processor, preprocess.PerImage):
            prepare_one = self.processor.of_array
            join = preprocess.stack
        open_one = partial(open_image, applies_exif=self.applies_exif, prepare=prepare_one)

        def prepare(start: int) -> Batch:
            usable: dict[int, Any] = {}
            reasons: dict[int, str] = {}
            for row, image in enumerate(threads.map(open_one, images[start : start + batch_size]), start):
                if isinstance(image, str):
                    reasons[row] = image
                else:
                    usable[row] = image
            opened = list(usable.values())
            pixels = None
            if opened and join is not None:
                pixels = join(opened)
            elif opened:
                pixels = self.processor(images=opened, return_tensors="pt")["pixel_values"]
            return pixels, list(usable), reasons

        starts = range(0, len(images), batch_size)
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode") as threads:
            if self._device() == "cpu":
                yield from map(prepare, starts)
            else:
                yield from _one_ahead(prepare, starts)

    def encode_text(self, texts: Any, *, batch_size: int = TEXT_BATCH, progress: bool = False) -> np.ndarray:
        """Return (M, D) embeddings of texts, which run sorted by length so that there is little padding.

        batch_size: texts per forward pass.  progress: show a bar.  Special strings stay text; texts longer than the
        context are truncated.  Raises UserError, a ValueError, that names all values that are no texts.
        """
        _check_batch_size(batch_size)
        texts = [texts] if isinstance(texts, str) else list(texts)
        problems = []
        for i, text in enumerate(texts):
            problem = text_problem(text)
            if problem:
                problems.append(f"text {i}: {problem}")
        if problems:
            raise UserError(problems)
        features = [np.zeros((0, self.embed_dim), np.float32)]
        with progress_bar("texts", len(texts), is_shown=progress) as advance:
            for start in range(0, len(texts), TEXT_BLOCK):
                tokens = self.tokenizer.encode(texts[start : start + TEXT_BLOCK])
                features.append(self.backend.encode_tokens(tokens, num_chunks=-(-len(tokens) // batch_size)))
                advance(len(tokens))
        return np.concatenate(features)

    def encode_labels(self, labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> np.ndarray:
        """Return (M, D) rows of a zero-shot classifier: per label the mean over its templates, of unit length.

        Raises UserError for templates without a place for the label.
        """
        labels = [labels] if isinstance(labels, str) else list(labels)
        sentences = label_sentences(labels, templates)
        features_SD = self.encode_text(list(itertools.chain.from_iterable(sentences)))
        return label_features(features_SD, sentences)

    def similarity(self, images: Any, texts: Any) -> np.ndarray:
        """Return (N, M) float32 cosines, -1 to 1, of each image with each text."""
        text_MD = self.encode_text(texts)
        score_NM: np.ndarray = self.encode_image(images) @ text_MD.T
        return score_NM

    def classify(self, images: Any, labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> np.ndarray:
        """Return (N, M) float32 probabilities of the labels for each image; rows sum to 1.

        labels, templates as in encode_labels.
        """
        label_MD = self.encode_labels(labels, templates)
        return probabilities(self.encode_image(images), label_MD, self.logit_scale)


def label_features(features_SD: np.ndarray, sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """Return (M, D) of unit length: per label the mean over its sentences, whose features follow each other."""
    starts = np.cumsum([0, *map(len, sentences)])
    label_MD = np.add.reduceat(features_SD, starts[:-1], axis=0)
    unit_MD: np.ndarray = label_MD / np.linalg.norm(label_MD, axis=1, keepdims=True)
    return unit_MD


def probabilities(image_ND: np.ndarray, label_MD: np.ndarray, logit_scale: np.float32) -> np.ndarray:
    """Return (N, M) float32 probabilities of the labels for each image; rows sum to 1."""
    logits_NM = logit_scale * image_ND @ label_MD.T
    odds_NM = np.exp(logits_NM - logits_NM.max(axis=1, keepdims=True))
    prob_NM: np.ndarray = odds_NM / odds_NM.sum(axis=1, keepdims=True)
    return prob_NM


def label_sentences(labels: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Return the sentences of each label; a template holds one `{}`.  Raises UserError that names all problems."""
    if isinstance(templates, str):
        templates = (templates,)
    problems = [f"template {sentence!r} has no {{}} for the label" for sentence in templates if "{}" not in sentence]
    if not templates:
        problems.append('templates is empty; use ("{}",) for only the label')
    if not labels:
        problems.append("labels is empty; give at least one")
    if problems:
        raise UserError(problems)
    sentences = []
    for label in labels:
        of_label = [template.replace("{}", label) for template in templates]
        sentences.append(of_label)
    return sentences


def text_problem(text: object) -> str:
    """Return why a value is no text that a model reads; "" for a text."""
    if not isinstance(text, str):
        return f"has the type {type(text).__name__}; give a str"
    if has_surrogate(text):
        return f"{text!r:.60} is not valid Unicode (a lone surrogate)"
    return ""


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size = {batch_size}: must be at least 1")


def _one_ahead(prepare: Callable[[int], Batch], starts: Iterable[int]) -> Iterator[Batch]:
    """Yield prepare(start) of each start, while a thread prepares the next."""
    with ThreadPoolExecutor(1, thread_name_prefix="batch") as thread:
        batches = (thread.submit(prepare, start) for start in starts)
        batch = next(batches, None)
        while batch is not None:
            following = next(batches, None)
            yield batch.result()
            batch = following
