"""Names of classes and templates: OpenAI's for ImageNet, and other languages' from FOLDER/languages.json.

    {LANG: {"classes": [NAME or [SYNONYM, ...], ...], "templates": ["... {} ...", ...]}}

Classes are in the dataset's order; `templates` is optional (default: only the name).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from worldclip.core.errors import require
from worldclip.evaluate.datasets.common.text_files import read_json, read_lines

PLAIN_TEMPLATE = ["a photo of a {}."]
NUM_IMAGENET_CLASSES = 1000


class Names(NamedTuple):
    """The names of a dataset's classes in one language."""

    classes: list[list[str]]
    """The synonyms of each class, at least one."""
    templates: list[str]
    """Sentences with `{}` in place of the name."""


def in_languages(english: Names, folder: Path) -> dict[str, Names]:
    """Return the names by language: English, and those of FOLDER/languages.json.

    Raises ValueError where a language names more or fewer classes than English.
    """
    names = {"en": english}
    path = folder / "languages.json"
    if path.exists():
        for lang, record in read_json(path).items():
            classes: list[list[str]] = []
            for name in record["classes"]:
                synonyms = [name] if isinstance(name, str) else [*name]
                if synonyms and all(map(str.strip, synonyms)):
                    classes.append(synonyms)
            if not len(classes) == len(record["classes"]) == len(english.classes):
                raise ValueError(f"{path}: {lang} must name each of the {len(english.classes)} classes")
            names[lang] = Names(classes, with_places(record.get("templates", ["{}"]), path))
    return names


def with_places(templates: Any, path: Path) -> list[str]:
    """Return templates with `{}` for the name, which may be written `{c}`.

    Raises ValueError for anything but a list of texts, and for a template without a place for the name: it would name
    all classes alike.
    """
    if not isinstance(templates, list) or not templates or not all(isinstance(text, str) for text in templates):
        raise ValueError(f"{path}: templates must be a list of sentences: {templates!r}")
    places = []
    for template in templates:
        place = template.replace("{c}", "{}")
        if "{}" not in place:
            raise ValueError(f"{path}: each template must have {{c}} or {{}} in place of the name: {templates}")
        places.append(place)
    return places


def read_class_list(path: Path) -> list[list[str]]:
    """Return the names of a text file, one class per line.  Raises ValueError for a blank line, which names none."""
    classes = []
    for number, name in enumerate(read_lines(path), 1):
        if not name.strip():
            raise ValueError(f"{path}: line {number} is blank; each line names a class")
        classes.append([name])
    return classes


def read_templates(path: Path) -> list[str]:
    """Return the templates of a text file, one per line; `{c}` and `{}` stand for the name."""
    return with_places(list(filter(str.strip, read_lines(path))), path)


def imagenet_names() -> Names:
    """Return OpenAI's names of ImageNet's 1,000 classes and their 80 templates, from open_clip."""
    open_clip = require("open_clip", extra="eval")
    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    return Names([[name] for name in open_clip.IMAGENET_CLASSNAMES], templates)


def imagenet_index() -> dict[str, int]:
    """Return {WordNet id: class index} of ImageNet-1k, from timm (which open_clip requires)."""
    info = require("timm.data", extra="eval").ImageNetInfo()
    return {info.index_to_label_name(idx): idx for idx in range(info.num_classes())}
