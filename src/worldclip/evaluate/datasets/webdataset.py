"""Data sets in CLIP_benchmark's WebDataset layout, which covers SLIP's and DataComp's suites.

FOLDER/classnames.txt                          one class a line, in the order of the labels
FOLDER/zeroshot_classification_templates.txt   one a line, {c} or {} stands for the class
FOLDER/dataset_type.txt                        `retrieval` where samples have captions (.txt, one a line), `multilabel`
                                               where .npy says of each class whether it is there
FOLDER/test/nshards.txt, FOLDER/test/<i>.tar   images with .cls (a class index), .txt or .npy
FOLDER/train/                                  the same; read only for linear probes
FOLDER/languages.json                          ours, optional: names in more languages, see class_names

DataComp's copies of WILDS, Dollar Street and GeoDE carry group numbers in a .npy beside .cls; catalog.py names its
fields, and each group is a part that is reported.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.catalog import CATALOG, DatasetInfo
from worldclip.evaluate.datasets.class_names import (
    NUM_IMAGENET_CLASSES,
    Names,
    check_templates,
    imagenet_names,
    name_files,
    other_languages,
)
from worldclip.evaluate.datasets.files import Sample, read_lines, read_samples, reader, utf8
from worldclip.evaluate.multilabel import MultiLabel
from worldclip.evaluate.retrieval import first_captions
from worldclip.evaluate.tasks import Classification, Dataset, Retrieval, Task

SPLIT, TRAIN_SPLIT = "test", "train"
KINDS = ("classification", "retrieval", "multilabel")


def load(
    name: str,
    folder: Path,
    *,
    names_path: Path | None = None,
    captions: str = "all_captions",
    with_train: bool = False,
) -> Dataset:
    """The data set in `folder`.  UserError for each way in which the layout is wrong.

    names_path: a JSON of class_names beside languages.json.  captions: which captions of an image count in retrieval.
    with_train: read the train split too, for probes.
    """
    tars = _tars(folder, SPLIT)
    train_tars = _tars(folder, TRAIN_SPLIT) if with_train and (folder / TRAIN_SPLIT).is_dir() else []
    test, train = read_samples(tars), read_samples(train_tars)
    for split, samples, read in ((SPLIT, test, True), (TRAIN_SPLIT, train, bool(train_tars))):
        if read and not samples:
            raise UserError(f"{folder / split}: its tars hold no image")
    more_names = name_files(folder, names_path)
    kind = _kind(folder)
    info = CATALOG.get(name, DatasetInfo(name=name))
    labels: dict[str, Sequence[str]] = {}
    by_language: dict[str, list[Task]]
    if kind == "retrieval":
        if names_path is not None:
            raise UserError(f"evaluate.class_names.{name} is given, but {folder} is for retrieval and has no classes")
        by_language = {"en": [_retrieval(folder, test, captions)]}
    else:
        names = _names(folder, info, more_names)
        if kind == "multilabel":
            by_language = _multilabels(names, test)
        else:
            num_classes = len(names["en"][0])
            targets = np.array([_label(sample, num_classes) for sample in [*test, *train]])
            by_language = _classifications(names, targets[: len(test)], info, _groups(info, test))
            labels = {"class": [str(target) for target in targets]}
    texts = sorted(path for path in folder.iterdir() if path.suffix in (".txt", ".json"))
    images = [fingerprint(path, folder) for path in [*tars, *train_tars]]
    contents = [images, [fingerprint(path, path.parent) for path in sorted({*texts, *more_names})], captions]
    keys = [f"{sample.tar.parent.name}/{sample.tar.stem}/{sample.key}" for sample in [*test, *train]]
    return Dataset(
        name=name,
        digest=digest(contents),
        images_digest=digest(images),
        image_keys=keys,
        read_images=reader([*test, *train]),
        languages=tuple(by_language),
        tasks=by_language.__getitem__,
        labels=labels,
        is_train=np.arange(len(keys)) >= len(test) if train else None,
    )


def _kind(folder: Path) -> str:
    path = folder / "dataset_type.txt"
    kind = read_lines(path, "the kind of the data set")[0].strip() if path.exists() else KINDS[0]
    if kind not in KINDS:
        raise UserError(f"{path} says {kind!r}; it must be one of {', '.join(KINDS)}")
    return kind


def _tars(folder: Path, split: str) -> list[Path]:
    path = folder / split / "nshards.txt"
    lines = read_lines(path, "the number of tars of the split")
    if not lines[0].strip().isdigit() or int(lines[0]) < 1:
        raise UserError(f"{path} says {lines[0]!r}; it must be the number of tars, at least 1")
    tars = [folder / split / f"{i}.tar" for i in range(int(lines[0]))]
    if missing := [tar.name for tar in tars if not tar.exists()]:
        raise UserError(f"{path} says {len(tars)} tars, and {', '.join(missing[:5])} of {folder / split} are missing")
    if more := sorted({tar.name for tar in (folder / split).glob("*.tar")} - {tar.name for tar in tars}):
        raise UserError(f"{path} says {len(tars)} tars, and {folder / split} holds {', '.join(more[:5])} besides")
    return tars


def _names(folder: Path, info: DatasetInfo, more_names: Sequence[Path]) -> dict[str, Names]:
    """Names and templates by language; those of ImageNet's 1,000 classes are OpenAI's whatever the folder says."""
    if info.classes == "imagenet":
        english = imagenet_names()
    else:
        classes = read_lines(folder / "classnames.txt", "the names of the classes, one a line")
        path = folder / "zeroshot_classification_templates.txt"
        lines = [line.replace("{c}", "{}") for line in read_lines(path, "the templates, one a line") if line.strip()]
        check_templates(lines, path)
        english = [[name] for name in classes], lines
    num_classes = NUM_IMAGENET_CLASSES if info.classes == "imagenet" else len(english[0])
    return {"en": english} | other_languages(more_names, num_classes)


def _classifications(
    names: dict[str, Names], target: np.ndarray, info: DatasetInfo, groups: dict[str, np.ndarray]
) -> dict[str, list[Task]]:
    return {
        lang: [
            Classification(
                class_names=classes,
                templates=templates,
                target=target,
                image_idx=np.arange(len(target)),
                slices=groups,
                use_f1="f1_macro" in info.metrics,
                protocol={"templates": len(templates), "names": info.classes if lang == "en" else "given"},
            )
        ]
        for lang, (classes, templates) in names.items()
    }


def _multilabels(names: dict[str, Names], samples: Sequence[Sample]) -> dict[str, list[Task]]:
    num_classes = len(names["en"][0])
    rows = [_array(sample, "whether each class is there") for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        if row.shape != (num_classes,) or not np.isin(row, (0, 1)).all():
            raise UserError(
                f"{sample.tar}: {sample.key}.npy holds {row.shape} of {row.dtype}; it must be {num_classes} of 0 and 1"
            )
    return {
        lang: [
            MultiLabel(
                class_names=classes,
                templates=templates,
                is_there=np.stack(rows).astype(bool),
                image_idx=np.arange(len(samples)),
                protocol={"templates": len(templates)},
            )
        ]
        for lang, (classes, templates) in names.items()
    }


def _groups(info: DatasetInfo, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """`<field> <number>` -> its images, of the fields that the catalog names."""
    if not info.fields:
        return {}
    rows = [_array(sample, f"the groups {', '.join(info.fields)}") for sample in samples]
    if wrong := [i for i, row in enumerate(rows) if row.shape != (len(info.fields),)]:
        sample = samples[wrong[0]]
        raise UserError(
            f"{sample.tar}: {sample.key}.npy holds {rows[wrong[0]].shape}; it must be one number for each of "
            f"{', '.join(info.fields)}"
        )
    table = np.stack(rows)
    found: dict[str, np.ndarray] = {}
    for part in info.parts:
        field, _, left_out = part.partition("!")
        column = table[:, info.fields.index(field)]
        found |= {f"{field} {group}": column == group for group in np.unique(column) if str(group) != left_out}
    return found


def _array(sample: Sample, what: str) -> np.ndarray:
    where = f"{sample.tar}: {sample.key}"
    if "npy" not in sample.others:
        raise UserError(f"{where} has no .npy; it holds {what}")
    try:
        array: np.ndarray = np.load(io.BytesIO(sample.others["npy"]), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{where}.npy is no array ({error}); it holds {what}") from error
    return array


def _label(sample: Sample, num_classes: int) -> int:
    where = f"{sample.tar}: {sample.key}"
    if "cls" not in sample.others:
        raise UserError(
            f"{where} has no .cls; it holds the image's class index, unless dataset_type.txt says another kind"
        )
    text = sample.others["cls"].decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) >= num_classes:
        raise UserError(
            f"{where}.cls says {text!r}; it must be a class index, 0 to {num_classes - 1}, as there are {num_classes} "
            "names of classes"
        )
    return int(text)


def _retrieval(folder: Path, samples: Sequence[Sample], captions: str) -> Retrieval:
    texts: list[str] = []
    pair_image: list[int] = []
    for i, sample in enumerate(samples):
        if "txt" not in sample.others:
            raise UserError(f"{sample.tar}: {sample.key} has no .txt; it holds the image's captions, one a line")
        text = utf8(sample.others["txt"], f"{sample.tar}: {sample.key}.txt")
        lines = [line for line in text.split("\n") if line.strip()]
        texts += lines
        pair_image += [i] * len(lines)
    if not texts:
        raise UserError(f"{folder / SPLIT}: not one caption in its tars")
    return retrieval_task(texts, np.array(pair_image), len(samples), captions)


def retrieval_task(texts: Sequence[str], image_of_text: np.ndarray, num_images: int, captions: str) -> Retrieval:
    """Each text belongs to one image; captions: all_captions, or first_caption of each image alone."""
    if captions == "first_caption":
        first = first_captions(image_of_text)
        image_of_text, texts = image_of_text[first], [texts[i] for i in first]
    return Retrieval(
        texts=texts,
        pair_image=image_of_text,
        pair_text=np.arange(len(texts)),
        image_idx=np.arange(num_images),
        protocol={"captions": captions},
    )
