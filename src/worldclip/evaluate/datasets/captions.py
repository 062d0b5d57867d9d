"""Retrieval in many languages from a captions.jsonl and a folder of images: the layout of Crossmodal-3600.

    FOLDER/captions.jsonl   one image a line: {"image/key": "0001", "<lang>": {"caption": ["...", "..."]}, ...}
    FOLDER/images/          0001.jpg, ...; the stem is the image/key

Protocol all_captions: image-to-text counts any caption of the image, and every caption is a query of text-to-image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from worldclip import languages
from worldclip.errors import UserError
from worldclip.evaluate.datasets.files import file_reader, images_by_stem, read_lines
from worldclip.evaluate.retrieval import Protocol, first_captions
from worldclip.evaluate.tasks import Dataset, Retrieval, Task
from worldclip.formats import digest, fingerprint

# Codes of Crossmodal-3600 that are not ours.
OUR_CODES = {"fil": "tl", "quz": "qu", "iw": "he", "in": "id", "nb": "no"}


def load(name: str, folder: Path, protocol: Protocol = "all_captions") -> Dataset:
    """The data set in `folder`.  UserError for captions of images that are not there, and for a wrong layout."""
    path = folder / "captions.jsonl"
    records = [_record(line, f"{path}:{number}") for number, line in enumerate(read_lines(path, "captions"), 1)]
    keys = [record["image/key"] for record in records]
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise UserError(f"{path}: image/key {twice!r} stands there twice; each image has one line")
    there = images_by_stem(folder / "images")
    if missing := [key for key in keys if key not in there]:
        raise UserError(
            f"{path} has captions of {len(missing)} images that {folder / 'images'} lacks: "
            f"{', '.join(missing[:5])}; recall among fewer images does not compare, so put them there"
        )
    captions = _by_language(records)
    if not captions:
        raise UserError(f'{path} has no caption; a line is {{"image/key": ..., "<lang>": {{"caption": [...]}}}}')
    paths = [there[key] for key in keys]
    contents = [fingerprint(path, folder), *(fingerprint(image, folder) for image in paths), protocol]
    return Dataset(
        name=name,
        digest=digest(contents),
        image_keys=keys,
        read_images=file_reader(paths),
        languages=tuple(captions),
        tasks=lambda lang: _tasks(captions[lang], len(keys), protocol),
    )


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("image/key"), str):
        raise UserError(f'{where} has no "image/key"; it names the image whose captions the line holds')
    return record


def _by_language(records: list[dict[str, Any]]) -> dict[str, list[tuple[int, str]]]:
    """our code -> (image, caption), in the file's order; empty captions are no captions."""
    found: dict[str, list[tuple[int, str]]] = {}
    for i, record in enumerate(records):
        for code, value in record.items():
            if isinstance(value, dict) and isinstance(value.get("caption"), list):
                pairs = [(i, text) for text in value["caption"] if text.strip()]
                found.setdefault(our_code(code), []).extend(pairs)
    return {lang: pairs for lang, pairs in sorted(found.items()) if pairs}


def our_code(code: str) -> str:
    """A data set's language code as ours; one that our table lacks stays as it is."""
    code = code.lower().replace("-", "_")
    if code in OUR_CODES:
        return OUR_CODES[code]
    try:
        return languages.from_wikipedia(code)
    except KeyError:
        return code


def _tasks(pairs: list[tuple[int, str]], num_images: int, protocol: Protocol) -> list[Task]:
    pair_image = np.array([image for image, _ in pairs])
    texts = [text for _, text in pairs]
    if protocol == "first_caption":
        first = first_captions(pair_image)
        pair_image, texts = pair_image[first], [texts[i] for i in first]
    return [
        Retrieval(
            texts=texts,
            pair_image=pair_image,
            pair_text=np.arange(len(texts)),
            image_idx=np.arange(num_images),
            protocol={"captions": protocol},
        )
    ]
