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
from typing import Any, Literal

import numpy as np

from worldclip.core.artifacts import fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common.build import build_dataset
from worldclip.evaluate.datasets.common.class_names import NUM_IMAGENET_CLASSES, imagenet_names, with_places
from worldclip.evaluate.datasets.common.images import Sample, images_in_tars, read_samples
from worldclip.evaluate.datasets.common.text_files import is_texts, parse_index, parse_record, read_json_object
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
    by_size = sorted(folder.glob("babel_imagenet*.json"), key=lambda path: -path.stat().st_size)
    if not by_size:
        raise UserError(f"{folder} holds no babel_imagenet*.json, the labels of each language")
    labels_path = by_size[0]
    tars = sorted((folder / "images").glob("*.tar")) if tars is None else list(tars)
    if not tars:
        raise UserError(f"{folder / 'images'} holds no tars; add ImageNet's images with .cls or .json")
    samples = read_samples(tars)
    class_of_image = np.array([_class_index(sample) for sample in samples])
    labels = {code.lower(): _labels(code, pair, labels_path) for code, pair in read_json_object(labels_path).items()}
    templates = _templates(folder, prompts, list(labels))
    tasks = {
        lang: [_task(*labels[lang], class_of_image, templates[lang], prompts, ties)]
        for lang in labels
        if lang in templates and np.isin(class_of_image, labels[lang][0]).any()
    }
    if not tasks:
        raise UserError(f"{labels_path}: no language has both a label of an image's class and prompts {prompts!r}")
    images = images_in_tars(samples, (sample.key for sample in samples), tars, root=None)
    contents = [fingerprint(labels_path, labels_path.parent), images.fingerprints, prompts, templates, ties]
    return build_dataset(name, images, tasks, contents)


def _labels(code: str, pair: Any, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return (class indices, labels) of a language, both of one length."""
    is_pair = isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, list) for part in pair)
    if not is_pair or len(pair[0]) != len(pair[1]):
        raise UserError(f"{path}: {code} must be two lists of one length, class indices and labels")
    indices, labels = pair
    for index in indices:
        if not isinstance(index, int) or not 0 <= index < NUM_IMAGENET_CLASSES:
            raise UserError(f"{path}: {code} names class {index!r}; it must be 0 to {NUM_IMAGENET_CLASSES - 1}")
    if len(set(indices)) < len(indices):
        raise UserError(f"{path}: {code} names a class twice; each class has one label")
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise UserError(f"{path}: {code} has the label {label!r}; it must be a text")
    return np.array(indices, np.int64), labels


def _class_index(sample: Sample) -> int:
    if "cls" in sample.others:
        text = sample.others["cls"].decode("ascii", "replace")
    elif "json" in sample.others:
        record = parse_record(sample.others["json"], ("class_index",), (), f"{sample.where}.json")
        text = str(record["class_index"])
    else:
        raise UserError(f"{sample.where} has neither .cls nor .json; add one with the image's class index")
    return parse_index(text, NUM_IMAGENET_CLASSES, sample.where)


def _templates(folder: Path, prompts: Prompts, codes: Sequence[str]) -> dict[str, list[str]]:
    """Return the templates of each language that has some of this kind."""
    if prompts == "none":
        return {code: ["{}"] for code in codes}
    if prompts == "english":
        return dict.fromkeys(codes, imagenet_names().templates)
    path = folder / "nllb_dist13b_prompts.json"
    translated = read_json_object(path)
    for code, templates in translated.items():
        if not is_texts(templates):
            raise UserError(f"{path}: {code} is {templates!r}; it must be a list of templates")
    return {code.lower(): with_places(templates, path) for code, templates in translated.items()}


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
    if ties == "first":
        names = np.array(labels, dtype=object)
        class_of_label = np.arange(len(labels))
    class_of_index = np.full(NUM_IMAGENET_CLASSES, -1)
    class_of_index[indices] = class_of_label
    image_idx = np.flatnonzero(class_of_index[class_of_image] >= 0)
    return Classification(
        class_names=[[name] for name in names],
        templates=templates,
        target=class_of_index[class_of_image[image_idx]],
        image_idx=image_idx,
        concepts=dict(zip(indices.tolist(), class_of_label.tolist(), strict=True)),
        protocol={
            "prompts": prompts,
            "templates": len(templates),
            "equal_labels": "apart" if ties == "first" else "one class",
        },
    )
