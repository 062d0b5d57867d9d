"""Measures in addition to a dataset's own tasks: evaluate.also.

Alignment and uniformity of embeddings on the sphere (Wang and Isola, arXiv:2005.10242): smaller is better in both.

Cross-lingual consistency, a measure of ours: does a concept, named in two languages, bring up the same images?  For a
concept c that both languages name, let A(c) and B(c) be the K = 10 images of the dataset that score highest for its
text in each language.  consistency@10 is the mean over concepts of |A(c) & B(c)| / K: 1 if both languages see the same
world, K / N by chance.  It needs no right answers, so a model may be consistent and wrong.

N images or pairs, C concepts, D embed_dim; features are of unit length.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from worldclip.core.artifacts import Json
from worldclip.core.errors import UserError
from worldclip.evaluate import zeroshot
from worldclip.evaluate.interval import statistic_interval, weighted_mean_interval
from worldclip.evaluate.probes import FewShot, LinearProbe, check_enough
from worldclip.evaluate.ranking import distinct_rows, score_blocks
from worldclip.evaluate.tasks import Classification, Dataset, Encode, Retrieval, Score, Task, decoded
from worldclip.report.results import NO_LANGUAGE

PROBED = {"few_shot": ("country", "region"), "linear_probe": ("class", "country", "region")}  # labels of each

CONCEPTS = {"zeroshot_classification": "classes", "image_text_retrieval": "captions"}  # what two languages share
NUM_PAIRS = 5_000  # the paper's number, arXiv:2507.22062
SCALE = 2.0  # t of the Gaussian potential, as Wang and Isola
NUM_IMAGES = 10  # K
METRIC = f"consistency@{NUM_IMAGES}"

Concepts = tuple[np.ndarray, np.ndarray]
"""Ids of concepts, ascending (C,), and their embeddings (C, D)."""


def with_measures(dataset: Dataset, also: Sequence[str]) -> Dataset:
    """Return `dataset` with the tasks of evaluate.also that its data allow.

    alignment: of each retrieval.  consistency: of each language with English, or with the first language without it.
    few_shot, linear_probe: of the images' labels, in no language (`und`).
    """
    probes = _probes(dataset, also)
    consistency = _consistency_with_pivot(dataset)

    def tasks(lang: str) -> list[Task]:
        own = dataset.tasks(lang) if lang in dataset.languages else ()
        added: list[Task] = []
        for task in own:
            if "alignment" in also and isinstance(task, Retrieval):
                images, texts = task.first_texts()
                added.append(Geometry(texts=texts, image_idx=images, image_keys=dataset.image_keys))
            if "consistency" in also and isinstance(task, Classification | Retrieval):
                added += consistency(task, lang)
        if lang == NO_LANGUAGE:
            added += probes
        return [*own, *added]

    languages = tuple(dict.fromkeys([*dataset.languages, NO_LANGUAGE] if probes else dataset.languages))
    return dataclasses.replace(dataset, languages=languages, tasks=tasks)


def _consistency_with_pivot(dataset: Dataset) -> Callable[[Classification | Retrieval, str], list[Task]]:
    """Return a function that compares a task, in a language, with the pivot's: [Consistency]; [] for the pivot."""
    pivot_lang = "en" if "en" in dataset.languages else next(iter(dataset.languages), "")
    embeddings: defaultdict[str, WeakKeyDictionary] = defaultdict(WeakKeyDictionary)

    @functools.cache
    def pivots() -> dict[str, Classification | Retrieval]:
        tasks = dataset.tasks(pivot_lang)
        return {task.name: task for task in tasks if isinstance(task, Classification | Retrieval)}

    def consistency(task: Classification | Retrieval, lang: str) -> list[Task]:
        if lang == pivot_lang:
            return []
        name = f"cross_lingual_consistency_{CONCEPTS[task.name]}"
        concepts = embeddings[task.name]
        pivot = pivots()[task.name]
        return [Consistency(task=task, pivot=pivot, pivot_lang=pivot_lang, pivot_concepts=concepts, name=name)]

    return consistency


