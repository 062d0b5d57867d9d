"""Any tar pool with captions, e.g. held-out shards of a training pool: retrieval among its pairs.

    FOLDER/**/*.tar   images with .txt (one caption) or .json ("texts", "text", "caption" or "TEXT"; their languages in
                      "lang_truth", as many as texts)

Texts whose language is not stated are asked as `und`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.files import Sample, read_samples, reader, utf8
from worldclip.evaluate.datasets.webdataset import retrieval_task
from worldclip.evaluate.tasks import NO_LANGUAGE, Dataset
from worldclip.pool.records import DEFAULT_FIELDS, TRUTH_FIELD, parse_record


def load(name: str, folder: Path, captions: str = "all_captions") -> Dataset:
    """The pairs below `folder`.  UserError where there are no tars, images or captions, or counts do not fit."""
    tars = sorted(folder.rglob("*.tar"))
    if not tars:
        raise UserError(f"{folder} holds no tars; the layout pool is of tars with images and captions")
    samples = read_samples(tars)
    if not samples:
        raise UserError(f"{folder}: its tars hold no image")
    pairs: dict[str, list[tuple[int, str]]] = {}
    for i, sample in enumerate(samples):
        for lang, text in _texts(sample):
            pairs.setdefault(lang, []).append((i, text))
    if not pairs:
        raise UserError(f"{folder}: not one caption in its tars; they stand in .txt or .json beside the images")
    images = [fingerprint(path, folder) for path in tars]
    return Dataset(
        name=name,
        digest=digest([images, captions]),
        images_digest=digest(images),
        image_keys=[f"{sample.tar.relative_to(folder).with_suffix('')}/{sample.key}" for sample in samples],
        read_images=reader(samples),
        languages=tuple(sorted(pairs)),
        tasks=lambda lang: [
            retrieval_task(
                [text for _, text in pairs[lang]], np.array([i for i, _ in pairs[lang]]), len(samples), captions
            )
        ],
    )


def _texts(sample: Sample) -> list[tuple[str, str]]:
    """(language, text) of each text that is not empty."""
    where = f"{sample.tar}: {sample.key}"
    if "txt" in sample.others:
        texts: Sequence[str] = [utf8(sample.others["txt"], f"{where}.txt")]
        langs: Sequence[str] = [NO_LANGUAGE]
    elif "json" in sample.others:
        record = parse_record(sample.others["json"])
        if not isinstance(record, dict):
            raise UserError(f"{where}.json: {record}")
        found: Any = next((record[field] for field in DEFAULT_FIELDS if field in record), [])
        texts = [found] if isinstance(found, str) else list(found)
        langs = record.get(TRUTH_FIELD, [NO_LANGUAGE] * len(texts))
        langs = [langs] * len(texts) if isinstance(langs, str) else langs
        if len(langs) != len(texts):
            raise UserError(f"{where}.json has {len(texts)} texts and {len(langs)} of {TRUTH_FIELD}; they go in pairs")
    else:
        return []
    return [(lang, text.strip()) for lang, text in zip(langs, texts, strict=True) if text.strip()]
