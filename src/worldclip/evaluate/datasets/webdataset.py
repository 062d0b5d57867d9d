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
from typing import Any

import numpy as np

from worldclip.core.errors import UserError
from worldclip.evaluate.catalog import CATALOG, DatasetInfo
from worldclip.evaluate.datasets.common import class_names
from worldclip.evaluate.datasets.common.build import Caption, build_dataset, classification_dataset, retrieval_dataset
from worldclip.evaluate.datasets.common.images import Sample, fingerprints, images_in_tars, read_samples
from worldclip.evaluate.datasets.common.text_files import decode, parse_index, read_lines
from worldclip.evaluate.tasks import Dataset, MultiLabel

SPLIT = "test"
TRAIN_SPLIT = "train"
KINDS = ("classification", "retrieval", "multilabel")


def load(
    name: str, folder: Path, *, names_path: Path | None = None, captions: str = "all_captions", with_train: bool = False
) -> Dataset:
    """Return the dataset in `folder`.

    names_path: see class_names.  captions: which captions of an image count in retrieval.  with_train: read the train
    split too, for probes.
    """
    tars = _list_tars(folder, SPLIT)
    test = _read_split(folder / SPLIT, tars)
    train: list[Sample] = []
    if with_train and (folder / TRAIN_SPLIT).is_dir():
        train_tars = _list_tars(folder, TRAIN_SPLIT)
        train = _read_split(folder / TRAIN_SPLIT, train_tars)
        tars += train_tars
    samples = [*test, *train]
    keys = (f"{sample.tar.parent.name}/{sample.tar.stem}/{sample.key}" for sample in samples)
    images = images_in_tars(samples, keys, tars, folder)
    is_train = np.arange(len(samples)) >= len(test) if train else None
    kind = _read_kind(folder)
    if kind == "retrieval":
        if names_path is not None:
            raise UserError(f"evaluate.class_names.{name}: {folder} is for retrieval and has no classes; remove it")
        contents = [images.fingerprints, _text_fingerprints(folder), captions]
        return retrieval_dataset(name, images, {"en": _captions(folder, test)}, captions, contents, is_train=is_train)
    info = CATALOG.get(name, DatasetInfo(name=name))
    if info.classes == "imagenet":  # OpenAI's names, whatever the folder says
        english = class_names.imagenet_names()
    else:
        templates = folder / "zeroshot_classification_templates.txt"
        english = class_names.Names(
            class_names.read_class_list(folder / "classnames.txt"), class_names.read_templates(templates)
        )
    names, files = class_names.in_languages(english, folder, names_path)
    contents = [images.fingerprints, _text_fingerprints(folder, *files), captions]
    num_classes = len(names["en"].classes)
    if kind == "multilabel":
        rows = _read_arrays(test, num_classes, f"{num_classes} of 0 and 1, one per class", is_binary=True)
        return build_dataset(name, images, _multilabel_tasks(names, rows), contents, is_train=is_train)
    target = np.array([_label(sample, num_classes) for sample in samples])
    return classification_dataset(
        name,
        images,
        names,
        target[: len(test)],
        contents,
        protocol={"names": info.classes},
        other_protocol={"names": "given"},
        slices=_groups(info, test),
        use_f1="f1_macro" in info.metrics,
        labels={"class": [str(label) for label in target]},
        is_train=is_train,
    )


def _text_fingerprints(folder: Path, *files: Path) -> list[Any]:
    """Return the fingerprints of the folder's text files and of further ones, in a fixed order."""
    return fingerprints(sorted({path for path in folder.iterdir() if path.suffix in (".txt", ".json")}.union(files)))


