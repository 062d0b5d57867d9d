"""Babel-ImageNet: ImageNet's classes in up to 298 languages, each with the classes that it has names for.

    FOLDER/babel_imagenet*.json           {CODE: [[class index, ...], [label, ...]]}; the largest file
    FOLDER/nllb_dist13b_prompts.json      {CODE: [template, ...]}, for prompts = "nllb"
    FOLDER/images/*.tar                   ImageNet images with .cls, or .json that has `class_index`

An image is asked in a language only if its class has a label there.  Prompts `none`: the label alone; `english`:
OpenAI's 80 templates around it; `nllb`: their translations, for the languages that have them.  Which is meant stands
in the record, as the paper's averages over 280 languages do not say theirs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError, require
from worldclip.evaluate.datasets.class_names import check_templates, read_json_record
from worldclip.evaluate.datasets.files import Sample, check_fields, read_samples, reader
from worldclip.evaluate.tasks import Classification, Dataset, Task

Prompts = Literal["none", "english", "nllb"]
NUM_CLASSES = 1000
PROMPTS_FILE = "nllb_dist13b_prompts.json"


def load(name: str, folder: Path, prompts: Prompts = "none", tars: Sequence[Path] | None = None) -> Dataset:
    """The data set in `folder`; its images from `tars` where they lie elsewhere.

    Languages are the Wikipedia codes of the file in lower case, unmerged: zh_yue has labels of its own.
    """
    labels_path = _labels_path(folder)
    tars = sorted((folder / "images").glob("*.tar")) if tars is None else list(tars)
    if not tars:
        raise UserError(f"{folder / 'images'} holds no tars; it holds ImageNet's images with .cls or .json")
    samples = read_samples(tars)
    class_of_image = np.array([_class_index(sample) for sample in samples])
    labels = {code.lower(): _labels(code, value, labels_path) for code, value in read_json_record(labels_path).items()}
    templates = _templates(folder, prompts, list(labels))
    images = [fingerprint(path, path.parent) for path in tars]
    asked = [lang for lang in labels if lang in templates and np.isin(class_of_image, labels[lang][0]).any()]
    if not asked:
        raise UserError(f"{labels_path}: no language has both a label of an image's class and prompts {prompts!r}")
    return Dataset(
        name=name,
        digest=digest([fingerprint(labels_path, labels_path.parent), images, prompts, templates]),
        images_digest=digest(images),
        image_keys=[sample.key for sample in samples],
        read_images=reader(samples),
        languages=tuple(asked),
        tasks=lambda lang: _tasks(*labels[lang], class_of_image, templates[lang], prompts),
    )


def _labels_path(folder: Path) -> Path:
    found = sorted(folder.glob("babel_imagenet*.json"), key=lambda path: -path.stat().st_size)
    if not found:
        raise UserError(f"{folder} holds no babel_imagenet*.json; it has the labels of each language")
    return found[0]


def _labels(code: str, value: Any, path: Path) -> tuple[np.ndarray, list[str]]:
    """(class indices, labels) of a language."""
    is_pair = isinstance(value, list) and len(value) == 2 and all(isinstance(part, list) for part in value)
    if not is_pair or len(value[0]) != len(value[1]):
        raise UserError(f"{path}: {code} is not two lists of one length, class indices and labels")
    if wrong := [index for index in value[0] if not isinstance(index, int) or not 0 <= index < NUM_CLASSES]:
        raise UserError(f"{path}: {code} names class {wrong[0]!r}; ImageNet's are 0 to {NUM_CLASSES - 1}")
    if len(set(value[0])) < len(value[0]):
        raise UserError(f"{path}: {code} names a class twice; each has one label")
    if wrong := [label for label in value[1] if not isinstance(label, str) or not label.strip()]:
        raise UserError(f"{path}: {code} has the label {wrong[0]!r}; it must be a text")
    return np.array(value[0], np.int64), value[1]


def _class_index(sample: Sample) -> int:
    where = f"{sample.tar}: {sample.key}"
    if "cls" in sample.others:
        text = sample.others["cls"].decode("ascii", "replace").strip()
    elif "json" in sample.others:
        text = str(_json_of(sample.others["json"], f"{where}.json").get("class_index"))
    else:
        raise UserError(f"{where} has neither .cls nor .json; one of them says the image's class index")
    if not text.isdigit() or int(text) >= NUM_CLASSES:
        raise UserError(f"{where} is of class {text!r}; it must be an index from 0 to {NUM_CLASSES - 1}")
    return int(text)


def _json_of(content: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    check_fields(record, ("class_index",), (), where)
    return dict(record)


def _templates(folder: Path, prompts: Prompts, codes: Sequence[str]) -> dict[str, list[str]]:
    """Templates of the languages that have some of this kind."""
    if prompts == "none":
        return {code: ["{}"] for code in codes}
    if prompts == "english":
        english = [template("{}") for template in require("open_clip", extra="eval").OPENAI_IMAGENET_TEMPLATES]
        return dict.fromkeys(codes, english)
    found = read_json_record(folder / PROMPTS_FILE)
    for code, templates in found.items():
        if not isinstance(templates, list) or not all(isinstance(template, str) for template in templates):
            raise UserError(f"{folder / PROMPTS_FILE}: {code} is {templates!r}; it is a list of templates")
        check_templates(templates, folder / PROMPTS_FILE)
    return {code.lower(): templates for code, templates in found.items()}


def _tasks(
    indices: np.ndarray, labels: list[str], class_of_image: np.ndarray, templates: list[str], prompts: Prompts
) -> list[Task]:
    """Labels that are equal in a language are one class: no model can tell them apart (the record says so)."""
    names, class_of_label = np.unique(np.array(labels, dtype=object), return_inverse=True)
    position = np.full(NUM_CLASSES, -1)
    position[indices] = class_of_label
    image_idx = np.flatnonzero(position[class_of_image] >= 0)
    return [
        Classification(
            class_names=[[name] for name in names],
            templates=templates,
            target=position[class_of_image[image_idx]],
            image_idx=image_idx,
            concepts=dict(zip(indices.tolist(), class_of_label.tolist(), strict=True)),
            protocol={"prompts": prompts, "templates": len(templates), "equal_labels": "one class"},
        )
    ]
