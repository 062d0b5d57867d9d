"""Datasets and their tasks: a dataset is its images, and tasks for each of its languages.

A task holds texts and right answers; `score` takes features and returns a Score.  Images that cannot be decoded are
rows of NaN in the features: every task drops them, the engine counts them.

N images of the dataset, n images or questions of a task, C classes, M texts, D embed_dim, B
classes or images of a block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Protocol

import numpy as np

from worldclip.core.artifacts import Json
from worldclip.core.errors import UserError, require
from worldclip.core.safe_path import is_safe_name
from worldclip.evaluate import ranking
from worldclip.evaluate.interval import Interval, class_mean_interval, mean_interval
from worldclip.evaluate.ranking import Ties

NO_PAIRS = (np.zeros(0, np.int64), np.zeros(0, np.int64))


class NoneDecoded(UserError):
    """None of the images that a task asks about can be decoded."""


Encode = Callable[[list[str]], np.ndarray]
"""Texts -> (n, D) float32, unit length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The result of a task: metrics (0 to 1), what chance reaches, 95% intervals, and metrics of parts."""

    n: int
    metrics: dict[str, float]
    chance: dict[str, float]
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    slices: dict[str, Json] = field(default_factory=dict)
    counts: Json = field(default_factory=dict)
    """Further fields of the record, e.g. num_classes."""
    ranks: dict[str, np.ndarray] = field(default_factory=dict)
    """Rank of each query's best right answer, by kind of query: two models are compared on them, query by query."""
    images: dict[str, np.ndarray] = field(default_factory=dict)
    """By the same kinds, the image that each query is about (its position in the dataset)."""


class Task(Protocol):
    """A question in one language."""

    @property
    def name(self) -> str: ...
    @property
    def protocol(self) -> Json: ...
    def texts_to_encode(self) -> Sequence[str]:
        """Return the texts that `score` encodes, so that those of several languages are encoded together."""
        ...

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Images, and the tasks that each language has over them."""

    name: str
    digest: str
    """Of the images and everything in the tasks; a changed one is evaluated again."""
    image_keys: Sequence[str]
    read_images: Callable[[int, int], list[bytes]]
    """(start, stop) -> the encoded image files of these positions."""
    languages: Sequence[str]
    tasks: Callable[[str], Sequence[Task]]
    """The tasks of a language, one of `languages`."""
    images_digest: str = ""
    """Digest of only the images: the key of their cached features; empty: `digest`."""
    labels: dict[str, Sequence[str]] = field(default_factory=dict)
    """A label of each image, e.g. its country or class, "" where it is unknown: what probes predict."""
    is_train: np.ndarray | None = None
    """(N,) bool: the images that only probes may learn from; None: there is no train split."""

    def __post_init__(self) -> None:
        """Raise UserError for languages of the dataset's own files that are no plain names: they name folders."""
        unsafe = [lang for lang in self.languages if not is_safe_name(lang) or "/" in lang]
        if unsafe:
            named = ", ".join(map(repr, unsafe[:5]))
            raise UserError(f"dataset {self.name} has the languages {named}; a language must be a plain name")


