"""Data sets in CLIP_benchmark's WebDataset layout, which covers SLIP's and DataComp's suites.

FOLDER/classnames.txt                          one class a line, in the order of the labels
FOLDER/zeroshot_classification_templates.txt   one a line, {c} or {} stands for the class
FOLDER/dataset_type.txt                        `retrieval` where the samples have captions (.txt, one a line)
FOLDER/test/nshards.txt, FOLDER/test/<i>.tar   images with .cls (a class index) or .txt
FOLDER/languages.json                          ours, optional: {lang: {"classes": [name or [synonyms], ...],
                                               "templates": ["... {} ..."]}} for more languages than `en`
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.errors import UserError
from worldclip.evaluate.datasets.files import Sample, read_lines, read_samples, reader
from worldclip.evaluate.tasks import Classification, Dataset, Retrieval, Task
from worldclip.formats import digest, fingerprint

SPLIT = "test"


def load(name: str, folder: Path) -> Dataset:
    """The data set in `folder`.  UserError for each way in which the layout is wrong."""
    tars = _tars(folder)
    samples = read_samples(tars)
    if not samples:
        raise UserError(f"{folder / SPLIT}: its tars hold no image")
    type_path = folder / "dataset_type.txt"
    is_retrieval = type_path.exists() and read_lines(type_path, "the kind of the data set")[0].strip() == "retrieval"
    texts = sorted(path for path in folder.iterdir() if path.suffix in (".txt", ".json"))
    files = [fingerprint(path, folder) for path in [*tars, *texts]]
    by_language: dict[str, list[Task]]
    by_language = {"en": [_retrieval(folder, samples)]} if is_retrieval else _classifications(folder, samples)
    return Dataset(
        name=name,
        digest=digest(files),
        image_keys=[sample.key for sample in samples],
        read_images=reader(samples),
        languages=tuple(by_language),
        tasks=by_language.__getitem__,
    )


def _tars(folder: Path) -> list[Path]:
    path = folder / SPLIT / "nshards.txt"
    lines = read_lines(path, "the number of tars of the split")
    if not lines[0].strip().isdigit() or int(lines[0]) < 1:
        raise UserError(f"{path} says {lines[0]!r}; it must be the number of tars, at least 1")
    tars = [folder / SPLIT / f"{i}.tar" for i in range(int(lines[0]))]
    if missing := [tar.name for tar in tars if not tar.exists()]:
        raise UserError(f"{path} says {len(tars)} tars, and {', '.join(missing[:5])} of {folder / SPLIT} are missing")
    return tars


def _classifications(folder: Path, samples: Sequence[Sample]) -> dict[str, list[Task]]:
    names = {"en": _english(folder)} | _other_languages(folder)
    num_classes = len(names["en"][0])
    target = np.array([_label(sample, num_classes) for sample in samples])
    image_idx = np.arange(len(samples))
    return {
        lang: [
            Classification(
                class_names=classes,
                templates=templates,
                target=target,
                image_idx=image_idx,
                protocol={"templates": len(templates)},
            )
        ]
        for lang, (classes, templates) in names.items()
    }


def _english(folder: Path) -> tuple[list[list[str]], list[str]]:
    classes = read_lines(folder / "classnames.txt", "the names of the classes, one a line")
    path = folder / "zeroshot_classification_templates.txt"
    templates = [line.replace("{c}", "{}") for line in read_lines(path, "the templates, one a line") if line.strip()]
    _check_templates(templates, path)
    return [[name] for name in classes], templates


def _other_languages(folder: Path) -> dict[str, tuple[list[list[str]], list[str]]]:
    path = folder / "languages.json"
    if not path.exists():
        return {}
    num_classes = len(read_lines(folder / "classnames.txt", "the names of the classes, one a line"))
    found = {}
    for lang, record in read_json_record(path).items():
        classes = [[name] if isinstance(name, str) else list(name) for name in record["classes"]]
        if len(classes) != num_classes:
            raise UserError(f"{path}: {lang} has {len(classes)} classes, and classnames.txt has {num_classes}")
        templates = record.get("templates", ["{}"])
        _check_templates(templates, path)
        found[lang] = (classes, templates)
    return found


def read_json_record(path: Path) -> dict[str, Any]:
    """A JSON object; UserError where the file is missing or holds none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} holds a {type(record).__name__}; it must be a JSON object")
    return record


def _check_templates(templates: Sequence[str], path: Path) -> None:
    if not templates:
        raise UserError(f"{path} has no template; `{{}}` alone takes the names as they are")
    if without := [template for template in templates if "{}" not in template]:
        raise UserError(f"{path}: {without[0]!r} has no place for the class; write {{c}} or {{}} where it goes")


def _label(sample: Sample, num_classes: int) -> int:
    where = f"{sample.tar}: {sample.key}"
    if "cls" not in sample.others:
        raise UserError(f"{where} has no .cls; it holds the image's class index")
    text = sample.others["cls"].decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) >= num_classes:
        raise UserError(f"{where}.cls says {text!r}; it must be a class index, 0 to {num_classes - 1}")
    return int(text)


def _retrieval(folder: Path, samples: Sequence[Sample]) -> Retrieval:
    texts: list[str] = []
    pair_image: list[int] = []
    for i, sample in enumerate(samples):
        if "txt" not in sample.others:
            raise UserError(f"{sample.tar}: {sample.key} has no .txt; it holds the image's captions, one a line")
        captions = [line for line in sample.others["txt"].decode("utf-8").split("\n") if line.strip()]
        texts += captions
        pair_image += [i] * len(captions)
    if not texts:
        raise UserError(f"{folder / SPLIT}: not one caption in its tars")
    return Retrieval(
        texts=texts,
        pair_image=np.array(pair_image),
        pair_text=np.arange(len(texts)),
        image_idx=np.arange(len(samples)),
        protocol={"captions": "all_captions"},
    )
