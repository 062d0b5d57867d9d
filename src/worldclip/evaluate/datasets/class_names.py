"""Names of classes and templates in other languages, from a JSON of the user's, and OpenAI's for ImageNet.

    {LANG: {"classes": [NAME or [SYNONYM, ...], ...], "templates": ["... {} ...", ...]}}

in the order of the data set's classes; `templates` may be left out (the name alone).  It lies in the data set's folder
as languages.json, or anywhere: evaluate.class_names = { pets = "names/pets.json" }.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError, require

Names = tuple[list[list[str]], list[str]]
"""The synonyms of each class, and templates with `{}` where they go."""

NUM_IMAGENET_CLASSES = 1000


def name_files(folder: Path, names_path: Path | None) -> list[Path]:
    """FOLDER/languages.json and the file given, as far as they are there; of a language in both the latter counts."""
    return [path for path in (folder / "languages.json", names_path) if path is not None and path.exists()]


def other_languages(paths: Sequence[Path], num_classes: int) -> dict[str, Names]:
    """Names by language from those of `paths` that are there, later ones count.  UserError for wrong counts."""
    found: dict[str, Names] = {}
    for path in paths:
        for lang, record in read_json_record(path).items():
            found[lang] = _names(lang, record, num_classes, path)
    return found


def _names(lang: str, record: Any, num_classes: int, path: Path) -> Names:
    if not isinstance(record, dict) or not isinstance(record.get("classes"), list):
        raise UserError(f'{path}: {lang} has no "classes"; it is a list with the names of each class')
    classes = [[name] if isinstance(name, str) else name for name in record["classes"]]
    if wrong := [names for names in classes if not _is_texts(names)]:
        raise UserError(f"{path}: {lang} calls a class {wrong[0]!r}; a class has a name or a list of names")
    if len(classes) != num_classes:
        raise UserError(f"{path}: {lang} has {len(classes)} classes, and the data set has {num_classes}")
    if not all(classes):
        raise UserError(f"{path}: {lang} has no name for class {[bool(names) for names in classes].index(False)}")
    templates = record.get("templates", ["{}"])
    if not _is_texts(templates):
        raise UserError(f"{path}: {lang} has the templates {templates!r}; they are a list of texts")
    check_templates(templates, path)
    return classes, templates


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def check_templates(templates: Sequence[str], path: Path) -> None:
    if not templates:
        raise UserError(f"{path} has no template; `{{}}` alone takes the names as they are")
    if without := [template for template in templates if "{}" not in template]:
        raise UserError(f"{path}: {without[0]!r} has no place for the class; write {{c}} or {{}} where it goes")


def imagenet_names() -> Names:
    """OpenAI's names of ImageNet's 1,000 classes and their 80 templates, from open_clip."""
    open_clip = require("open_clip", extra="eval")
    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    return [[name] for name in open_clip.IMAGENET_CLASSNAMES], templates


def imagenet_index() -> dict[str, int]:
    """WordNet id -> class index of ImageNet-1k, from timm (which comes with open_clip)."""
    info = require("timm.data", extra="eval").ImageNetInfo()
    return {info.index_to_label_name(idx): idx for idx in range(info.num_classes())}


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