@dataclass(frozen=True, kw_only=True, slots=True)
class _OfClasses:
    """Fields that all tasks about classes have."""

    class_names: Sequence[Sequence[str]]
    """The synonyms of each class."""
    templates: Sequence[str] = ("{}",)
    image_idx: np.ndarray
    """(n,) position of each image of the task among the dataset's images."""
    protocol: Json = field(default_factory=dict)

    def texts_to_encode(self) -> list[str]:
        return class_texts(self.class_names, self.templates)


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification(_OfClasses):
    """Which of the classes is in the image."""

    target: np.ndarray
    """(n,) class of each image of the task."""
    slices: dict[str, np.ndarray] = field(default_factory=dict)
    """Parts of the images, each a (n,) bool mask, reported next to the whole."""
    also_right: tuple[np.ndarray, np.ndarray] = NO_PAIRS
    """(position among the n, class): further classes that are right for an image."""
    use_f1: bool = False
    """Report `f1_macro` too."""
    ties: Ties = "against"
    name: str = "zeroshot_classification"

    def __post_init__(self) -> None:
        if self.use_f1 or len(self.class_names) == 2:
            _sklearn_metrics()  # a missing package is known before any work

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        num_classes = len(self.class_names)
        class_CD = class_embeddings(self.class_names, self.templates, encode)
        is_good = decoded(image_ND)[self.image_idx]
        image_idx = self.image_idx[rows_left(is_good)]
        image_nD = image_ND[image_idx]
        target = self.target[is_good]
        further_idx, further_class = self.also_right
        is_kept = is_good[further_idx]
        position = np.cumsum(is_good) - 1  # row of each image in image_nD
        right_image = np.concatenate([np.arange(len(target)), position[further_idx[is_kept]]])
        right_class = np.concatenate([target, further_class[is_kept]])
        ranks = ranking.ranks(image_nD, class_CD, right_image, right_class, self.ties)

        top_ks = (1, 5) if num_classes > 5 else (1,)
        metrics = _accuracies(ranks, top_ks)
        chance: dict[str, float] = {}
        interval: dict[str, Interval] = {}
        num_right_classes = np.bincount(np.unique([right_image, right_class], axis=1)[0])
        for k in top_ks:
            chance[f"acc{k}"] = k / num_classes
            if len(right_image) > len(target):
                chance[f"acc{k}"] = ranking.chance_within(k, num_right_classes, num_classes)
            interval[f"acc{k}"] = mean_interval(ranks < k)
        # Only classes that have images count in the mean.
        _, class_of_image, num_images = np.unique(target, return_inverse=True, return_counts=True)
        num_right = np.bincount(class_of_image, weights=ranks == 0)
        metrics["mean_per_class_recall"] = float((num_right / num_images).mean())
        interval["mean_per_class_recall"] = class_mean_interval(num_right, num_images)
        if self.use_f1:  # WILDS' for iWildCam: a class that is only predicted does not count
            predicted = predictions(image_nD, class_CD, target, self.ties)
            f1_score = _sklearn_metrics().f1_score
            metrics["f1_macro"] = float(f1_score(target, predicted, average="macro", labels=np.unique(target)))
        if num_classes == 2 and 0 < target.sum() < len(target):
            _, margins = next(ranking.score_blocks(class_CD[1:] - class_CD[:1], image_nD))
            metrics["roc_auc"] = float(_sklearn_metrics().roc_auc_score(target, margins[0]))
            chance["roc_auc"] = 0.5
        return Score(
            n=len(ranks),
            metrics=metrics,
            chance=chance,
            interval=interval,
            slices=score_slices(self.slices, is_good, lambda part: _accuracies(ranks[part], top_ks)),
            counts={"num_classes": num_classes},
            ranks={"acc": ranks},
            images={"acc": image_idx},
        )


def _accuracies(ranks: np.ndarray, top_ks: Sequence[int]) -> dict[str, float]:
    return {f"acc{k}": float((ranks < k).mean()) for k in top_ks}


def predictions(image_ND: np.ndarray, class_CD: np.ndarray, target_N: np.ndarray, ties: Ties = "against") -> np.ndarray:
    """Return (N,) int64: the best class of each image, of equal ones the first; with `against` the first wrong one."""
    predicted = np.empty(len(image_ND), np.int64)
    for start, scores in ranking.score_blocks(image_ND, class_CD):
        rows = np.arange(len(scores))
        best = scores.argmax(axis=1)
        if ties == "against":
            target = target_N[start : start + len(scores)]
            right_scores = scores[rows, target]
            scores[rows, target] = -np.inf
            wrong = scores.argmax(axis=1)
            best = np.where(right_scores > scores[rows, wrong], target, wrong)
        predicted[start : start + len(scores)] = best
    return predicted


def class_embeddings(class_names: Sequence[Sequence[str]], templates: Sequence[str], encode: Encode) -> np.ndarray:
    """Return (C, D) float32: the normalised mean over templates x synonyms of normalised embeddings (CLIP's protocol).

    class_names: the synonyms of each class, at least one; templates hold one `{}` each.
    """
    features = np.asarray(encode(class_texts(class_names, templates)), np.float32)
    num_texts = np.array(list(map(len, class_names))) * len(templates)
    starts = np.concatenate(([0], num_texts.cumsum()[:-1]))
    means = np.add.reduceat(features, starts, axis=0) / num_texts[:, None].astype(np.float32)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return means / np.where(norms > 0, norms, 1)


