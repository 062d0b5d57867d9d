"""Measures in addition to a dataset's own tasks: evaluate.also."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from worldclip.core.errors import UserError
from worldclip.evaluate.consistency import Consistency
from worldclip.evaluate.geometry import Geometry
from worldclip.evaluate.probes import FewShot, LinearProbe, check_enough
from worldclip.evaluate.tasks import NO_LANGUAGE, Classification, Dataset, Retrieval, Task

PROBED = {"few_shot": ("country", "region"), "linear_probe": ("class", "country", "region")}  # labels of each

CONCEPTS = {"zeroshot_classification": "classes", "image_text_retrieval": "captions"}  # what two languages share


def with_measures(dataset: Dataset, also: Sequence[str]) -> Dataset:
    """Return `dataset` with the tasks of evaluate.also that its data allow.

    alignment: of each retrieval.  consistency: of each language with English, or with the first language without it.
    few_shot, linear_probe: of the images' labels, in no language (`und`).
    """
    probes = _probes(dataset, also)
    consistencies = _Consistencies(dataset)

    def tasks(lang: str) -> list[Task]:
        own = dataset.tasks(lang) if lang in dataset.languages else ()
        added: list[Task] = []
        for task in own:
            if "alignment" in also and isinstance(task, Retrieval):
                images, texts = task.first_texts()
                added.append(Geometry(texts=texts, image_idx=images, image_keys=dataset.image_keys))
            if "consistency" in also and isinstance(task, Classification | Retrieval):
                added += consistencies.of(task, lang)
        if lang == NO_LANGUAGE:
            added += probes
        return [*own, *added]

    languages = tuple(dict.fromkeys([*dataset.languages, NO_LANGUAGE] if probes else dataset.languages))
    return dataclasses.replace(dataset, languages=languages, tasks=tasks)


class _Consistencies:
    """Tasks that compare the languages of a dataset with one of them, its pivot."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._pivot_lang = "en" if "en" in dataset.languages else next(iter(dataset.languages), "")
        self._pivots: dict[str, Classification | Retrieval] = {}
        self._embeddings: dict[str, WeakKeyDictionary] = {}

    def of(self, task: Classification | Retrieval, lang: str) -> list[Task]:
        """Return the comparison of a language's task with the pivot's; nothing for the pivot itself."""
        if lang == self._pivot_lang:
            return []
        if not self._pivots:
            for pivot in self._dataset.tasks(self._pivot_lang):
                if isinstance(pivot, Classification | Retrieval):
                    self._pivots[pivot.name] = pivot
        return [
            Consistency(
                task=task,
                pivot=self._pivots[task.name],
                pivot_lang=self._pivot_lang,
                pivot_concepts=self._embeddings.setdefault(task.name, WeakKeyDictionary()),
                name=f"cross_lingual_consistency_{CONCEPTS[task.name]}",
            )
        ]


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
