"""Cross-lingual consistency, a measure of ours: does a concept, named in two languages, bring up the same images?

For a concept c that both languages name, let A(c) and B(c) be the K = 10 images of the dataset that score highest for
its text in each language.  consistency@10 is the mean over concepts of |A(c) & B(c)| / K: 1 if both languages see the
same world, K / N by chance.  It needs no right answers, so a model may be consistent and wrong.

N images, C concepts, D embed_dim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from worldclip.evaluate import zeroshot
from worldclip.evaluate.interval import weighted_mean_interval
from worldclip.evaluate.ranking import BLOCK_BYTES
from worldclip.evaluate.tasks import Classification, Encode, Retrieval, Score, decoded

NUM_IMAGES = 10  # K
METRIC = f"consistency@{NUM_IMAGES}"

Concepts = tuple[np.ndarray, np.ndarray]
"""Ids of concepts, ascending (C,), and their embeddings (C, D)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Consistency:
    """How far a language agrees with `pivot`, the same task in another language."""

    task: Classification | Retrieval
    pivot: Classification | Retrieval
    pivot_lang: str
    pivot_concepts: WeakKeyDictionary[Any, Concepts] = field(default_factory=WeakKeyDictionary)
    """The pivot's embeddings by encoder.  All languages of a dataset share it, so that they are computed once."""
    name: str = "cross_lingual_consistency"

    def texts_to_encode(self) -> list[str]:
        return []  # the language's own task has encoded them

    @property
    def protocol(self) -> dict[str, Any]:
        return {"pivot": self.pivot_lang, "images": NUM_IMAGES, **self.task.protocol}

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        if encode not in self.pivot_concepts:
            self.pivot_concepts[encode] = concept_embeddings(self.pivot, encode)
        pivot_ids, pivot_CD = self.pivot_concepts[encode]
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
    first_Ck = best_images(first_CD, image_ND, k)
    second_Ck = best_images(second_CD, image_ND, k)
    return (first_Ck[:, :, None] == second_Ck[:, None, :]).any(axis=2).mean(axis=1)


def best_images(concept_CD: np.ndarray, image_ND: np.ndarray, k: int) -> np.ndarray:
    """Return (C, k) positions of the k images that score highest for each concept, in no order.

    Scores are computed in blocks of rows, so that memory stays bounded.
    """
    num_rows = max(1, BLOCK_BYTES // (4 * len(image_ND)))
    blocks = [np.zeros((0, k), np.int64)]
    for start in range(0, len(concept_CD), num_rows):
        scores = concept_CD[start : start + num_rows] @ image_ND.T
        blocks.append(np.argpartition(-scores, k - 1, axis=1)[:, :k])
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
