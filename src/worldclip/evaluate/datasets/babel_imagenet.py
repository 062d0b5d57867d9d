"""Babel-ImageNet: ImageNet's classes in up to 298 languages, each with the classes that it has names for.

    FOLDER/babel_imagenet*.json           {CODE: [[class index, ...], [label, ...]]}; the largest file
    FOLDER/nllb_dist13b_prompts.json      {CODE: [template, ...]}, for prompts = "nllb"
    FOLDER/images/*.tar                   ImageNet images with .cls, or .json that has `class_index`

An image is asked in a language only if its class has a label there.  Prompts `none`: only the label; `english`:
OpenAI's 80 templates around it; `nllb`: their translations, for the languages that have them.  The record says which,
as the paper does not say which its averages over 280 languages use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from worldclip.core.artifacts import fingerprint
from worldclip.evaluate.datasets.common.build import build_dataset
from worldclip.evaluate.datasets.common.class_names import NUM_IMAGENET_CLASSES, imagenet_names, with_places
from worldclip.evaluate.datasets.common.images import images_in_tars, read_samples
from worldclip.evaluate.datasets.common.text_files import class_index, parse_json, read_json
from worldclip.evaluate.ranking import Ties
from worldclip.evaluate.tasks import Classification, Dataset

Prompts = Literal["none", "english", "nllb"]


def load(
    name: str,
    folder: Path,
    prompts: Prompts = "none",
    tars: Sequence[Path] | None = None,
    ties: Ties = "against",
) -> Dataset:
    """Return the dataset in `folder`.

    tars: the images, if they are elsewhere.  ties: `first` keeps classes of equal labels apart, see _task.  Languages
    are the Wikipedia codes of the file in lower case, unmerged: zh_yue has labels of its own.
    """
    labels_path = max(folder.glob("babel_imagenet*.json"), key=lambda path: path.stat().st_size)
    if tars is None:
        tars = sorted((folder / "images").glob("*.tar"))
    samples = read_samples(tars)
    class_of_image = np.zeros(len(samples), np.int64)
    for i, sample in enumerate(samples):
        if "cls" in sample.members:
            index = sample.members["cls"]
        else:
            index = parse_json(sample.members["json"], f"{sample.where}.json")["class_index"]
        class_of_image[i] = class_index(index, NUM_IMAGENET_CLASSES, sample.where)
    labels = {}
    for code, (indices, names) in read_json(labels_path).items():
        where = f"{labels_path}: {code}"
        classes = [class_index(index, NUM_IMAGENET_CLASSES, where) for index in indices]
        if len(set(classes)) != len(names):
            raise ValueError(f"{where} must have one label for each class that it names")
        labels[code.lower()] = np.array(classes, np.int64), names
    templates: dict[str, list[str]] = {}
    if prompts == "nllb":
        path = folder / "nllb_dist13b_prompts.json"
        templates = {code.lower(): with_places(texts, path) for code, texts in read_json(path).items()}
    else:
        templates = dict.fromkeys(labels, ["{}"] if prompts == "none" else imagenet_names().templates)
    tasks = {}
    for lang, (classes_of_lang, names) in labels.items():
        if lang in templates and np.isin(class_of_image, classes_of_lang).any():
            tasks[lang] = [_task(classes_of_lang, names, class_of_image, templates[lang], prompts, ties)]
    if not tasks:
        raise ValueError(f"{labels_path}: no language has both a label of an image's class and prompts {prompts!r}")
    images = images_in_tars(samples, (sample.key for sample in samples), tars, root=None)
    contents = [fingerprint(labels_path, labels_path.parent), images.fingerprints, prompts, templates, ties]
    return build_dataset(name, images, tasks, contents)


def _task(
    indices: np.ndarray,
    labels: list[str],
    class_of_image: np.ndarray,
    templates: list[str],
    prompts: Prompts,
    ties: Ties,
) -> Classification:
    """Return the classification among one language's labels; the record says what became of equal ones.

    They are one class, as no model can tell them apart.  Under `first` they stay apart, as in the paper, whose argmax
    takes the first: images of the others are never right.
    """
    names, class_of_label = np.unique(np.array(labels, dtype=object), return_inverse=True)
    equal_labels = "one class"
    if ties == "first":
        names = np.array(labels, dtype=object)
        class_of_label = np.arange(len(labels))
        equal_labels = "apart"
    class_of_index = np.full(NUM_IMAGENET_CLASSES, -1)
    class_of_index[indices] = class_of_label
    image_idx = np.flatnonzero(class_of_index[class_of_image] >= 0)
    return Classification(
        class_names=names[:, None].tolist(),
        templates=templates,
        target=class_of_index[class_of_image[image_idx]],
        image_idx=image_idx,
        protocol={"prompts": prompts, "templates": len(templates), "equal_labels": equal_labels},
    )