def _list_tars(folder: Path, split: str) -> list[Path]:
    """Return the tars of a split.  Raises UserError if they are not those that nshards.txt says."""
    path = folder / split / "nshards.txt"
    text = read_lines(path, "the number of tars of the split")[0]
    if not text.strip().isdecimal() or int(text) < 1:
        raise UserError(f"{path} says {text!r}; it must be the number of tars, at least 1")
    tars = [folder / split / f"{i}.tar" for i in range(int(text))]
    if missing := [tar.name for tar in tars if not tar.exists()]:
        raise UserError(f"{path} says {len(tars)} tars; {', '.join(missing[:5])} are missing from {folder / split}")
    if extra := sorted({tar.name for tar in (folder / split).glob("*.tar")} - {tar.name for tar in tars}):
        raise UserError(f"{path} says {len(tars)} tars; {folder / split} also holds {', '.join(extra[:5])}")
    return tars


def _read_split(folder: Path, tars: Sequence[Path]) -> list[Sample]:
    samples = read_samples(tars)
    if not samples:
        raise UserError(f"{folder}: its tars hold no image")
    return samples


def _read_kind(folder: Path) -> str:
    path = folder / "dataset_type.txt"
    if not path.exists():
        return KINDS[0]
    kind = read_lines(path, "the kind of the dataset")[0].strip()
    if kind not in KINDS:
        raise UserError(f"{path} says {kind!r}; it must be one of {', '.join(KINDS)}")
    return kind


def _multilabel_tasks(names: Mapping[str, class_names.Names], rows: np.ndarray) -> dict[str, list[MultiLabel]]:
    """Return the tasks by language.  rows: (n, C) 1 for each class in the image, else 0."""
    return {
        lang: [
            MultiLabel(
                class_names=classes,
                templates=templates,
                is_there=rows.astype(bool),
                image_idx=np.arange(len(rows)),
                protocol={"templates": len(templates)},
            )
        ]
        for lang, (classes, templates) in names.items()
    }


def _groups(info: DatasetInfo, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Return the images of each group `<field> <number>` as a mask, for the fields that the catalog reports."""
    if not info.fields:
        return {}
    rows = _read_arrays(samples, len(info.fields), f"one number for each of {', '.join(info.fields)}")
    masks: dict[str, np.ndarray] = {}
    for part in info.parts:
        field, _, left_out = part.partition("!")
        column = rows[:, info.fields.index(field)]
        masks |= {f"{field} {group}": column == group for group in np.unique(column) if str(group) != left_out}
    return masks


def _read_arrays(samples: Sequence[Sample], size: int, what: str, is_binary: bool = False) -> np.ndarray:
    """Return (n, size) the array in each sample's .npy.  what: what it must hold; is_binary: only 0 and 1."""
    rows = []
    for sample in samples:
        if "npy" not in sample.others:
            raise UserError(f"{sample.where} has no .npy; it must hold {what}")
        try:
            row = np.lib.format.read_array(io.BytesIO(sample.others["npy"]), allow_pickle=False)
        except ValueError as error:
            raise UserError(f"{sample.where}.npy is not an array ({error}); it must hold {what}") from error
        if row.shape != (size,) or (is_binary and not np.isin(row, (0, 1)).all()):
            raise UserError(f"{sample.where}.npy holds {row.shape} of {row.dtype}; it must be {what}")
        rows.append(row)
    return np.stack(rows)


def _label(sample: Sample, num_classes: int) -> int:
    if "cls" not in sample.others:
        raise UserError(f"{sample.where} has no .cls; add the image's class index (or state the kind of the dataset in"
                        " dataset_type.txt)")  # fmt: skip
    return parse_index(sample.others["cls"].decode("ascii", "replace"), num_classes, f"{sample.where}.cls")


def _captions(folder: Path, samples: Sequence[Sample]) -> list[Caption]:
    captions: list[Caption] = []
    for i, sample in enumerate(samples):
        if "txt" not in sample.others:
            raise UserError(f"{sample.where} has no .txt; it must hold the image's captions, one per line")
        text = decode(sample.others["txt"], f"{sample.where}.txt")
        captions += [(i, line) for line in text.split("\n") if line.strip()]
    if not captions:
        raise UserError(f"{folder / SPLIT}: its tars hold no caption")
    return captions