def _probes(dataset: Dataset, also: Sequence[str]) -> list[Task]:
    keys = dataset.image_keys
    if len(set(keys)) < len(keys) and {"few_shot", "linear_probe"} & set(also):
        raise UserError(f"dataset {dataset.name}: two images have the same key; probes draw images by their keys")
    probes: list[Task] = []
    for label, values in dataset.labels.items():
        if "few_shot" in also and label in PROBED["few_shot"]:
            check_enough(label, values, dataset.name)
            probes.append(FewShot(label=label, values=values, image_keys=keys))
        if "linear_probe" in also and label in PROBED["linear_probe"]:
            probes.append(LinearProbe(label=label, values=values, image_keys=keys, is_train=dataset.is_train))
    return probes


# --- alignment and uniformity


def squared_distances(image_ND: np.ndarray, text_ND: np.ndarray) -> np.ndarray:
    """Return (N,) the squared distance of each image to its text; the mean is the alignment (alpha = 2)."""
    distances: np.ndarray = np.square(image_ND - text_ND).sum(axis=1)
    return distances


def potentials(features_ND: np.ndarray) -> np.ndarray:
    """Return (N, N) float32 exp(-2 |x - y|^2) of all pairs, 0 on the diagonal, as a pair is two points."""
    # For unit vectors |x - y|^2 = 2 - 2 x.y; rounding may take x.y above 1, hence the minimum.
    potential_NN: np.ndarray = np.exp(np.minimum(2 * SCALE * (features_ND @ features_ND.T - 1), 0), dtype=np.float32)
    np.fill_diagonal(potential_NN, 0)
    return potential_NN


def uniformity(potential_NN: np.ndarray, times: np.ndarray | None = None) -> float:
    """Return the log of the mean potential over pairs of different points; NaN if there is only one point.

    times: (N,) how often each point counts (default: once).
    """
    times = np.ones(len(potential_NN)) if times is None else times.astype(float)
    num_pairs = times.sum() ** 2 - np.square(times).sum()
    return float(np.log(times @ (potential_NN @ times) / num_pairs)) if num_pairs else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """Alignment of up to NUM_PAIRS pairs of an image and its first text, uniformity of images and of texts."""

    texts: Sequence[str]
    image_idx: np.ndarray
    """(N,) the image of each text."""
    image_keys: Sequence[str]
    """Of all images of the dataset: a hash of the key decides which pairs are taken."""
    protocol: Json = field(default_factory=lambda: {"max_pairs": NUM_PAIRS, "alpha": 2, "t": SCALE})
    name: str = "alignment_uniformity"

    def texts_to_encode(self) -> list[str]:
        return []  # the retrieval has encoded them

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        rows = np.flatnonzero(decoded(image_ND)[self.image_idx]).tolist()
        keys = {row: f"pairs {self.image_keys[int(self.image_idx[row])]}".encode() for row in rows}
        by_hash = sorted(rows, key=lambda row: hashlib.sha256(keys[row]).hexdigest())
        chosen = sorted(by_hash[:NUM_PAIRS])
        image_nD = image_ND[self.image_idx[chosen]]
        text_nD = encode([self.texts[row] for row in chosen])
        distance = squared_distances(image_nD, text_nD)
        metrics = {"alignment": float(distance.mean())}
        interval = {"alignment": weighted_mean_interval(distance)}
        if len(chosen) > 1:
            for side, features in (("image", image_nD), ("text", text_nD)):
                potential = potentials(features)
                metrics[f"uniformity_{side}"] = uniformity(potential)
                statistic = functools.partial(uniformity, potential)
                interval[f"uniformity_{side}"] = statistic_interval(statistic, len(chosen))
        return Score(n=len(chosen), metrics=metrics, chance={}, interval=interval)


# --- consistency


