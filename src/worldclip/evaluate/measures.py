"""Measures in addition to a dataset's own tasks: evaluate.also.

Alignment and uniformity of embeddings on the sphere (Wang and Isola, arXiv:2005.10242): smaller is better in both.

N images or pairs, D embed_dim; features are of unit length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from worldclip.core.artifacts import Json
from worldclip.core.errors import UserError
from worldclip.evaluate.probes import FewShot, LinearProbe, check_enough, hashed_order
from worldclip.evaluate.tasks import Dataset, Encode, Retrieval, Score, Task, decoded
from worldclip.report.results import NO_LANGUAGE

PROBED = {"few_shot": ("country", "region"), "linear_probe": ("class", "country", "region")}  # labels of each

NUM_PAIRS = 5_000  # the paper's number, arXiv:2507.22062
SCALE = 2.0  # t of the Gaussian potential, as Wang and Isola


def with_measures(dataset: Dataset, also: Sequence[str]) -> Dataset:
    """Return `dataset` with the tasks of evaluate.also that its data allow.

    alignment measures each retrieval.  few_shot and linear_probe predict the images' labels, in no language (`und`).
    """
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

    def tasks(lang: str) -> list[Task]:
        tasks_of_lang: list[Task] = []
        if lang in dataset.languages:
            tasks_of_lang += dataset.tasks(lang)
        added: list[Task] = []
        for task in tasks_of_lang:
            if "alignment" in also and isinstance(task, Retrieval):
                images, first_pair = np.unique(task.pair_image, return_index=True)
                texts = [task.texts[idx] for idx in task.pair_text[first_pair]]
                added.append(Geometry(texts=texts, image_idx=images, image_keys=keys))
        if lang == NO_LANGUAGE:
            added += probes
        return [*tasks_of_lang, *added]

    languages = dict.fromkeys(dataset.languages)
    if probes:
        languages[NO_LANGUAGE] = None
    return dataclasses.replace(dataset, languages=tuple(languages), tasks=tasks)


# --- alignment and uniformity


def alignment(image_ND: np.ndarray, text_ND: np.ndarray) -> float:
    """Return the mean squared distance of each image to its text (alpha = 2)."""
    return float(np.square(image_ND - text_ND).sum(axis=1).mean())


def uniformity(features_ND: np.ndarray) -> float:
    """Return the log of the mean of exp(-2 |x - y|^2) over all pairs of different points, of which there are some."""
    # For unit vectors |x - y|^2 = 2 - 2 x.y; rounding may take x.y above 1, hence the minimum.
    potential_NN = np.exp(np.minimum(2 * SCALE * (features_ND @ features_ND.T - 1), 0), dtype=np.float32)
    np.fill_diagonal(potential_NN, 0)
    times = np.ones(len(features_ND))
    return float(np.log(times @ (potential_NN @ times) / (len(features_ND) * (len(features_ND) - 1))))


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
        rows = np.flatnonzero(decoded(image_ND)[self.image_idx])
        keys_of_texts = [self.image_keys[idx] for idx in self.image_idx.tolist()]
        chosen = np.sort(hashed_order(keys_of_texts, rows, "pairs")[:NUM_PAIRS])
        image_nD = image_ND[self.image_idx[chosen]]
        text_nD = encode([self.texts[row] for row in chosen])
        metrics = {"alignment": alignment(image_nD, text_nD)}
        if len(chosen) > 1:
            metrics |= {"uniformity_image": uniformity(image_nD), "uniformity_text": uniformity(text_nD)}
        return Score(n=len(chosen), metrics=metrics, chance={})
