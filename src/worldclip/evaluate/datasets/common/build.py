"""Builders of datasets: what a layout has read -> a Dataset with its tasks.

`contents` of each builder is a JSON-able record of everything that decides the tasks (fingerprints of files, options):
a changed one is evaluated again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.artifacts import Json, digest
from worldclip.evaluate.datasets.common.class_names import Names
from worldclip.evaluate.datasets.common.images import Images, fingerprints
from worldclip.evaluate.tasks import NO_PAIRS, Classification, Dataset, Retrieval, Task

Caption = tuple[int, str]
"""Position of the image, and a text about it."""


def build_dataset(
    name: str, images: Images, tasks: Mapping[str, Sequence[Task]], contents: Any, **fields: Any
) -> Dataset:
    """Return a dataset with any tasks by language.  fields: labels and is_train, see Dataset."""
    return Dataset(
        name=name,
        digest=digest(contents),
        images_digest=digest(images.fingerprints),
        image_keys=images.keys,
        read_images=images.read,
        languages=tuple(tasks),
        tasks=tasks.__getitem__,
        **fields,
    )


def classification_dataset(
    name: str,
    folder: Path,
    images: Images,
    names: Mapping[str, Names],
    classes: Sequence[Sequence[int]] | np.ndarray,
    contents: Sequence[Any],
    *,
    protocol: Json,
    other_protocol: Json | None = None,
    slices: dict[str, np.ndarray] | None = None,
    use_f1: bool = False,
    **fields: Any,
) -> Dataset:
    """Return a dataset that asks for the class of each image, in every language of `names`.

    classes: the class of each image (n,), or the list of classes that are right for it, at least one; images after
    these n are not asked about (a train split).  protocol: added in the record to the number of templates, in
    English and, unless `other_protocol` is given, in the other languages.  slices, use_f1: see Classification.
    fields: see build_dataset.
    """
    if isinstance(classes, np.ndarray):
        target = classes
        also_right = NO_PAIRS
    else:
        first: list[int] = []
        further: list[tuple[int, int]] = []
        for i, right in enumerate(classes):
            first.append(right[0])
            further += [(i, c) for c in right[1:]]
        target = np.array(first)
        further_images, further_classes = np.array(further, np.int64).reshape(-1, 2).T
        also_right = (further_images, further_classes)
    tasks = {}
    for lang, (class_names, templates) in names.items():
        names_protocol = protocol
        if lang != "en" and other_protocol:
            names_protocol = other_protocol
        task = Classification(
            class_names=class_names,
            templates=templates,
            target=target,
            image_idx=np.arange(len(target)),
            also_right=also_right,
            slices=slices or {},
            use_f1=use_f1,
            protocol={"templates": len(templates), **names_protocol},
        )
        tasks[lang] = [task]
    # the names themselves: those of ImageNet come from a package, which may be replaced
    contents = [images.fingerprints, text_fingerprints(folder), names, *contents]
    return build_dataset(name, images, tasks, contents, **fields)


def text_fingerprints(folder: Path) -> list[Json]:
    """Return the fingerprints of the text files directly in a folder: class names, templates, other languages."""
    return fingerprints(sorted(path for path in folder.iterdir() if path.suffix in (".txt", ".json")))


def retrieval_dataset(
    name: str,
    images: Images,
    captions: Mapping[str, Sequence[Caption]],
    contents: Any,
    is_train: np.ndarray | None = None,
    **fields: Any,
) -> Dataset:
    """Return a dataset that asks which image belongs to a caption and which caption to an image, per language.

    Each caption of an image counts and is a query.  captions: by language, those of an image one after the other.
    """
    if not any(captions.values()):
        raise ValueError("there is no caption")
    num_images = len(images.keys)
    if is_train is not None:
        num_images -= int(is_train.sum())
    tasks = {}
    for lang, pairs in captions.items():
        images_of_texts: list[int] = []
        texts: list[str] = []
        for image, text in pairs:
            images_of_texts.append(image)
            texts.append(text)
        task = Retrieval(
            texts=texts,
            pair_image=np.array(images_of_texts),
            pair_text=np.arange(len(texts)),
            image_idx=np.arange(num_images),
            protocol={"captions": "all_captions"},
        )
        tasks[lang] = [task]
    return build_dataset(name, images, tasks, contents, is_train=is_train, **fields)


def slices_by(values: Sequence[str] | np.ndarray, prefix: str) -> dict[str, np.ndarray]:
    """Return the rows of each value as a bool mask, in the order of the values: slices of a task."""
    array = np.array(values)
    return {f"{prefix}{value}": array == value for value in np.unique(array)}