@dataclass(frozen=True, kw_only=True, slots=True)
class Consistency:
    """How far a language agrees with `pivot`, the same task in another language."""

    task: Classification | Retrieval
    pivot: Classification | Retrieval
    pivot_lang: str
    pivot_concepts: WeakKeyDictionary[Encode, Concepts] = field(default_factory=WeakKeyDictionary)
    """The pivot's embeddings by encoder, by its `root` where it has one.  All languages of a dataset share it, so that
    they are computed once."""
    name: str = "cross_lingual_consistency"

    def texts_to_encode(self) -> list[str]:
        return []  # the language's own task has encoded them

    @property
    def protocol(self) -> Json:
        return {"pivot": self.pivot_lang, "images": NUM_IMAGES, **self.task.protocol}

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        root = getattr(encode, "root", encode)
        if root not in self.pivot_concepts:
            # The pivot's names are in the pivot's language, which some models read next to the text.
            in_pivot = root.in_language(self.pivot_lang) if hasattr(root, "in_language") else root
            self.pivot_concepts[root] = concept_embeddings(self.pivot, in_pivot)
        pivot_ids, pivot_CD = self.pivot_concepts[root]
        ids, concept_CD = concept_embeddings(self.task, encode)
        shared, own_rows, pivot_rows = np.intersect1d(ids, pivot_ids, return_indices=True)
        if not len(shared):
            return Score(n=0, metrics={}, chance={})
        image_nD = image_ND[decoded(image_ND)]
        k = min(NUM_IMAGES, len(image_nD))
        overlap = overlaps(concept_CD[own_rows], pivot_CD[pivot_rows], image_nD, k)
        return Score(
            n=len(shared),
            metrics={METRIC: float(overlap.mean())},
            chance={METRIC: k / len(image_nD)},
            interval={METRIC: weighted_mean_interval(overlap)},
            more={"num_images": len(image_nD)},
        )


def overlaps(first_CD: np.ndarray, second_CD: np.ndarray, image_ND: np.ndarray, k: int) -> np.ndarray:
    """Return (C,) the share of the k best images of each concept that both embeddings of it have."""
    both = np.concatenate([first_CD, second_CD])
    distinct, row = distinct_rows(both)  # a name that is equal in both languages is ranked once
    best = best_images(both[distinct], image_ND, k)[row]
    first_Ck = best[: len(first_CD)]
    second_Ck = best[len(first_CD) :]
    share_C: np.ndarray = (first_Ck[:, :, None] == second_Ck[:, None, :]).any(axis=2).mean(axis=1)
    return share_C


def best_images(concept_CD: np.ndarray, image_ND: np.ndarray, k: int) -> np.ndarray:
    """Return (C, k) positions, ascending, of the k images that score highest for each concept; of equal ones the first.

    Scores are computed in blocks of rows, so that memory stays bounded.
    """
    blocks = [np.zeros((0, k), np.int64)]
    for _, scores in score_blocks(concept_CD, image_ND):
        last = np.partition(scores, -k, axis=1)[:, -k, None]
        is_above = scores > last
        is_level = scores == last
        num_level = k - is_above.sum(axis=1, keepdims=True)
        is_best = is_above | (is_level & (is_level.cumsum(axis=1) <= num_level))
        blocks.append(np.nonzero(is_best)[1].reshape(-1, k))
    return np.concatenate(blocks)


def concept_embeddings(task: Classification | Retrieval, encode: Encode) -> Concepts:
    """Return the concepts of a task: classes of a classification; images of a retrieval, named by their first text."""
    if isinstance(task, Classification):
        class_CD = zeroshot.class_embeddings(task.class_names, task.templates, encode)
        concepts = task.concepts or {c: c for c in range(len(class_CD))}
        ids = sorted(concepts)
        return np.array(ids), class_CD[[concepts[c] for c in ids]]
    images, texts = task.first_texts()
    return images, encode(texts)
