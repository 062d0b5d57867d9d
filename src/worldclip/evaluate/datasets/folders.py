"""Any folder of class folders: FOLDER[/test|/val]/<class>/<image>, as torchvision's ImageFolder reads.

Classes are the folders in sorted order and are called by them, `_` as a blank.  Where all folders are WordNet ids
(n01440764: ImageNet, its A, R, O and Sketch), or the 1,000 numbers of ImageNet-V2, names and templates are OpenAI's.
FOLDER/classnames.txt may give the names, one a line; FOLDER/templates.txt the templates; other languages come from
languages.json, see class_names.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.class_names import (
    NUM_IMAGENET_CLASSES,
    Names,
    check_templates,
    imagenet_index,
    imagenet_names,
    name_files,
    other_languages,
)
from worldclip.evaluate.datasets.files import IMAGE_SUFFIXES, file_reader, read_lines
from worldclip.evaluate.tasks import Classification, Dataset

SPLITS = ("test", "val")
TEMPLATES = ["a photo of a {}."]
_WORDNET_ID = re.compile(r"^n\d{8}$")


def load(name: str, folder: Path, *, names_path: Path | None = None) -> Dataset:
    """The data set in `folder`.  UserError where there are no class folders, an empty one, or names that do not fit."""
    root = next((folder / split for split in SPLITS if (folder / split).is_dir()), folder)
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    if len(classes) < 2:
        raise UserError(f"{root} has {len(classes)} folders; there must be one for each class, at least 2")
    images = {
        of_class: sorted(path for path in (root / of_class).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        for of_class in classes
    }
    if empty := [of_class for of_class, paths in images.items() if not paths]:
        raise UserError(f"{root / empty[0]} holds no image; remove the folder, or put the class's images there")
    names, kind = _names(folder, classes)
    more_names = name_files(folder, names_path)
    by_language = {"en": names} | other_languages(more_names, len(classes))
    paths = [path for of_class in classes for path in images[of_class]]
    target = np.repeat(np.arange(len(classes)), [len(images[of_class]) for of_class in classes])

    def tasks(lang: str) -> list[Classification]:
        class_names, templates = by_language[lang]
        return [
            Classification(
                class_names=class_names,
                templates=templates,
                target=target,
                image_idx=np.arange(len(paths)),
                protocol={"templates": len(templates), "names": kind if lang == "en" else "given"},
            )
        ]

    files = [fingerprint(path, folder) for path in paths]
    texts = [fingerprint(path, path.parent) for path in [*sorted(folder.glob("*.txt")), *more_names]]
    return Dataset(
        name=name,
        digest=digest([files, texts]),
        images_digest=digest(files),
        image_keys=[path.relative_to(root).as_posix() for path in paths],
        read_images=file_reader(paths),
        languages=tuple(by_language),
        tasks=tasks,
        labels={"class": [classes[c] for c in target.tolist()]},
    )


def _names(folder: Path, classes: list[str]) -> tuple[Names, str]:
    """English names and templates, and where they come from: given | imagenet | folders."""
    if (folder / "classnames.txt").exists():
        names = read_lines(folder / "classnames.txt", "the names of the classes, one a line")
        if len(names) != len(classes):
            raise UserError(f"{folder / 'classnames.txt'} has {len(names)} names, and there are {len(classes)} folders")
        return ([[name] for name in names], _templates(folder, TEMPLATES)), "given"
    numbers = {str(number) for number in range(NUM_IMAGENET_CLASSES)}
    if all(_WORDNET_ID.match(of_class) for of_class in classes) or set(classes) == numbers:
        openai, templates = imagenet_names()
        index = {number: int(number) for number in numbers} if set(classes) == numbers else imagenet_index()
        if unknown := [of_class for of_class in classes if of_class not in index]:
            raise UserError(f"{folder}: {unknown[0]} is no class of ImageNet-1k; give names in classnames.txt")
        return ([openai[index[of_class]] for of_class in classes], _templates(folder, templates)), "imagenet"
    return ([[of_class.replace("_", " ")] for of_class in classes], _templates(folder, TEMPLATES)), "folders"


def _templates(folder: Path, default: list[str]) -> list[str]:
    path = folder / "templates.txt"
    if not path.exists():
        return default
    templates = [line for line in read_lines(path, "the templates, one a line") if line.strip()]
    check_templates(templates, path)
    return templates
