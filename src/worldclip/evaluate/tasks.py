"""Data sets and the questions they ask, in features: a data set is its images, and tasks for each of its languages.

A task holds texts and right answers; `score` takes features and returns a Score.  Images that would not decode are rows
of NaN in the features: they are dropped from every task and counted by the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from worldclip.evaluate import retrieval, zeroshot
from worldclip.evaluate.interval import class_mean_interval, mean_interval, statistic_interval

LOCAL = "local"  # in place of a language: each question in the language it was written in
NO_LANGUAGE = "und"  # of tasks that ask in none: probes of the images alone

Encode = Callable[[list[str]], np.ndarray]
"""Texts -> (n, embed_dim) float32, unit length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What a task found: metrics from 0 to 1, what chance reaches, 95% intervals, and the same for parts of it."""

    n: int
    metrics: dict[str, float]
    chance: dict[str, float]
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    slices: dict[str, dict[str, Any]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, np.ndarray] = field(default_factory=dict)
    """Rank of each query's best right answer, by the way asked: what two models are compared on, query by query."""
    images: dict[str, np.ndarray] = field(default_factory=dict)
    """By the same ways, the image that each query is about (its position in the data set): drawn together."""


class Task(Protocol):
    """A question in one language."""

    @property
    def name(self) -> str: ...
    @property
    def protocol(self) -> dict[str, Any]: ...
    def asked_texts(self) -> Sequence[str]:
        """What `score` will have encoded, so that several languages can be encoded together."""
        ...

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Images, and the tasks that each language has over them."""

    name: str
    digest: str
    """Of the images and all that the tasks hold; a changed one is evaluated anew."""
    image_keys: Sequence[str]
    read_images: Callable[[int, int], list[bytes]]
    """Encoded image files of the positions [start, stop)."""
    languages: Sequence[str]
    tasks: Callable[[str], Sequence[Task]]
    """The tasks of a language, one of `languages`."""
    images_digest: str = ""
    """Of the images alone, what their features are kept under; empty: `digest`."""
    labels: dict[str, Sequence[str]] = field(default_factory=dict)
    """What is known of each image besides its texts, e.g. country or class, "" where it is not: what probes predict."""
    is_train: np.ndarray | None = None
    """(num_images,) bool: the images that only probes may learn from; None: none is set apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """Which of the classes is in the image."""

    class_names: Sequence[Sequence[str]]
    """The synonyms of each class."""
    target: np.ndarray
    """(n,) class of each image asked."""
    image_idx: np.ndarray
    """(n,) its position among the data set's images."""
    templates: Sequence[str] = ("{}",)
    slices: dict[str, np.ndarray] = field(default_factory=dict)
    """Parts of the images, each a (n,) bool mask, reported beside the whole."""
    also_right: tuple[np.ndarray, np.ndarray] = zeroshot.NO_PAIRS
    """(position among the n, class): further classes that answer an image."""
    use_f1: bool = False
    """Report `f1_macro` too."""
    concepts: dict[int, int] | None = None
    """What a class means in every language -> class; None: classes have one order in all of them."""
    protocol: dict[str, Any] = field(default_factory=dict)
    name: str = "zeroshot_classification"

    def asked_texts(self) -> list[str]:
        return zeroshot.class_texts(self.class_names, self.templates)

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        num_classes = len(self.class_names)
        class_CD = zeroshot.class_embeddings(self.class_names, self.templates, encode)
        is_good = decoded(image_ND)[self.image_idx]
        target, image_nD = self.target[is_good], image_ND[self.image_idx[is_good]]
        found = zeroshot.classification_ranks(image_nD, class_CD, target, self._also_right(is_good))
        metrics = zeroshot.accuracies(found, num_classes)
        interval = {name: mean_interval(found < int(name.removeprefix("acc"))) for name in metrics}
        metrics["mean_per_class_recall"] = zeroshot.mean_per_class_recall(found, target)
        interval["mean_per_class_recall"] = class_mean_interval(*zeroshot.right_by_class(found, target))
        chance = zeroshot.chance(num_classes)
        if self.use_f1:
            predicted = zeroshot.predictions(image_nD, class_CD)
            metrics["f1_macro"] = zeroshot.f1_macro(predicted, target)
            interval["f1_macro"] = statistic_interval(
                lambda times: zeroshot.f1_macro(predicted, target, times), len(target)
            )
        if num_classes == 2 and 0 < target.sum() < len(target):
            margin, is_positive = image_nD @ (class_CD[1] - class_CD[0]), target == 1
            metrics["roc_auc"] = zeroshot.roc_auc(margin, is_positive)
            interval["roc_auc"] = statistic_interval(
                lambda times: zeroshot.roc_auc(margin, is_positive, times), len(target)
            )
            chance["roc_auc"] = 0.5
        slices = {}
        for name, mask in self.slices.items():
            part = found[mask[is_good]]
            if len(part):
                slices[name] = {"n": len(part), "metrics": zeroshot.accuracies(part, num_classes)}
        return Score(
            n=len(found),
            metrics=metrics,
            chance=chance,
            interval=interval,
            slices=slices,
            more={"num_classes": num_classes},
            ranks={"acc": found},
            images={"acc": self.image_idx[is_good]},
        )

    def _also_right(self, is_good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Further right answers, of the images that decoded, by their position among these."""
        position = np.cumsum(is_good) - 1
        images, classes = self.also_right
        return position[images[is_good[images]]], classes[is_good[images]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """Which image belongs to the text, and which text to the image."""

    texts: Sequence[str]
    pair_image: np.ndarray
    """(num_pairs,) position of an image among the data set's images."""
    pair_text: np.ndarray
    """(num_pairs,) position of its text in `texts`."""
    image_idx: np.ndarray
    """(n,) the images ranked, those without a text too."""
    protocol: dict[str, Any] = field(default_factory=dict)
    name: str = "image_text_retrieval"

    def asked_texts(self) -> Sequence[str]:
        return self.texts

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        is_good = decoded(image_ND)
        image_idx = self.image_idx[is_good[self.image_idx]]
        position = np.full(len(image_ND), -1)
        position[image_idx] = np.arange(len(image_idx))
        keep = position[self.pair_image] >= 0
        pair_image, pair_text = position[self.pair_image[keep]], self.pair_text[keep]
        texts, pair_text = np.unique(pair_text, return_inverse=True)  # a text whose images are gone is no candidate
        features = encode([self.texts[idx] for idx in texts])
        found = retrieval.retrieval_ranks(image_ND[image_idx], features, pair_image, pair_text)
        text_to_image, image_to_text = found
        first_pair = np.unique(pair_text, return_index=True)[1]
        asked = {"image_retrieval": text_to_image, "text_retrieval": image_to_text[image_to_text >= 0]}
        of_query = {"image_retrieval": pair_image[first_pair], "text_retrieval": np.flatnonzero(image_to_text >= 0)}
        metrics = retrieval.recalls(text_to_image, image_to_text)
        interval = {}
        for name in metrics:
            way, k = name.split("_recall@")
            interval[name] = mean_interval(asked[way] < int(k), of_query[way])
        more = {"num_texts": len(texts)}
        chance = retrieval.chance(len(image_idx), len(texts))
        return Score(
            n=len(image_idx),
            metrics=metrics,
            chance=chance,
            interval=interval,
            more=more,
            ranks={f"{way}_recall@": found for way, found in asked.items()},
            images={f"{way}_recall@": image_idx[of_query[way]] for way in asked},
        )


def decoded(image_ND: np.ndarray) -> np.ndarray:
    return ~np.isnan(image_ND).any(axis=1)
