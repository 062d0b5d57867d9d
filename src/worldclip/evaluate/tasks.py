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
from worldclip.evaluate.interval import mean_interval
from worldclip.evaluate.ranking import ranks

LOCAL = "local"  # in place of a language: each question in the language it was written in

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


class Task(Protocol):
    """A question in one language."""

    @property
    def name(self) -> str: ...
    @property
    def protocol(self) -> dict[str, Any]: ...
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
    protocol: dict[str, Any] = field(default_factory=dict)
    name: str = "zeroshot_classification"

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        num_classes = len(self.class_names)
        classes = zeroshot.class_embeddings(self.class_names, self.templates, encode)
        is_good = _decoded(image_ND)[self.image_idx]
        target = self.target[is_good]
        found = zeroshot.classification_ranks(image_ND[self.image_idx[is_good]], classes, target)
        metrics = zeroshot.accuracies(found, num_classes)
        interval = {name: mean_interval(found < int(name.removeprefix("acc"))) for name in metrics}
        metrics["mean_per_class_recall"] = zeroshot.mean_per_class_recall(found, target)
        slices = {}
        for name, mask in self.slices.items():
            part = found[mask[is_good]]
            if len(part):
                slices[name] = {"n": len(part), "metrics": zeroshot.accuracies(part, num_classes)}
        more = {"num_classes": num_classes}
        chance = zeroshot.chance(num_classes)
        return Score(
            n=len(found),
            metrics=metrics,
            chance=chance,
            interval=interval,
            slices=slices,
            more=more,
            ranks={"acc": found},
        )


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

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        is_good = _decoded(image_ND)
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
        clusters = {"image_retrieval": pair_image[first_pair], "text_retrieval": None}
        asked = {"image_retrieval": text_to_image, "text_retrieval": image_to_text[image_to_text >= 0]}
        metrics = retrieval.recalls(text_to_image, image_to_text)
        interval = {}
        for name in metrics:
            way, k = name.split("_recall@")
            interval[name] = mean_interval(asked[way] < int(k), clusters[way])
        more = {"num_texts": len(texts)}
        chance = retrieval.chance(len(image_idx), len(texts))
        return Score(
            n=len(image_idx),
            metrics=metrics,
            chance=chance,
            interval=interval,
            more=more,
            ranks={f"{way}_recall@": found for way, found in asked.items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which of a few texts belongs to the image; micro average over questions."""

    options: Sequence[Sequence[str]]
    """The texts of each question, all of the same number."""
    answer: np.ndarray
    """(n,) position of the right text among its question's options."""
    image_idx: np.ndarray
    """(n,) the image each question is about."""
    slices: dict[str, np.ndarray] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    name: str = "choice"

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        num_options = len(self.options[0])
        is_good = _decoded(image_ND)[self.image_idx]
        asked = np.flatnonzero(is_good).tolist()
        features = encode([text for idx in asked for text in self.options[idx]])
        option_NKD = features.reshape(len(asked), num_options, -1)
        is_right = np.zeros(len(asked), bool)
        for row, idx in enumerate(asked):
            image = image_ND[self.image_idx[idx]][None]
            is_right[row] = ranks(image, option_NKD[row], np.zeros(1, int), self.answer[idx : idx + 1])[0] == 0
        slices = {
            name: {"n": int(mask[is_good].sum()), "metrics": {"accuracy": float(is_right[mask[is_good]].mean())}}
            for name, mask in self.slices.items()
            if mask[is_good].any()
        }
        return Score(
            n=len(asked),
            metrics={"accuracy": float(is_right.mean())},
            chance={"accuracy": 1 / num_options},
            interval={"accuracy": mean_interval(is_right)},
            slices=slices,
            ranks={"accuracy": np.where(is_right, 0, 1)},
        )


def _decoded(image_ND: np.ndarray) -> np.ndarray:
    return ~np.isnan(image_ND).any(axis=1)
