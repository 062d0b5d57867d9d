"""Measures beside a data set's own tasks, for those that ask: evaluate.also."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from worldclip.core.errors import UserError
from worldclip.evaluate.consistency import Consistency
from worldclip.evaluate.geometry import Geometry
from worldclip.evaluate.probes import FewShot, LinearProbe, check_enough
from worldclip.evaluate.tasks import NO_LANGUAGE, Classification, Dataset, Retrieval, Task

PROBED = {"few_shot": ("country", "region"), "linear_probe": ("class", "country", "region")}  # labels of each

CONCEPTS = {"zeroshot_classification": "classes", "image_text_retrieval": "captions"}  # what two languages share


def with_measures(dataset: Dataset, also: Sequence[str]) -> Dataset:
    """`dataset` with the tasks that `also` names (config.MEASURES) and that its data allow.

    alignment: of each retrieval; consistency: each language with English, or with the first where there is no English;
    few_shot, linear_probe: of what is known of the images, in no language (`und`).
    """
    probes = _probes(dataset, also)
    pivot_lang = "en" if "en" in dataset.languages else next(iter(dataset.languages), "")
    pivots: dict[str, Classification | Retrieval] = {}
    embeddings: dict[str, WeakKeyDictionary] = {}

    def consistency(task: Classification | Retrieval) -> Consistency:
        if not pivots:
            others = dataset.tasks(pivot_lang)
            pivots.update({other.name: other for other in others if isinstance(other, Classification | Retrieval)})
        return Consistency(
            task=task,
            pivot=pivots[task.name],
            pivot_lang=pivot_lang,
            pivot_concepts=embeddings.setdefault(task.name, WeakKeyDictionary()),
            name=f"cross_lingual_consistency_{CONCEPTS[task.name]}",
        )

    def tasks(lang: str) -> list[Task]:
        own = list(dataset.tasks(lang)) if lang in dataset.languages else []
        found = list(own)
        for task in own:
            if "alignment" in also and isinstance(task, Retrieval):
                found.append(_geometry(task, dataset.image_keys))
            if "consistency" in also and lang != pivot_lang and isinstance(task, Classification | Retrieval):
                found.append(consistency(task))
        return [*found, *probes] if lang == NO_LANGUAGE else found

    languages = tuple(dict.fromkeys([*dataset.languages, NO_LANGUAGE] if probes else dataset.languages))
    return dataclasses.replace(dataset, languages=languages, tasks=tasks)


def _geometry(task: Retrieval, image_keys: Sequence[str]) -> Geometry:
    """Of each image and its first text."""
    images, first_pair = np.unique(task.pair_image, return_index=True)
    texts = [task.texts[idx] for idx in task.pair_text[first_pair]]
    return Geometry(texts=texts, image_idx=images, image_keys=image_keys)


def _probes(dataset: Dataset, also: Sequence[str]) -> list[Task]:
    if len(set(dataset.image_keys)) < len(dataset.image_keys) and {"few_shot", "linear_probe"} & set(also):
        raise UserError(f"data set {dataset.name}: two images have one key; probes draw images by their keys")
    found: list[Task] = []
    for label, values in dataset.labels.items():
        if "few_shot" in also and label in PROBED["few_shot"]:
            check_enough(label, values, dataset.name)
            found.append(FewShot(label=label, values=values, image_keys=dataset.image_keys))
        if "linear_probe" in also and label in PROBED["linear_probe"]:
            found.append(
                LinearProbe(label=label, values=values, image_keys=dataset.image_keys, is_train=dataset.is_train)
            )
    return found
