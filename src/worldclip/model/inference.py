"""Use a trained CLIP: images and texts in any language -> embeddings, cosines and probabilities.

    clip = worldclip.load("runs/emoji")
    clip.classify(["apple.png"], ["red apple", "赤いリンゴ", "تفاحة"])

N images, M texts or labels, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from worldclip.core.errors import UserError
from worldclip.model.backend import IMAGE_TOWER_ONLY, Backend, TorchBackend
from worldclip.model.images import as_list, open_images
from worldclip.model.tokenizer import Tokenizer
from worldclip.model.weights import read_json_config

IMAGE_BATCH = 64  # images per forward pass
TEXT_BLOCK = 8192  # texts that are tokenised together and sorted by length
TEXT_BATCH = 64  # texts of similar length per forward pass

Templates: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
"""Sentences around a label, each with one `{}`; or a mapping from language to the sentences of that language."""

Batch: TypeAlias = tuple[Any, list[int], dict[int, str]]
"""(pixels as the tower reads them, their rows, reasons of the unusable images by row); pixels None without any."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clip:
    """A model with its own tokenizer and preprocessing; embeddings are float32 of unit length."""

    backend: Backend
    tokenizer: Tokenizer | None
    """None for an image tower alone (timm's)."""
    processor: Any
    """The source's own preprocessing, called as Hugging Face's image processors are."""

    @property
    def model(self) -> Any:
        """The torch model of transformers.  Raises UserError for an ONNX folder, which has none."""
        if not isinstance(self.backend, TorchBackend):
            raise UserError(
                "these are ONNX encoders, which have no torch model; load the model they were exported from"
            )
        return self.backend.model

    @property
    def embed_dim(self) -> int:
        return self.backend.embed_dim

    @property
    def logit_scale(self) -> np.float32:
        """The factor of cosines in a softmax."""
        return np.float32(self.backend.logit_scale)

    def encode_image(self, images: Any, *, allow_urls: bool = False) -> np.ndarray:
        """Return (N, D) embeddings of images.

        images: paths, PIL images, bytes of image files and (height, width[, 3]) uint8 arrays, in any mix.
        allow_urls: also http and https URLs, which are refused otherwise.  Raises UserError that names every image
        that cannot be used.
        """
        images = as_list(images)
        features_ND, reasons = self.encode_each(images, allow_urls=allow_urls)
        if reasons:
            raise UserError([f"{_name_of(images[row], row)}: {reason}" for row, reason in reasons.items()])
        return features_ND

    def encode_each(self, images: Sequence[Any], *, allow_urls: bool = False) -> tuple[np.ndarray, dict[int, str]]:
        """Return (N, D) embeddings, NaN in the rows of images that cannot be used, and the reasons by row."""
        features_ND = np.full((len(images), self.embed_dim), np.nan, np.float32)
        all_reasons: dict[int, str] = {}
        for pixels, rows, reasons in self._batches(images, allow_urls):
            all_reasons |= reasons
            if pixels is not None:
                features_ND[rows] = self.backend.encode_pixels(pixels)
        return features_ND, all_reasons

    def _batches(self, images: Sequence[Any], allow_urls: bool) -> Iterator[Batch]:
        """Yield batches of preprocessed images; the next one is prepared while the caller runs the tower."""

        def prepare(start: int) -> Batch:
            opened = dict(enumerate(open_images(images[start : start + IMAGE_BATCH], allow_urls=allow_urls), start))
            reasons = {row: image for row, image in opened.items() if isinstance(image, str)}
            usable = {row: image for row, image in opened.items() if row not in reasons}
            if not usable:
                return None, [], reasons
            pixels = self.processor(images=list(usable.values()), return_tensors="pt")["pixel_values"]
            return pixels, list(usable), reasons

        return _one_ahead(prepare, range(0, len(images), IMAGE_BATCH))

    def encode_text(self, texts: Any) -> np.ndarray:
        """Return (M, D) embeddings of texts, which run sorted by length so that there is little padding.

        Special strings stay text; texts longer than the context are truncated.  Raises ValueError for a lone surrogate.
        """
        tokenizer = self.require_tokenizer()
        texts = [texts] if isinstance(texts, str) else list(texts)
        features = [np.zeros((0, self.embed_dim), np.float32)]
        for start in range(0, len(texts), TEXT_BLOCK):
            tokens = tokenizer.encode(texts[start : start + TEXT_BLOCK])
            features.append(self.backend.encode_tokens(tokens, num_chunks=-(-len(tokens) // TEXT_BATCH)))
        return np.concatenate(features)

    def encode_labels(
        self, labels: Sequence[str], templates: Templates = ("{}",), langs: str | Sequence[str] | None = None
    ) -> np.ndarray:
        """Return (M, D) rows of a zero-shot classifier: per label the mean over its templates, of unit length.

        langs: where templates are by language, the language of all labels, or of each.  Raises UserError for templates
        without a place for the label, and for languages without templates.
        """
        self.require_tokenizer()
        labels = [labels] if isinstance(labels, str) else list(labels)
        sentences = _sentences(labels, templates, langs)
        starts = np.cumsum([0, *map(len, sentences)])
        features_SD = self.encode_text([sentence for group in sentences for sentence in group])
        label_MD = np.add.reduceat(features_SD, starts[:-1], axis=0)
        return label_MD / np.linalg.norm(label_MD, axis=1, keepdims=True)

    def similarity(self, images: Any, texts: Any, *, allow_urls: bool = False) -> np.ndarray:
        """Return (N, M) float32 cosines, -1 to 1, of each image with each text."""
        text_MD = self.encode_text(texts)
        return self.encode_image(images, allow_urls=allow_urls) @ text_MD.T

    def classify(
        self,
        images: Any,
        labels: Sequence[str],
        templates: Templates = ("{}",),
        langs: str | Sequence[str] | None = None,
        *,
        allow_urls: bool = False,
    ) -> np.ndarray:
        """Return (N, M) float32 probabilities of the labels for each image; rows sum to 1.

        labels, templates, langs as in encode_labels.
        """
        label_MD = self.encode_labels(labels, templates, langs)
        logits_NM = self.logit_scale * self.encode_image(images, allow_urls=allow_urls) @ label_MD.T
        odds_NM = np.exp(logits_NM - logits_NM.max(axis=1, keepdims=True))
        return odds_NM / odds_NM.sum(axis=1, keepdims=True)

    def require_tokenizer(self) -> Tokenizer:
        """Return the tokenizer.  Raises UserError for an image tower alone."""
        if self.tokenizer is None:
            raise UserError(IMAGE_TOWER_ONLY)
        return self.tokenizer


def read_templates(path: Path) -> dict[str, list[str]]:
    """Read templates by language from JSON, {language: [template, ...]}, as Babel-ImageNet's prompts are.

    Languages come out in lower case.  Raises UserError.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a JSON file of {{language: [template, ...]}}")
    record = read_json_config(path)
    is_valid = isinstance(record, dict) and all(
        isinstance(templates, list) and all(isinstance(template, str) for template in templates)
        for templates in record.values()
    )
    if not is_valid:
        raise UserError(f"{path} must hold {{language: [template, ...]}}")
    return {lang.lower(): templates for lang, templates in record.items()}


def _one_ahead(prepare: Callable[[int], T], starts: Sequence[int]) -> Iterator[T]:
    """Yield prepare(start) for each start; a thread prepares the next one while the caller uses this one."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for start in starts:
            upcoming = thread.submit(prepare, start)
            if pending is not None:
                yield pending.result()
            pending = upcoming
        if pending is not None:
            yield pending.result()


def _name_of(image: Any, row: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {row}"


def _sentences(labels: Sequence[str], templates: Templates, langs: str | Sequence[str] | None) -> list[list[str]]:
    """Return the sentences of each label.  Raises UserError that names all problems."""
    by_lang = dict(templates) if isinstance(templates, Mapping) else {"": templates}
    label_langs = [langs or ""] * len(labels) if langs is None or isinstance(langs, str) else list(langs)
    problems = _problems_of_templates(by_lang)
    if not labels:
        problems.append("labels is empty; give at least one")
    problems += _problems_of_langs(label_langs, len(labels), by_lang, isinstance(templates, Mapping), langs)
    if problems:
        raise UserError(problems)
    return [
        [template.replace("{}", label) for template in by_lang[lang]]
        for label, lang in zip(labels, label_langs, strict=True)
    ]


def _problems_of_templates(by_lang: Mapping[str, Sequence[str]]) -> list[str]:
    problems = []
    for lang, templates in by_lang.items():
        if not templates:
            where = f" for {lang}" if lang else ""
            problems.append(f'templates is empty{where}; use ("{{}}",) for the label alone')
        problems += [f"template {item!r} has no {{}} for the label" for item in templates if "{}" not in item]
    return problems


def _problems_of_langs(
    label_langs: Sequence[str],
    num_labels: int,
    by_lang: Mapping[str, Sequence[str]],
    is_by_language: bool,
    langs: str | Sequence[str] | None,
) -> list[str]:
    if is_by_language and langs is None:
        return [f"templates are by language; give langs, the languages of the labels, out of {', '.join(by_lang)}"]
    if not is_by_language and langs is not None:
        return [
            f"langs = {langs!r}: templates are not by language; give {{language: [template, ...]}}, or leave it out"
        ]
    if len(label_langs) != num_labels:
        return [f"langs names {len(label_langs)} languages for {num_labels} labels; give one, or one per label"]
    if missing := sorted(set(label_langs) - set(by_lang)):
        return [f"no templates for the languages {', '.join(missing)}; templates exist for {', '.join(by_lang)}"]
    return []
