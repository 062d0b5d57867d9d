"""Any folder of class folders: FOLDER[/test|/val]/<class>/<image>, as torchvision's ImageFolder reads.

Classes are the folders in sorted order and have their names, `_` as a blank.  Where all folders are WordNet ids
(n01440764: ImageNet, its A, R, O and Sketch), or the 1,000 numbers of ImageNet-V2, names and templates are OpenAI's.
FOLDER/classnames.txt may give the names, one per line; FOLDER/templates.txt the templates; other languages come from
languages.json: {LANG: {"classes": [...], "templates": [...]}}.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.image_names import by_suffix, readable_suffixes
from worldclip.evaluate.datasets.common import class_names
from worldclip.evaluate.datasets.common.build import classification_dataset
from worldclip.evaluate.datasets.common.images import images_at
from worldclip.evaluate.tasks import Dataset

SPLITS = ("test", "val")
_WORDNET_ID = re.compile(r"n\d{8}")


def load(name: str, folder: Path) -> Dataset:
    root = next((folder / split for split in SPLITS if (folder / split).is_dir()), folder)
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    if len(classes) < 2:
        raise UserError(f"{root} has {len(classes)} folders; it must have one per class, at least 2")
    suffixes = readable_suffixes()
    paths: list[str] = []
    labels: list[str] = []
    empty: list[Path] = []
    left_out: list[str] = []
    for label in classes:
        pictures = []
        for path in sorted((root / label).rglob("*")):
            if path.suffix.lower() in suffixes and path.is_file():
                pictures.append(path.relative_to(root).as_posix())
            elif not path.name.startswith(".") and path.is_file():
                left_out.append(str(path))
        if not pictures:
            empty.append(root / label)
        paths += pictures
        labels += [label] * len(pictures)
    if left_out:
        say("evaluate", f"dataset {name}: {root}: left out {by_suffix(left_out)}")
    if empty:
        raise UserError(f"{empty[0]} holds no image; add the images of this class or remove the folder")
    images = images_at(folder, root, paths, root)
    english, names_from = _names(folder, classes)
    return classification_dataset(
        name,
        folder,
        images,
        class_names.in_languages(english, folder),
        np.searchsorted(classes, labels),
        [],
        protocol={"names": names_from},
        other_protocol={"names": "given"},
        labels={"class": labels},
    )


def _names(folder: Path, classes: list[str]) -> tuple[class_names.Names, str]:
    """Return English names and templates, and where the names come from: given | imagenet | folders."""
    names_path = folder / "classnames.txt"
    templates = class_names.PLAIN_TEMPLATE
    numbers = {str(number): number for number in range(class_names.NUM_IMAGENET_CLASSES)}
    are_numbers = set(classes) == numbers.keys()
    if names_path.exists():
        names = class_names.read_class_list(names_path)
        names_from = "given"
        if len(names) != len(classes):
            raise UserError(f"{names_path} has {len(names)} names; there are {len(classes)} folders")
    elif are_numbers or all(map(_WORDNET_ID.fullmatch, classes)):
        index = numbers if are_numbers else class_names.imagenet_index()
        openai, templates = class_names.imagenet_names()
        names = []
        for label in classes:
            if label not in index:
                raise UserError(f"{folder}: {label} is no class of ImageNet-1k; give names in classnames.txt")
            names.append(openai[index[label]])
        names_from = "imagenet"
    else:
        names = [[label.replace("_", " ")] for label in classes]
        names_from = "folders"
    if (folder / "templates.txt").exists():
        templates = class_names.read_templates(folder / "templates.txt")
    return class_names.Names(names, templates), names_from
