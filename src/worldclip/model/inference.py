"""A trained CLIP to use: images and texts in any language -> embeddings, cosines and probabilities.

    clip = worldclip.load("runs/emoji")
    clip.classify(["apple.png"], ["red apple", "赤いリンゴ", "تفاحة"])

N images, M texts or labels, D embed_dim.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from worldclip.core.errors import UserError
from worldclip.model import load as sources
from worldclip.model.backend import TorchTowers, Towers
from worldclip.model.images import as_list, open_images
from worldclip.model.tokenizer import Tokenizer

IMAGE_BATCH = 64  # images a forward pass
TEXT_BLOCK = 8192  # texts that are tokenised together and sorted by their tokens
TEXT_BATCH = 64  # of these, texts of similar length that are padded together: a forward pass

Templates: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
"""Sentences around a label, each with one `{}`; or by language, the sentences of each."""

T = TypeVar("T")


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

    def encode_image(self, images: Any, *, allow_urls: bool = False) -> np.ndarray:
        """(N, D).  images: paths, PIL images, bytes of image files, (height, width[, 3]) uint8 arrays, in any mix.

        allow_urls: also addresses (http, https), which are refused otherwise.  Raises UserError that names every image
        which cannot be used.
        """
        images = as_list(images)
        features = [np.zeros((0, self.embed_dim), np.float32)]
        problems: list[str] = []
        for pixels, _, reasons in self._batches(images, allow_urls):
            problems += [f"{_name_of(images[row], row)}: {reason}" for row, reason in reasons.items()]
            if pixels is not None and not problems:
                features.append(self.towers.encode_pixels(pixels))
        if problems:
            raise UserError(problems)
        return np.concatenate(features)

    def encode_each(self, images: Sequence[Any]) -> tuple[np.ndarray, dict[int, str]]:
        """((N, D), reasons): as encode_image, NaN in the rows of images that cannot be used, with the reason by row."""
        features = np.full((len(images), self.embed_dim), np.nan, np.float32)
        found: dict[int, str] = {}
        for pixels, rows, reasons in self._batches(images, allow_urls=False):
            found |= reasons
            if pixels is not None:
                features[rows] = self.towers.encode_pixels(pixels)
        return features, found

    def _batches(self, images: Sequence[Any], allow_urls: bool) -> Iterator[tuple[Any, list[int], dict[int, str]]]:
        """(pixels as the tower reads them, their rows, reasons of the others by row); pixels None where no image is
        good.  The next batch is made while the caller runs the tower.
        """

        def make(start: int) -> tuple[Any, list[int], dict[int, str]]:
            opened = open_images(images[start : start + IMAGE_BATCH], allow_urls=allow_urls)
            reasons = {start + i: found for i, found in enumerate(opened) if isinstance(found, str)}
            good = [(start + i, found) for i, found in enumerate(opened) if not isinstance(found, str)]
            if not good:
                return None, [], reasons
            pixels = self.processor(images=[image for _, image in good], return_tensors="pt")["pixel_values"]
            return pixels, [row for row, _ in good], reasons

        return _one_ahead(make, range(0, len(images), IMAGE_BATCH))

    def encode_text(self, texts: Any) -> np.ndarray:
        """(M, D).  Special strings stay text; texts longer than the context are cut.  ValueError for a lone surrogate.

        Texts run in order of their number of tokens, so that little padding is computed.
        """
        tokenizer = self._require_tokenizer()
        texts = [texts] if isinstance(texts, str) else list(texts)
        features = [np.zeros((0, self.embed_dim), np.float32)]
        for start in range(0, len(texts), TEXT_BLOCK):
            tokens = tokenizer.encode(texts[start : start + TEXT_BLOCK])
            features.append(self.towers.encode_tokens(tokens, num_chunks=-(-len(tokens) // TEXT_BATCH)))
        return np.concatenate(features)

    def encode_labels(
        self, labels: Sequence[str], templates: Templates = ("{}",), langs: str | Sequence[str] | None = None
    ) -> np.ndarray:
        """(M, D): each label by the mean over its templates, of unit length; the rows of a zero-shot classifier.

        langs: where templates are by language, that of all labels, or of each.  Raises UserError for templates without
        a place for the label, and languages that have none.
        """
        self._require_tokenizer()
        labels = [labels] if isinstance(labels, str) else list(labels)
        sentences = _sentences(labels, templates, langs)
        starts = np.cumsum([0, *(len(of_label) for of_label in sentences)])
        features_SD = self.encode_text([sentence for of_label in sentences for sentence in of_label])
        label_MD = np.add.reduceat(features_SD, starts[:-1], axis=0)
        return label_MD / np.linalg.norm(label_MD, axis=1, keepdims=True)

    def similarity(self, images: Any, texts: Any, *, allow_urls: bool = False) -> np.ndarray:
        """(N, M) float32 cosines of each image with each text, -1 to 1."""
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
        """(N, M) float32 probabilities of the labels for each image; rows sum to 1.  labels as in encode_labels."""
        label_MD = self.encode_labels(labels, templates, langs)
        logits_NM = self.logit_scale * self.encode_image(images, allow_urls=allow_urls) @ label_MD.T
        odds_NM = np.exp(logits_NM - logits_NM.max(axis=1, keepdims=True))
        return odds_NM / odds_NM.sum(axis=1, keepdims=True)

    @property
    def logit_scale(self) -> np.float32:
        """The factor of cosines in a softmax."""
        return np.float32(self.towers.logit_scale)

    def _require_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError("this is an image tower alone; load the whole model to embed texts or to classify")
        return self.tokenizer


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
    found = sources.find(source, layout, precision)
    loaded = sources.load(found, device, arch, None if tokenizer is None else str(tokenizer), precision)
    return Clip(loaded.towers, loaded.tokenizer, loaded.processor)


def read_templates(path: Path) -> dict[str, list[str]]:
    """Templates by language from a JSON of {language: [template, ...]}, as Babel-ImageNet's prompts are; languages in
    lower case.  Raises UserError.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; it is a JSON of {{language: [template, ...]}}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    is_right = isinstance(found, dict) and all(
        isinstance(of_lang, list) and all(isinstance(template, str) for template in of_lang)
        for of_lang in found.values()
    )
    if not is_right:
        raise UserError(f"{path} must hold {{language: [template, ...]}}")
    return {lang.lower(): of_lang for lang, of_lang in found.items()}


