"""Flickr30k and COCO with Karpathy's splits: what most papers mean by the 1k and the 5k test set.

FOLDER/dataset_flickr30k.json or dataset_coco.json (the archive holds both; a dataset of the catalog takes its own)
    {"images": [{"filename": "0001.jpg", "split": "test", "sentences": [{"raw": "..."}, ...]}, ...]}
FOLDER/images/   the images, in folders (val2014/) or not
"""

from __future__ import annotations

from pathlib import Path

from worldclip.core.artifacts import Json, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common.build import retrieval_dataset
from worldclip.evaluate.datasets.common.images import images_by_stem
from worldclip.evaluate.datasets.common.text_files import check_fields, read_json_object
from worldclip.evaluate.tasks import Dataset

SPLIT = "test"
FILES = {"mscoco": "dataset_coco.json", "flickr30k": "dataset_flickr30k.json"}  # file of each dataset in the catalog


def load(name: str, folder: Path, captions: str = "all_captions") -> Dataset:
    """Return the test split in `folder`."""
    paths = [folder / FILES[name]] if name in FILES else sorted(folder.glob("dataset_*.json"))
    if len(paths) != 1:
        raise UserError(f"{folder} holds {len(paths)} files dataset_*.json; it must hold one, with Karpathy's splits")
    path = paths[0]
    records = [record for record in _read_images(path) if record["split"] == SPLIT]
    if not records:
        raise UserError(f"{path} has no image whose split is {SPLIT!r}")
    images = images_by_stem(folder, [Path(record["filename"]).stem for record in records], path)
    pairs = [(i, sentence["raw"].strip()) for i, record in enumerate(records) for sentence in record["sentences"]]
    contents = [images.fingerprints, fingerprint(path, folder), captions]
    return retrieval_dataset(name, images, {"en": pairs}, captions, contents)


def _read_images(path: Path) -> list[Json]:
    records = read_json_object(path).get("images")
    if not isinstance(records, list):
        raise UserError(f'{path} has no list "images"; it must hold a record per image')
    for i, record in enumerate(records):
        check_fields(record, ("filename", "split", "sentences"), ("filename",), f"{path}: image {i}")
        sentences = record["sentences"] or [{}]
        for sentence in sentences if isinstance(sentences, list) else [sentences]:
            check_fields(sentence, ("raw",), ("raw",), f"{path}: image {i}: a sentence")
    return records
