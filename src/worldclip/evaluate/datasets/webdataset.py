"""Datasets in CLIP_benchmark's WebDataset layout, which covers SLIP's and DataComp's suites.

FOLDER/classnames.txt                          one class per line, in the order of the labels
FOLDER/zeroshot_classification_templates.txt   one per line, {c} or {} stands for the class
FOLDER/dataset_type.txt                        `retrieval` where samples have captions (.txt, one per line),
                                               `multilabel` where .npy says which classes are in the image
FOLDER/test/nshards.txt, FOLDER/test/<i>.tar   images with .cls (a class index), .txt or .npy
FOLDER/train/                                  the same; read only for linear probes
FOLDER/languages.json                          ours, optional: names in more languages,
                                               {LANG: {"classes": [...], "templates": [...]}}

DataComp's copies of WILDS, Dollar Street and GeoDE carry group numbers in a .npy next to .cls; datasets.csv names its
fields, and each group is a part that is reported.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from worldclip.core.errors import UserError
from worldclip.evaluate.catalog import CATALOG, DatasetInfo
from worldclip.evaluate.datasets.common import class_names
from worldclip.evaluate.datasets.common.build import (
    build_dataset,
    classification_dataset,
    retrieval_dataset,
    text_fingerprints,
)
from worldclip.evaluate.datasets.common.images import Sample, images_in_tars, read_samples
from worldclip.evaluate.datasets.common.text_files import class_index, lines_of, read_lines
from worldclip.evaluate.tasks import Dataset, MultiLabel

SPLIT = "test"
TRAIN_SPLIT = "train"
KINDS = ("classification", "retrieval", "multilabel")


def load(name: str, folder: Path, *, with_train: bool = False) -> Dataset:
    """Return the dataset in `folder`.  with_train: read the train split too, for probes."""
    tars = _list_tars(folder, SPLIT)
    test = read_samples(tars)
    train: list[Sample] = []
    if with_train and (folder / TRAIN_SPLIT).is_dir():
        train_tars = _list_tars(folder, TRAIN_SPLIT)
        train = read_samples(train_tars)
        tars += train_tars
    if not test:
        raise ValueError(f"{folder / SPLIT}: its tars hold no image")
    samples = [*test, *train]
    keys = (f"{sample.tar.parent.name}/{sample.tar.stem}/{sample.key}" for sample in samples)
    images = images_in_tars(samples, keys, tars, folder)
    is_train = np.arange(len(samples)) >= len(test) if train else None
    contents = [images.fingerprints, text_fingerprints(folder)]
    kind = KINDS[0]
    kind_path = folder / "dataset_type.txt"
    if kind_path.exists():
        kind = read_lines(kind_path)[0].strip()
    if kind not in KINDS:
        raise UserError(f"{kind_path} says {kind!r}; it must be one of {', '.join(KINDS)}")
    if kind == "retrieval":
        captions = []
        for i, sample in enumerate(test):
            captions += [(i, line) for line in lines_of(sample.members["txt"].decode()) if line.strip()]
        return retrieval_dataset(name, images, {"en": captions}, contents, is_train=is_train)
    info = CATALOG.get(name, DatasetInfo(name=name))
    if info.classes == "imagenet":  # OpenAI's names, whatever the folder says
        english = class_names.imagenet_names()
    else:
        templates = folder / "zeroshot_classification_templates.txt"
        english = class_names.Names(
            class_names.read_class_list(folder / "classnames.txt"), class_names.read_templates(templates)
        )
    names = class_names.in_languages(english, folder)
    num_classes = len(english.classes)
    if kind == "multilabel":
        rows = _read_arrays(test, num_classes)
        if not np.isin(rows, (0, 1)).all():
            raise ValueError(f"{folder / SPLIT}: each .npy must hold 0 or 1 for each class")
        return build_dataset(name, images, _multilabel_tasks(names, rows), contents, is_train=is_train)
    target = np.empty(len(samples), np.int64)
    for i, sample in enumerate(samples):
        target[i] = class_index(sample.members["cls"].decode(), num_classes, str(folder))
    return classification_dataset(
        name,
        folder,
        images,
        names,
        target[: len(test)],
        [],
        protocol={"names": info.classes},
        other_protocol={"names": "given"},
        slices=_groups(info, test),
        use_f1="f1_macro" in info.metrics,
        labels={"class": target.astype(str).tolist()},
        is_train=is_train,
    )


def _list_tars(folder: Path, split: str) -> list[Path]:
    """Return the tars of a split.  Raises UserError if they are not those that nshards.txt says."""
    path = folder / split / "nshards.txt"
    number = int(read_lines(path)[0])
    present = set((folder / split).glob("*.tar"))
    tars = [folder / split / f"{i}.tar" for i in range(len(present))]
    if number != len(present) or set(tars) != present:
        raise UserError(f"{path} says {number} tars, 0.tar and so on; {folder / split} has {len(present)}")
    return tars


def _multilabel_tasks(names: Mapping[str, class_names.Names], rows: np.ndarray) -> dict[str, list[MultiLabel]]:
    """Return the tasks by language.  rows: (n, C) 1 for each class in the image, else 0."""
    tasks = {}
    for lang, (classes, templates) in names.items():
        task = MultiLabel(
            class_names=classes,
            templates=templates,
            is_there=rows.astype(bool),
            image_idx=np.arange(len(rows)),
            protocol={"templates": len(templates)},
        )
        tasks[lang] = [task]
    return tasks


def _groups(info: DatasetInfo, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Return the images of each group `<field> <number>` as a mask, for the fields that the catalog reports."""
    if not info.fields:
        return {}
    rows = _read_arrays(samples, len(info.fields))
    masks: dict[str, np.ndarray] = {}
    for part in info.parts:
        field, _, left_out = part.partition("!")
        column = rows[:, info.fields.index(field)]
        for group in np.unique(column):
            if str(group) != left_out:
                masks[f"{field} {group}"] = column == group
    return masks


def _read_arrays(samples: Sequence[Sample], size: int) -> np.ndarray:
    """Return (n, size) the array in each sample's .npy."""
    rows = [np.lib.format.read_array(io.BytesIO(sample.members["npy"]), allow_pickle=False) for sample in samples]
    return np.stack(rows).reshape(len(samples), size)