def _one_ahead(make: Callable[[int], T], starts: Sequence[int]) -> Iterator[T]:
    """make(start) of each start, the next one made in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        coming = [thread.submit(make, start) for start in starts[:1]]
        for following in (*starts[1:], None):
            if not coming:
                return
            found = coming.pop().result()
            if following is not None:
                coming.append(thread.submit(make, following))
            yield found


def _name_of(image: Any, place: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {place}"


def _sentences(labels: Sequence[str], templates: Templates, langs: str | Sequence[str] | None) -> list[list[str]]:
    """The sentences of each label.  Raises UserError that names all problems."""
    by_lang = dict(templates) if isinstance(templates, Mapping) else {"": templates}
    if langs is None or isinstance(langs, str):
        of_label = [langs or ""] * len(labels)
    else:
        of_label = list(langs)
    problems = _problems_of_labels(labels, of_label, by_lang, isinstance(templates, Mapping), langs)
    if problems:
        raise UserError(problems)
    return [
        [template.replace("{}", label) for template in by_lang[lang]]
        for label, lang in zip(labels, of_label, strict=True)
    ]


def _problems_of_labels(
    labels: Sequence[str],
    of_label: Sequence[str],
    by_lang: Mapping[str, Sequence[str]],
    is_by_language: bool,
    langs: str | Sequence[str] | None,
) -> list[str]:
    problems = [
        f"template {template!r} holds no {{}} for the label"
        for of_lang in by_lang.values()
        for template in of_lang
        if "{}" not in template
    ]
    if not labels:
        problems.append("labels is empty; give at least one")
    if empty := [lang for lang, of_lang in by_lang.items() if not of_lang]:
        where = f" for {', '.join(empty)}" if is_by_language else ""
        problems.append(f'templates is empty{where}; ("{{}}",) is the label alone')
    if is_by_language and langs is None:
        problems.append(f"templates are by language; langs says which the labels are in: {', '.join(by_lang)}")
    elif not is_by_language and langs is not None:
        problems.append(f"langs is {langs!r}, and templates are not by language; give {{language: [template, ...]}}")
    elif len(of_label) != len(labels):
        problems.append(f"langs names {len(of_label)} languages for {len(labels)} labels; give one, or one a label")
    elif missing := sorted({lang for lang in of_label if lang not in by_lang}):
        problems.append(f"langs names {', '.join(missing)}; there are templates for {', '.join(by_lang)}")
    return problems
