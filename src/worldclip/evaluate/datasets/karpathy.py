"""Flickr30k and COCO with Karpathy's splits: what most papers mean by the 1k and the 5k test set.

FOLDER/dataset_flickr30k.json or dataset_coco.json (the archive holds both; a data set of the catalog takes its own)
    {"images": [{"filename": "0001.jpg", "split": "test", "sentences": [{"raw": "..."}, ...]}, ...]}
FOLDER/images/   the images, in folders (val2014/) or not
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.class_names import read_json_record
from worldclip.evaluate.datasets.files import check_fields, file_reader, find_images
from worldclip.evaluate.datasets.webdataset import retrieval_task
from worldclip.evaluate.tasks import Dataset

SPLIT = "test"
FILES = {"mscoco": "dataset_coco.json", "flickr30k": "dataset_flickr30k.json"}  # of the catalog's data sets


def load(name: str, folder: Path, captions: str = "all_captions") -> Dataset:
    """The test split in `folder`.  UserError for each way in which the layout is wrong."""
    path = _splits_path(name, folder)
    records = [record for record in _records(path) if record["split"] == SPLIT]
    if not records:
        raise UserError(f"{path} has no image whose split is {SPLIT!r}")
    keys = [Path(record["filename"]).stem for record in records]
    paths = find_images(folder / "images", keys, path)
    texts = [sentence["raw"].strip() for record in records for sentence in record["sentences"]]
    image_of_text = np.repeat(np.arange(len(records)), [len(record["sentences"]) for record in records])
    images = [fingerprint(image, folder) for image in paths]
    return Dataset(
        name=name,
        digest=digest([images, fingerprint(path, folder), captions]),
        images_digest=digest(images),
        image_keys=keys,
        read_images=file_reader(paths),
        languages=("en",),
        tasks=lambda lang: [retrieval_task(texts, image_of_text, len(paths), captions)],
    )


def _splits_path(name: str, folder: Path) -> Path:
    if name in FILES:
        return folder / FILES[name]
    found = sorted(folder.glob("dataset_*.json"))
    if len(found) != 1:
        raise UserError(f"{folder} holds {len(found)} files dataset_*.json; there must be one, with Karpathy's splits")
    return found[0]


def _records(path: Path) -> list[dict[str, Any]]:
    records = read_json_record(path).get("images")
    if not isinstance(records, list):
        raise UserError(f'{path} has no list "images"; it holds a record for each image')
    for i, record in enumerate(records):
        check_fields(record, ("filename", "split", "sentences"), ("filename",), f"{path}: image {i}")
        for sentence in record["sentences"] or [{}]:
            check_fields(sentence, ("raw",), ("raw",), f"{path}: image {i}: a sentence")
    return records