def class_texts(class_names: Sequence[Sequence[str]], templates: Sequence[str]) -> list[str]:
    """Return each template with each name in it, class by class."""
    texts: list[str] = []
    for names in class_names:
        for name in names:
            texts += [template.replace("{}", name) for template in templates]
    return texts


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiLabel(_OfClasses):
    """Which classes are in the image; a class without an image counts 0, as in scikit-learn and CLIP_benchmark."""

    is_there: np.ndarray
    """(n, C) bool."""
    name: str = "multilabel_classification"

    def __post_init__(self) -> None:
        _sklearn_metrics()

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        class_CD = class_embeddings(self.class_names, self.templates, encode)
        is_good = decoded(image_ND)[self.image_idx]
        is_there = self.is_there[rows_left(is_good)]
        # The images are the candidates: those of equal features must score equal bits for a class.
        image_nD = image_ND[self.image_idx[is_good]]
        precisions = np.zeros(len(class_CD))
        for start, score_Bn in ranking.score_blocks(class_CD, image_nD):
            for c, score_n in enumerate(score_Bn, start):
                if is_there[:, c].any():
                    precisions[c] = _sklearn_metrics().average_precision_score(is_there[:, c], score_n)
        return Score(
            n=len(is_there),
            metrics={"mean_average_precision": float(np.mean(precisions))},
            chance={"mean_average_precision": float(is_there.mean())},
            counts={"num_classes": is_there.shape[1]},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """Which image belongs to the text, and which text to the image."""

    texts: Sequence[str]
    pair_image: np.ndarray
    """(num_pairs,) position of an image among the dataset's images."""
    pair_text: np.ndarray
    """(num_pairs,) position of its text in `texts`."""
    image_idx: np.ndarray
    """(n,) the images that are ranked; some may have no text."""
    protocol: Json = field(default_factory=dict)
    ties: Ties = "against"
    name: str = "image_text_retrieval"

    def texts_to_encode(self) -> Sequence[str]:
        return self.texts

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        # Drop images that do not decode, and texts whose images are all dropped: these would be unfair candidates.
        # What is left is renumbered in its old order.
        image_idx = self.image_idx[decoded(image_ND)[self.image_idx]]
        position = np.full(len(image_ND), -1)
        position[image_idx] = np.arange(len(image_idx))
        kept_pairs = rows_left(position[self.pair_image] >= 0)
        pair_image = position[self.pair_image[kept_pairs]]
        text_idx, pair_text = np.unique(self.pair_text[kept_pairs], return_inverse=True)

        image_nD = image_ND[image_idx]
        text_MD = encode([self.texts[idx] for idx in text_idx])
        text_to_image = ranking.ranks(text_MD, image_nD, pair_text, pair_image, self.ties)
        image_to_text = ranking.ranks(image_nD, text_MD, pair_image, pair_text, self.ties)

        # Captions of one image are drawn together in the intervals: the image of each query is its cluster.
        images_with_text = np.flatnonzero(image_to_text >= 0)
        first_pair = np.unique(pair_text, return_index=True)[1]
        image_to_text = image_to_text[images_with_text]
        # Kind, ranks, images, numbers of right candidates (any image of a text, any text of an image) and of all.
        directions = (
            ("image_retrieval_recall@", text_to_image, pair_image[first_pair], np.bincount(pair_text), len(image_idx)),
            ("text_retrieval_recall@", image_to_text, images_with_text, np.bincount(pair_image), len(text_idx)),
        )
        ranks: dict[str, np.ndarray] = {}
        images: dict[str, np.ndarray] = {}
        metrics: dict[str, float] = {}
        chance: dict[str, float] = {}
        interval: dict[str, Interval] = {}
        for kind, rank_of_query, query_image, num_right, num_candidates in directions:
            for k in ranking.RECALL_AT:
                is_hit = rank_of_query < k
                metrics[f"{kind}{k}"] = float(is_hit.mean())
                chance[f"{kind}{k}"] = ranking.chance_within(k, num_right, num_candidates)
                interval[f"{kind}{k}"] = mean_interval(is_hit, query_image)
            ranks[kind] = rank_of_query
            images[kind] = image_idx[query_image]
        return Score(
            n=len(image_idx),
            metrics=metrics,
            chance=chance,
            interval=interval,
            counts={"num_texts": len(text_idx)},
            ranks=ranks,
            images=images,
        )


def _sklearn_metrics() -> ModuleType:
    return require("sklearn.metrics", extra="train")


def with_ties(dataset: Dataset, ties: Ties) -> Dataset:
    """Return `dataset` with this rule in each task that has one, and in the protocol of its record."""

    def tasks(lang: str) -> list[Task]:
        tasks: list[Task] = []
        for task in dataset.tasks(lang):
            if hasattr(task, "ties"):
                protocol = {**task.protocol, "ties": ties}
                task = dataclasses.replace(task, ties=ties, protocol=protocol)  # type: ignore[type-var]
            tasks.append(task)
        return tasks

    return dataclasses.replace(dataset, tasks=tasks)


def decoded(image_ND: np.ndarray) -> np.ndarray:
    """Return (N,) bool: whether each image has features."""
    is_whole: np.ndarray = ~np.isnan(image_ND).any(axis=1)
    return is_whole


def rows_left(is_kept: np.ndarray) -> np.ndarray:
    """Return the positions of the questions that are scored.  is_kept: (n,) bool.  Raises NoneDecoded if none is."""
    rows = np.flatnonzero(is_kept)
    if not len(rows):
        raise NoneDecoded(
            "none of the images that it asks about can be decoded; fetch them again, or set evaluate.languages"
        )
    return rows


def score_slices(
    masks: Mapping[str, np.ndarray], is_kept: np.ndarray, metrics: Callable[[np.ndarray], dict[str, float]]
) -> dict[str, Json]:
    """Return the metrics of each part of a task; empty parts are left out.

    masks: (n,) bool of each part.  is_kept: (n,) bool, the questions that were scored.  metrics: takes a mask over the
    scored questions.
    """
    scores: dict[str, Json] = {}
    for name, mask in masks.items():
        part = mask[is_kept]
        if part.any():
            scores[name] = {"n": int(part.sum()), "metrics": metrics(part)}
    return scores
