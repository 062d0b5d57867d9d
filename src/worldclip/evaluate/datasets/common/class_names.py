"""Names of classes and templates: OpenAI's for ImageNet, and other languages' from a JSON file of the user.

    {LANG: {"classes": [NAME or [SYNONYM, ...], ...], "templates": ["... {} ...", ...]}}

Classes are in the dataset's order; `templates` is optional (default: only the name).  The file is languages.json in
the dataset's folder, or any file: evaluate.class_names = { pets = "names/pets.json" }.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worldclip.core.errors import UserError, require
from worldclip.evaluate.datasets.common.text_files import is_texts, read_json_object, read_lines

PLAIN_TEMPLATE = ["a photo of a {}."]
NUM_IMAGENET_CLASSES = 1000


class Names(NamedTuple):
    """The names of a dataset's classes in one language."""

    classes: list[list[str]]
    """The synonyms of each class, at least one."""
    templates: list[str]
    """Sentences with `{}` in place of the name."""


def in_languages(english: Names, folder: Path, names_path: Path | None) -> tuple[dict[str, Names], list[Path]]:
    """Return the names by language and the files that they are from.

    These are FOLDER/languages.json and `names_path`, as far as they exist; the latter wins for a language in both.
    Raises UserError if a language names more or fewer classes than English.
    """
    files = [path for path in (folder / "languages.json", names_path) if path is not None and path.exists()]
    names = {"en": english}
    for path in files:
        for lang, record in read_json_object(path).items():
            names[lang] = _names(lang, record, len(english.classes), path)
    return names, files


def _names(lang: str, record: Any, num_classes: int, path: Path) -> Names:
    if not isinstance(record, dict) or not isinstance(record.get("classes"), list):
        raise UserError(f'{path}: {lang} has no "classes"; it must be a list with the names of each class')
    classes = [[name] if isinstance(name, str) else name for name in record["classes"]]
    for names in classes:
        if not is_texts(names):
            raise UserError(f"{path}: {lang} names a class {names!r}; a class has a name or a list of names")
    if len(classes) != num_classes:
        raise UserError(f"{path}: {lang} has {len(classes)} classes; the dataset has {num_classes}")
    if [] in classes:
        raise UserError(f"{path}: {lang} has no name for class {classes.index([])}")
    templates = record.get("templates", ["{}"])
    if not is_texts(templates):
        raise UserError(f"{path}: {lang} has templates {templates!r}; they must be a list of texts")
    return Names(classes, with_places(templates, path))


def with_places(templates: Sequence[str], path: Path) -> list[str]:
    """Return templates with `{}` for the name, which may be written `{c}`.

    Raises UserError if there is no template, or one without a place for the name.
    """
    if not templates:
        raise UserError(f"{path} has no template; use `{{}}` to take the names unchanged")
    templates = [template.replace("{c}", "{}") for template in templates]
    for template in templates:
        if "{}" not in template:
            raise UserError(f"{path}: {template!r} has no place for the class; write {{c}} or {{}} there")
    return templates


def read_class_list(path: Path) -> list[list[str]]:
    """Return the names of a text file, one class per line."""
    return [[name] for name in read_lines(path, "the class names, one per line")]


def read_templates(path: Path) -> list[str]:
    """Return the templates of a text file, one per line; `{c}` and `{}` stand for the name."""
    lines = read_lines(path, "the templates, one per line")
    return with_places([line for line in lines if line.strip()], path)


def imagenet_names() -> Names:
    """Return OpenAI's names of ImageNet's 1,000 classes and their 80 templates, from open_clip."""
    open_clip = require("open_clip", extra="eval")
    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    return Names([[name] for name in open_clip.IMAGENET_CLASSNAMES], templates)


def imagenet_index() -> dict[str, int]:
    """Return {WordNet id: class index} of ImageNet-1k, from timm (which open_clip requires)."""
    info = require("timm.data", extra="eval").ImageNetInfo()
    return {info.index_to_label_name(idx): idx for idx in range(info.num_classes())}
