"""Retrieval in many languages from a captions.jsonl and a folder of images: the layout of Crossmodal-3600.

    FOLDER/captions.jsonl   one image a line: {"image/key": "0001", "image/locale": "sw",
                            "<lang>": {"caption": ["...", "..."]}, ...}
    FOLDER/images/          0001.jpg, ...; the stem is the image/key

The locale says where the image was taken (few-shot geo-localisation predicts it; it may be left out).
Protocol all_captions: image-to-text counts any caption of the image, and every caption is a query of text-to-image.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.codes import our_code
from worldclip.evaluate.datasets.files import file_reader, find_images, read_lines
from worldclip.evaluate.datasets.webdataset import retrieval_task
from worldclip.evaluate.retrieval import Protocol
from worldclip.evaluate.tasks import Dataset, Retrieval


def load(name: str, folder: Path, protocol: Protocol = "all_captions") -> Dataset:
    """The data set in `folder`.  UserError for captions of images that are not there, and for a wrong layout."""
    path = folder / "captions.jsonl"
    records = [_record(line, f"{path}:{number}") for number, line in enumerate(read_lines(path, "captions"), 1)]
    keys = [record["image/key"] for record in records]
    if len(set(keys)) < len(keys):
        twice = next(key for key, times in Counter(keys).items() if times > 1)
        raise UserError(f"{path}: image/key {twice!r} stands there twice; each image has one line")
    paths = find_images(folder / "images", keys, path)
    captions = _by_language(records, path)
    if not captions:
        raise UserError(f'{path} has no caption; a line is {{"image/key": ..., "<lang>": {{"caption": [...]}}}}')
    images = [fingerprint(image, folder) for image in paths]
    return Dataset(
        name=name,
        digest=digest([fingerprint(path, folder), images, protocol]),
        images_digest=digest(images),
        image_keys=keys,
        read_images=file_reader(paths),
        languages=tuple(captions),
        tasks=lambda lang: [_task(captions[lang], len(keys), protocol)],
        labels={"country": [record.get("image/locale", "") for record in records]},
    )


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("image/key"), str):
        raise UserError(f'{where} has no "image/key"; it names the image whose captions the line holds')
    return record


def _by_language(records: list[dict[str, Any]], path: Path) -> dict[str, list[tuple[int, str]]]:
    """our code -> (image, caption), in the file's order; empty captions are no captions."""
    found: dict[str, list[tuple[int, str]]] = {}
    for i, record in enumerate(records):
        for code, value in record.items():
            if isinstance(value, dict) and isinstance(value.get("caption"), list):
                if wrong := [text for text in value["caption"] if not isinstance(text, str)]:
                    raise UserError(f"{path}: image {record['image/key']} has the {code} caption {wrong[0]!r}, no text")
                pairs = [(i, text) for text in value["caption"] if text.strip()]
                found.setdefault(our_code(code), []).extend(pairs)
    return {lang: pairs for lang, pairs in sorted(found.items()) if pairs}


def _task(pairs: list[tuple[int, str]], num_images: int, protocol: Protocol) -> Retrieval:
    return retrieval_task([text for _, text in pairs], np.array([i for i, _ in pairs]), num_images, protocol)
